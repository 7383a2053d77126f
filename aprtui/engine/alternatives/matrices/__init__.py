"""Alternatives of matrix products: which weights are read, how they are decoded, what of the input is summed, and in
which types."""
