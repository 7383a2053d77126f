"""Values that saving them in float16 made Inf: no fault of the engine, and nothing can be said about them.

An engine that computes in float16 overflows as well, but its next norm turns Inf into NaN, and all that follows is NaN.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np

from aprtui.compare.align.pairing import StagePair
from aprtui.compare.metrics.blocks import Values
from aprtui.compare.survey import Lost, held_values
from aprtui.compare.wording import counted
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph

LARGEST = float(np.finfo(np.float16).max)
NEAR = 0.9
"""What another engine has of a value that is beyond `LARGEST`, at least, as a share of it."""


def is_saved_as_inf(capture: Capture, node: Node, graph: StageGraph) -> bool:
    """Whether `node` holds Inf that saving made: its other values fit float16, and no captured stage that is computed
    from it holds NaN."""
    values = _held(capture, node)
    if values is None or not np.isinf(values).any():
        return False
    finite = values[np.isfinite(values)]
    return np.array_equal(finite.astype(np.float16), finite) and not _makes_nan(capture, node, graph)


def without_saved_as_inf(pair: StagePair, saved_a: bool, saved_b: bool) -> StagePair:
    """`pair` with the other side's value wherever saving made one Inf of a value near `LARGEST` or beyond."""
    a, b = pair.a, pair.b
    lost_a, lost_b = (
        np.isinf(lost) & (np.copysign(kept, lost) == kept) & (np.abs(kept) >= NEAR * LARGEST) if saved
        else np.zeros(lost.shape, np.bool_)
        for saved, lost, kept in ((saved_a, a, b), (saved_b, b, a))
    )  # fmt: skip
    count = int((lost_a | lost_b).sum())
    if not count:
        return pair
    matched = f"{pair.matched}; {counted(count, 'value')} beyond float16 set aside"
    return replace(pair, a=np.where(lost_a, b, a), b=np.where(lost_b, a, b), matched=matched)


def saved_as_inf_statement(nodes: Collection[Node]) -> str:
    return (
        f"{counted(len(nodes), 'stage')} from {min(nodes)} on {'hold' if len(nodes) > 1 else 'holds'} values beyond "
        f"{LARGEST:.0f}, which saving in float16 made Inf: they are set aside; float32 and bfloat16 keep them"
    )


def _makes_nan(capture: Capture, node: Node, graph: StageGraph) -> bool:
    """Whether one of the nearest captured stages behind `node`, those that are Inf too aside, holds NaN."""
    pending, seen = [node], {node}
    while pending:
        for reader in _readers(graph, pending.pop()):
            if reader in seen:
                continue
            seen.add(reader)
            values = _held(capture, reader)
            if values is not None and np.isnan(values).any():
                return True
            if values is None or np.isinf(values).any():
                pending.append(reader)
    return False


def _readers(graph: StageGraph, node: Node) -> Iterator[Node]:
    near = (None, node.layer, None if node.layer is None else node.layer + 1)
    return (reader for reader in graph.nodes if reader.layer in near and node in graph.inputs(reader))


def _held(capture: Capture, node: Node) -> Values | None:
    values = held_values(capture, node) if node in capture.files else None
    return None if isinstance(values, Lost) else values
