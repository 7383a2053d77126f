"""Engines: they evaluate the stage graph, hand stages out through taps, and generate tokens."""
