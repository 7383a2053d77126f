"""The embedded model: a small Qwen2 trained on the standard library's source, and the scripts that made it."""
