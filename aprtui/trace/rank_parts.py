"""Which part of a stage is from which rank, of a capture that was put together of several: a line of its provenance.

The line is JSON: a list of `{"stages": ["0/qkv_matmul", …], "axis": 1, "parts": {"0,4": [[0, 16]], …}}`, where axis 0
counts tokens, or heads of attention maps, and axis 1 channels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aprtui.trace.graph.stage import Node

RANKS = "ranks"
"""The key of the line."""
RANKS_DIFFER = "ranks_differ"
"""The key of a line that says which ranks part, where copies that must be equal are not."""

Runs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class RankParts:
    """For ranks, by their numbers, the runs of positions of `axis` that are theirs, first and end."""

    axis: int
    parts: Mapping[tuple[int, ...], Runs]


def rank_parts_text(stages: Iterable[tuple[Node, RankParts]]) -> str:
    """The line of all stages that are of parts; empty where none is."""
    grouped: dict[str, list[str]] = {}
    for node, found in stages:
        parts = {",".join(map(str, ranks)): [list(run) for run in runs] for ranks, runs in sorted(found.parts.items())}
        grouped.setdefault(json.dumps({"axis": found.axis, "parts": parts}), []).append(_key(node))
    return json.dumps([{"stages": names, **json.loads(text)} for text, names in grouped.items()]) if grouped else ""


def _key(node: Node) -> str:
    return node.stage if node.layer is None else f"{node.layer}/{node.stage}"


def parse_rank_parts(text: str) -> dict[Node, RankParts]:
    """The parts that a line states; none where it is not what it should be: they only help to name a rank."""
    try:
        return {
            _node(name): RankParts(
                int(entry["axis"]),
                {
                    tuple(map(int, ranks.split(","))): tuple((int(first), int(end)) for first, end in runs)
                    for ranks, runs in entry["parts"].items()
                },
            )
            for entry in json.loads(text)
            for name in entry["stages"]
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def _node(name: str) -> Node:
    layer, slash, stage = name.partition("/")
    return Node(int(layer), stage) if slash else Node(None, name)
