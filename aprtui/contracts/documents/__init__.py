"""Contract documents: their records, the reader, the files on disk, and validation."""
