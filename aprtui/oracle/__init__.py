"""Captures by engines that nobody here wrote, to hold ours, and anybody's, against."""
