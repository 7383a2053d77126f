"""Captures as files of other programs, and as one file."""
