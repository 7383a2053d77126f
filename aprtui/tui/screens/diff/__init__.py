"""The diff screen: two captures side by side."""
