"""The results of a sweep for people."""
