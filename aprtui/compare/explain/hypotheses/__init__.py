"""What the error at a blamed stage looks like: signatures of common bugs, each held against the values."""

from aprtui.compare.explain.hypotheses.evidence import Evidence, Hypothesis, Support
from aprtui.compare.explain.hypotheses.registry import hypothesise

__all__ = ["Evidence", "Hypothesis", "Support", "hypothesise"]
