"""Words that verdicts, reasons and reports share."""

from __future__ import annotations

from aprtui.compare.metrics.measure import PairMetrics


def counted(count: int, noun: str) -> str:
    """`count` with its noun: "1 stage", "2 stages"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def first_tokens(count: int) -> str:
    """The first `count` tokens, in words."""
    return "the first token" if count == 1 else f"the first {count} tokens"


def alike_text(metrics: PairMetrics) -> str | None:
    """How many values are NaN or Inf alike on both sides, and so in no metric; None where there are none."""
    if not metrics.excluded:
        return None
    return f"{metrics.nan_both} NaN, {metrics.inf_both} Inf on both sides"
