"""Alignment: which tokens, stages, rows and channels of two captures correspond."""
