"""Statistics of the stage tensors of a capture, one stage at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from aprtui.compare.blocks import Values, blocks
from aprtui.errors import UnreadableError
from aprtui.trace.capture import Capture
from aprtui.trace.graph import Node
from aprtui.trace.stats import Accumulator, StageStats, accumulate


@dataclass(frozen=True, slots=True)
class StageSummary:
    """Statistics of one stage tensor. `shape` is 1-D where nothing tells it; `causal`: only key ≤ query counts."""

    node: Node
    shape: tuple[int, ...]
    causal: bool
    stats: StageStats


@dataclass(frozen=True, slots=True)
class BrokenStage:
    """A stage whose file cannot be read."""

    node: Node
    error: UnreadableError


def survey(capture: Capture, nodes: Sequence[Node]) -> Iterator[StageSummary | BrokenStage]:
    """Statistics of those `nodes` that the capture has files of, in the order given; broken files do not end it."""
    for node in nodes:
        if node not in capture.files:
            continue
        try:
            values = capture.values(node)
        except UnreadableError as error:
            yield BrokenStage(node, error)
            continue
        causal = capture.graph[node.stage].is_attention_map and values.ndim == 3
        yield StageSummary(node, values.shape, causal, tensor_stats(values, causal=causal))


def tensor_stats(values: Values, *, causal: bool = False) -> StageStats:
    """Statistics of a tensor of any size in bounded memory; `causal` for `[heads, query, key]`, key ≤ query."""
    total = Accumulator()
    for block, _ in blocks(values, causal):
        total.merge(accumulate(np.asarray(block)))
    return total.finish()
