"""Ranks of one model: what each holds of a stage put together, and what must be equal held against one another."""
