"""Lint: drift between contracts and what they name."""
