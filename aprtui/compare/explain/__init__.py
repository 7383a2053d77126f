"""Explanations of a comparison: injected or inherited error, the first place, hypotheses and hints."""
