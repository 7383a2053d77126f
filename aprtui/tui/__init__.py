"""The Textual app: screens, widgets and keys. Knows no kernel and no file format."""
