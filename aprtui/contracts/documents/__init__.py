"""Contract documents: YAML with positions, the reader, validation, and edits that keep comments."""
