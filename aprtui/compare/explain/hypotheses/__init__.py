"""What the error at a blamed stage looks like: signatures of common bugs, each held against the values."""

from aprtui.compare.explain.hypotheses.evidence import Hypothesis, StageEvidence, Support
from aprtui.compare.explain.hypotheses.registry import hypothesise

__all__ = ["Hypothesis", "StageEvidence", "Support", "hypothesise"]
