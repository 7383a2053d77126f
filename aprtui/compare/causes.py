"""Causes in words: every report and the diff screen say the same."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from aprtui.compare.comparison import Cause, Comparison, TriedAlternative
from aprtui.compare.wording import counted, listed, number_text, ranges
from aprtui.trace.graph.stage import Node

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
    return f"{side}{where_words(cause)}: {cause.words}; {proof_words(cause)}{_untold_words(cause)}"


def _untold_words(cause: Cause) -> str:
    """The layers of which nothing shows whether it is so there as well."""
    if not cause.untold:
        return ""
    of = f"layer{'s' if len(cause.untold) > 1 else ''} {ranges(cause.untold)}"
    return f"; {of} cannot tell: both ways come out as captured there"


def proof_words(cause: Cause) -> str:
    """What the cause leaves, and the model's own way."""
    leaves = "to the bit" if cause.residue == 0 else f"to {cause.residue:.1g}"
    own = f"which the model's own way misses by {cause.error:.2g}"
    if cause.error == float("inf"):
        own = "which has NaN or Inf where the model's own way has none"
    return f"that reproduces the capture {leaves}, {own}"


def cause_of(causes: Sequence[Cause], blamed: Collection[Node]) -> Cause | None:
    """The cause of what one of the `blamed` stages errs by; None where none is known."""
    return next((cause for cause in causes if not set(blamed).isdisjoint(_shown_at(cause))), None)


def causes_headline(comparison: Comparison, blamed: Collection[Node]) -> str | None:
    """The cause of what one of the `blamed` stages errs by, and the others in fewer words; None where none is known."""
    first = cause_of(comparison.causes, blamed)
    if first is None:
        return None
    left = unexplained(comparison)
    more = f" and {counted(len(left) - 1, 'more stage')}" if len(left) > 1 else ""
    unknown = f"; besides, nothing that was tried reproduces {left[0]}{more}" if left else ""
    return f"{cause_sentence(first)}{causes_besides(comparison, first)}{unknown}"


def _shown_at(cause: Cause) -> tuple[Node, ...]:
    """The stages that are computed otherwise, and those that show it."""
    return (*cause.nodes, *(node for node, _ in cause.places))


def causes_besides(comparison: Comparison, first: Cause | None = None) -> str:
    """The causes but for the `first`, in few words, to stand behind another sentence; empty where there are none."""
    others = [cause for cause in comparison.causes if cause is not first]
    texts = [f"{where_words(cause)}: {cause.words}" for cause in others[:_NAMED]]
    if len(others) > _NAMED:
        texts.append(counted(len(others) - _NAMED, "more cause"))
    return "".join(f"; besides, {text}" for text in texts)


def unexplained(comparison: Comparison) -> tuple[Node, ...]:
    """The stages that add error of which no cause is known, where causes were looked for, in execution order."""
    if not comparison.causes and not comparison.alternatives:
        return ()
    explained = {node for cause in comparison.causes for node in _shown_at(cause)}
    explained |= {one.at for one in comparison.alternatives if one.is_proved}
    explained |= {node for found in comparison.everywhere for node in found.nodes}
    adding = comparison.adding
    return tuple(stage.node for stage in comparison.stages if stage.node in adding - explained)


def unexplained_lines(comparison: Comparison) -> Iterator[str]:
    """What was tried at the stages whose cause is not known: the nearest, with what it leaves; those of other layers
    that show the same stage are counted."""
    by_stage: dict[str, list[Node]] = {}
    for node in unexplained(comparison):
        by_stage.setdefault(node.stage, []).append(node)
    for nodes in by_stage.values():
        tried = [one for one in comparison.alternatives if one.at == nodes[0]]
        more = f", nor {counted(len(nodes) - 1, 'layer')} more of it" if len(nodes) > 1 else ""
        if tried:
            nearest = f"{tried[0].words} (leaves {number_text(tried[0].residue)}: {tried[0].refuted})"
            yield f"none of {counted(len(tried), 'alternative')} reproduces {nodes[0]}{more}; the nearest: {nearest}"
        else:
            yield f"no alternative was tried at {nodes[0]}{more}"


def tried_words(one: TriedAlternative) -> str:
    """An alternative that was tried: where, what, and why it is refuted or that it is proved."""
    side, where = f"{one.side}: " if one.side else "", "" if one.node == one.at else f" (through {one.at})"
    result = "proved" if one.is_proved else f"refuted: {one.refuted}"
    return f"{side}{one.node}{where}: {one.words}; leaves {number_text(one.residue)}, {result}"
