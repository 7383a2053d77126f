"""Tests that need a GPU: `pytest tests/gpu` is all that has to be typed on a machine that has one."""
