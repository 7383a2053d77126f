"""Changes of contracts: the difference of two versions, and promotion."""
