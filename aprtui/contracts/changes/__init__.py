"""Changes of contracts: the difference between two versions, and promotion."""
