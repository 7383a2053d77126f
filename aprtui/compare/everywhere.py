"""What is wrong everywhere: stages of one kind of op that all err alike, so that none of them is to blame by itself.

Such an error widens every floor that is measured against it. So it is a finding of its own, in one sentence, and a
comparison that has one never passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from aprtui.compare.comparison import Everywhere, StageComparison
from aprtui.compare.verdict import Signal, Verdict
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph

OP_WORDS: Mapping[Op, str] = MappingProxyType(
    {
        Op.MATMUL: "matrix products",
        Op.RMS_NORM: "norms",
        Op.HEAD_RMS_NORM: "norms of heads",
        Op.ROPE: "rotations (RoPE)",
        Op.POSITION_SCALE: "scaled queries",
        Op.SCORES: "attention scores",
        Op.SOFTMAX: "softmaxes",
        Op.ATTEND: "attention outputs",
        Op.BIAS: "sums with a bias",
        Op.ADD: "residual sums",
        Op.SILU: "activations",
        Op.MULTIPLY: "gated products",
        Op.SIGMOID: "sigmoids",
        Op.CONVOLUTION: "convolutions",
        Op.HEAD_L2_NORM: "lengths of keys and queries",
        Op.DELTA_STATE: "recurrent states",
        Op.DELTA_OUTPUT: "outputs of recurrences",
    }
)
"""What the stages of an op are called together."""

NEARLY_ALL = 0.9
"""The share of the stages of an op that must err for the error to be everywhere."""
FEWEST = 4
"""Fewer stages say nothing about all of them."""
ALIKE = 10.0
"""The most that nine tenths of the errors may spread over, as a factor: an honest rounding of a real model spreads its
error over 2 to 5, by how much of a product cancels; a local fault is one stage."""
STANDS_OUT = 4.0
"""An error that is this many times the largest of the same stage in other layers is the stage's own."""


def err_alike(errors: Sequence[float]) -> bool:
    """Whether errors, one a stage, are those of one cause: narrow against their size, but for a tenth of them."""
    if len(errors) < FEWEST or not all(np.isfinite(errors)):
        return False
    low, high = np.percentile(errors, [5, 95])
    return bool(low > 0 and high <= ALIKE * low)


def standing_out(errors: Mapping[Node, float]) -> frozenset[Node]:
    """The nodes whose error is far beyond that of the same stage in every other layer."""
    found = set()
    for node, error in errors.items():
        others = [value for other, value in errors.items() if other.stage == node.stage and other != node]
        if len(others) >= FEWEST - 1 and error > STANDS_OUT * max(others):
            found.add(node)
    return frozenset(found)


def failing_alike(graph: StageGraph, stages: Sequence[StageComparison]) -> Iterator[Everywhere]:
    """The ops of which a replay finds nearly all stages to fail, and alike."""
    for op, what in OP_WORDS.items():
        of_op = [
            stage
            for stage in stages
            if stage.node.stage in graph and graph[stage.node.stage].op is op
            and stage.verdict.signal is Signal.INJECTED and not stage.segment and not any(stage.injected)
        ]  # fmt: skip
        failed = [stage for stage in of_op if stage.verdict.verdict is Verdict.FAIL]
        errors = [stage.metrics.rel_l2 for stage in failed if stage.metrics.rel_l2 is not None]
        if len(failed) >= NEARLY_ALL * len(of_op) and len(errors) == len(failed) and err_alike(errors):
            nodes = tuple(stage.node for stage in failed)
            yield Everywhere(what, nodes, len(of_op), float(np.median(errors)), None, may_be_meant=False)


def sentence(found: Everywhere) -> str:
    """The finding in one sentence: how many stages, by how much, and what errs so."""
    count = len(found.nodes)
    side = f"{found.side}: " if found.side else ""
    share = f"all {count}" if count == found.total else f"{count} of {found.total}"
    like = "" if found.looks_like is None else f": as {found.looks_like} do"
    return f"{side}{share} {found.what} err alike, by {100 * found.error:.2g} %{like}"
