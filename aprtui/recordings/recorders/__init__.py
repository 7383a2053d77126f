"""Recorders: engines that are run here, and every op of theirs written down."""
