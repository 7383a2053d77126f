"""Models in aprender's own format, `.apr` version 2, read as what a GGUF file of the same model would be."""
