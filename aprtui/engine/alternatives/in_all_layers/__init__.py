"""Alternatives that code has in every layer if it has them in one."""
