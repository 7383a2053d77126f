"""Causes in words: every report and the diff screen say the same."""

from __future__ import annotations

from collections.abc import Collection

from aprtui.compare.comparison import Cause, Comparison
from aprtui.compare.wording import counted, listed, number_text, ranges
from aprtui.trace.graph import Node

_NAMED = 2
"""Causes beside the first that a headline names."""


def where_words(cause: Cause) -> str:
    """The stages that are computed so."""
    names = listed(dict.fromkeys(node.stage for node in cause.nodes))
    layers = sorted({node.layer for node in cause.nodes if node.layer is not None})
    if cause.everywhere:
        return f"every layer {names}"
    where = f"layer{'s' if len(layers) > 1 else ''} {ranges(layers)} " if layers else ""
    return f"{where}{names}"


def cause_sentence(cause: Cause) -> str:
    """Where and what a cause is, and its proof."""
    side = f"{cause.side}: " if cause.side else ""
    return f"{side}{where_words(cause)}: {cause.words}; {proof_words(cause)}"


def proof_words(cause: Cause) -> str:
    """What the cause leaves, and the model's own way."""
    leaves = "to the bit" if cause.residue == 0 else f"to {cause.residue:.1g}"
    own = f"which the model's own way misses by {cause.error:.2g}"
    if cause.error == float("inf"):
        own = "which has NaN or Inf where the model's own way has none"
    return f"that reproduces the capture {leaves}, {own}"


def causes_headline(comparison: Comparison, blamed: Collection[Node]) -> str | None:
    """The cause of what one of the `blamed` stages errs by, and the others in fewer words; None where none is known."""
    first = next((cause for cause in comparison.causes if not set(blamed).isdisjoint(cause.nodes)), None)
    if first is None:
        return None
    others = [cause for cause in comparison.causes if cause is not first]
    texts = [f"{where_words(cause)}: {cause.words}" for cause in others[:_NAMED]]
    if len(others) > _NAMED:
        texts.append(counted(len(others) - _NAMED, "more cause"))
    return cause_sentence(first) + "".join(f"; besides, {text}" for text in texts)


def unexplained_words(comparison: Comparison) -> str | None:
    """What was tried at the first stage that fails, where none of it is a proof."""
    tried = comparison.alternatives
    if not tried or any(one.is_proved for one in tried):
        return None
    nearest = tried[0]
    return (
        f"none of {counted(len(tried), 'alternative')} reproduces {nearest.node}; nearest, to "
        f"{number_text(nearest.residue)}: {nearest.words}"
    )
