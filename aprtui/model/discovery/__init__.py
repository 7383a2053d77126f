"""Models on this machine: where they lie, what they are called, which of them can be run."""
