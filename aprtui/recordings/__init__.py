"""Recordings: every op that an engine executed, with its sources, parameters and output, whatever the architecture."""
