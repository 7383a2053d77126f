"""A long text walked once with statistics only: at which token numbers jump."""
