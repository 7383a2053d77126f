"""The backends: a file each, and one registry that everything else reads.

`--help` reads it too, so nothing here imports numpy before an engine is opened: types are imported for type checkers
alone, engines where they are opened.
"""
