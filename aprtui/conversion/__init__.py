"""A GGUF file against the Hugging Face folder that it was converted from."""
