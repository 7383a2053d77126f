"""The ops of recordings, computed again in float64: a row each in `table.py`, functions by subject."""
