"""Captures of other tools: their files, what the tensors in them are, and the capture that is written of them."""
