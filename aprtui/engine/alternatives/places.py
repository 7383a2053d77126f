"""Where another node is, seen from one: so that the same mistake in several layers has the same words."""

from __future__ import annotations

from aprtui.trace.graph.stage import Node


def behind(node: Node, other: Node) -> int | None:
    """By how many layers `other` is behind `node`; None where one of them is in no layer."""
    return None if node.layer is None or other.layer is None else other.layer - node.layer


def layer_words(node: Node, other: Node) -> str:
    """`other` as named in a sentence about `node`."""
    steps = behind(node, other)
    name = "" if other.stage == node.stage else f"{other.stage} of "
    if steps is None:
        return str(other)
    if steps == 0:
        return f"{other.stage}"
    where = {1: "the next layer", -1: "the layer before"}.get(steps)
    return f"{name}{where or f'layer {other.layer}'}"
