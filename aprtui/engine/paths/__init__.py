"""The paths by which an engine can come to the same numbers, and whether they do."""
