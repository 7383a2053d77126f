"""What one capture holds, stage by stage: the values that were written, and statistics of them.

Until a run has finished, the files of its capture have no header or are not there yet. That is no corruption, and what
was written can still be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aprtui.compare.metrics.blocks import Values, blocks
from aprtui.errors import UnreadableError
from aprtui.trace.address import Address
from aprtui.trace.aprt import AprtError, value_count
from aprtui.trace.capture import Capture
from aprtui.trace.experts import ExpertCounts, ExpertUse, counted_experts, router_gives_logits
from aprtui.trace.graph.stage import ROUTER, ROUTER_CHOICE, Node
from aprtui.trace.stats import Accumulator, StageStats, accumulate

DAMAGED = "damaged"
"""Begins the reason for what a file that cannot be read costs."""

NOT_WRITTEN = "not written: the run did not finish"


def is_unfinished(capture: Capture) -> bool:
    """Whether the manifest says anything but that the run finished; a capture without a manifest counts as finished."""
    return capture.complete is not None and capture.complete is not True


@dataclass(frozen=True, slots=True)
class Lost:
    """The values of a stage that cannot be had, and why: the run ended before, or its file is damaged."""

    reason: str


def held_values(capture: Capture, node: Node) -> Values | Lost:
    """The values of `node`, or why there are none. Raises `KeyError` for a node without a file."""
    try:
        return capture.values(node)
    except AprtError as error:
        return Lost(NOT_WRITTEN if is_unfinished(capture) else f"{DAMAGED}: {error}")
    except UnreadableError as error:
        return Lost(f"{DAMAGED}: {error}")


@dataclass(frozen=True, slots=True)
class StageSummary:
    """Statistics of one stage tensor. `shape` is 1-D where nothing tells it; `causal`: only key ≤ query counts.

    `experts`: how a layer's experts were chosen, where the stage says that.
    """

    node: Node
    shape: tuple[int, ...]
    causal: bool
    stats: StageStats
    experts: ExpertUse | None = None


@dataclass(frozen=True, slots=True)
class BrokenStage:
    """A stage whose file cannot be read; `error` is None where the file is gone: the capture itself warns of that."""

    node: Node
    error: UnreadableError | None


@dataclass(frozen=True, slots=True)
class UnwrittenStage:
    """A stage that an unfinished run has not written."""

    node: Node


Entry = StageSummary | BrokenStage | UnwrittenStage


def survey(capture: Capture, nodes: Sequence[Node]) -> Iterator[Entry]:
    """An entry for each of `nodes` that the capture holds or promises, in order; a broken file does not end it.

    Of a capture on another machine the manifest's statistics are taken where it has them, and no values are fetched.
    """
    owed = capture.promised | capture.files.keys()
    known = stated(capture) if isinstance(capture.path, Address) else {}
    for node in nodes:
        if node in owed:
            read = node not in known or node.stage == ROUTER_CHOICE
            yield _entry(capture, node) if read else known[node]


def stated(capture: Capture) -> dict[Node, Entry]:
    """The entry of each stage from the manifest, without reading values; a file that is gone or cut is a broken stage.

    Stages without statistics in the manifest are left out.
    """
    known: dict[Node, Entry] = {}
    for info in capture.manifest.files.values() if capture.manifest else ():
        node = info.node
        if node not in capture.files:
            known[node] = UnwrittenStage(node) if is_unfinished(capture) else BrokenStage(node, None)
        elif info.stats is not None:
            try:
                if not isinstance(capture.path, Address):
                    value_count(capture.files[node].path)
            except UnreadableError as error:
                known[node] = BrokenStage(node, error)
            else:
                causal = capture.graph[node.stage].is_attention_map and len(info.shape) == 3
                known[node] = StageSummary(node, info.shape, causal, info.stats)
    return known


def _entry(capture: Capture, node: Node) -> Entry:
    if node not in capture.files:
        return UnwrittenStage(node) if is_unfinished(capture) else BrokenStage(node, None)
    try:
        values = capture.values(node)
    except UnreadableError as error:
        unwritten = is_unfinished(capture) and isinstance(error, AprtError)
        return UnwrittenStage(node) if unwritten else BrokenStage(node, error)
    causal = capture.graph[node.stage].is_attention_map and values.ndim == 3
    experts = _experts(capture, node, values) if node.stage == ROUTER_CHOICE else None
    return StageSummary(node, values.shape, causal, tensor_stats(values, causal=causal), experts)


def _experts(capture: Capture, node: Node, chosen: Values) -> ExpertUse | None:
    """How the experts of a layer were chosen; None where it is not known how many there are."""
    router = replace(node, stage=ROUTER)
    held = held_values(capture, router) if router in capture.files else None
    routed = held if isinstance(held, np.ndarray) and held.ndim == 2 else None
    experts = counted_experts(capture.graph) if routed is None else routed.shape[1]
    if not experts:
        return None
    counts = ExpertCounts(1, experts, logits=router_gives_logits(capture.graph))
    counts.add_choices(np.zeros(len(chosen), np.int64), chosen.reshape(len(chosen), -1))
    if routed is not None:
        counts.add_routers(np.zeros(len(routed), np.int64), routed)
    return counts.use(0)


def tensor_stats(values: Values, *, causal: bool = False) -> StageStats:
    """Statistics of a tensor of any size in bounded memory; `causal` for `[heads, query, key]`, key ≤ query."""
    total = Accumulator()
    for block, _ in blocks(values, causal):
        total.merge(accumulate(np.asarray(block)))
    return total.finish()
