"""Metrics: numbers on a pair of stage tensors, computed in one pass."""
