"""Words that verdicts, reasons and reports share."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """`count` with its noun: "1 stage", "2 stages"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def first_tokens(count: int) -> str:
    """The first `count` tokens, in words."""
    return "the first token" if count == 1 else f"the first {count} tokens"
