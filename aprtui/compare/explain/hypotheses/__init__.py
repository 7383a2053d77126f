"""What the error at a blamed stage looks like: signatures of common bugs, each held against the values."""
