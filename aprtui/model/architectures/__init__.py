"""Architectures: a file each, and the list of them."""
