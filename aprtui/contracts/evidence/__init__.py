"""Evidence: its files, what it carries, how it is recorded, and when it is stale."""
