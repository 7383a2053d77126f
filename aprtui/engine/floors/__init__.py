"""Noise floors: what honest engines differ by at each stage, measured on the model and tokens in question."""
