"""Bugs as people who port an engine make them, written by hand: each changes how a node is computed."""
