"""Sweeps: models × prompts × engines captured and judged on Dask, and what came of it (docs/sweep.md)."""
