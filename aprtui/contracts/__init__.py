"""Contracts: YAML documents that say what must hold, what was proved, and by what evidence."""
