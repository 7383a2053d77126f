"""Two model files against each other: metadata, and every tensor by its bytes, then by its values."""
