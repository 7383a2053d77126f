"""Telling injected from inherited error: which divergent stages add error themselves, and which only pass it on.

Stages are judged per token, along the graph: parallel branches (Q and K, gate and up) do not taint each other. A stage
that is beyond its bound while all of its inputs are within theirs injects error. A stage beyond its bound with an input
beyond its own inherits error; whether it adds some as well, only a replay can tell.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.comparison import ErrorState
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import StageVerdict, Verdict
from aprtui.trace.graph.ops import RECURRENT_OPS, Op
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph

_MIXES_TOKENS = frozenset({Op.SCORES, Op.SOFTMAX, Op.ATTEND}) | RECURRENT_OPS
"""Ops whose result at one token depends on earlier ones."""


@dataclass(frozen=True, slots=True)
class TokenJudgement:
    """Which tokens of a stage are beyond its bound: `beyond[i]` is for token `first + i`, None where nothing judges it.

    `injects` says whether a replay found that the stage itself adds error, None without a replay.
    """

    first: int
    beyond: NDArray[np.bool_] | None
    injects: bool | None = None

    def any_until(self, token: int) -> bool:
        return self.beyond is not None and bool(self.beyond[: max(0, token + 1 - self.first)].any())

    def at(self, token: int) -> bool:
        """Whether `token` is beyond the bound; a token that the stage does not hold is not."""
        index = token - self.first
        return self.beyond is not None and 0 <= index < self.beyond.size and bool(self.beyond[index])


def nearest_compared(graph: StageGraph, node: Node, compared: Collection[Node]) -> Iterator[Node]:
    """The nearest ancestors of `node` that were compared: its inputs, and beyond those that were not, their inputs.

    None for a stage that the graph does not know.
    """
    seen: set[Node] = set()
    pending = list(graph.inputs(node)) if node.stage in graph else []
    while pending:
        source = pending.pop()
        if source in seen:
            continue
        seen.add(source)
        if source in compared:
            yield source
        else:
            pending += graph.inputs(source)


def tokens_beyond(verdict: StageVerdict, tokens: NDArray[np.float64]) -> NDArray[np.bool_] | None:
    """Which of `tokens` (rel_l2 of each) decide the verdict; None where it is UNKNOWN.

    A bound on a metric other than rel_l2 says nothing about single tokens: all tokens that differ count.
    """
    if verdict.verdict is Verdict.UNKNOWN:
        return None
    if verdict.verdict is Verdict.PASS:
        return np.zeros(tokens.size, np.bool_)
    bound = verdict.bound if verdict.metric in (Metric.REL_L2, Metric.TOKEN_REL_L2) else None
    with np.errstate(invalid="ignore"):
        beyond = tokens > (bound or 0.0)
        if verdict.metric is Metric.NON_FINITE:
            beyond = np.isinf(tokens)
    # The tensor as a whole can be beyond its bound without any single token: then all tokens that differ count.
    return np.asarray(beyond if beyond.any() else tokens > 0)


def classify(graph: StageGraph, judged: Mapping[Node, TokenJudgement]) -> dict[Node, ErrorState]:
    return {node: _state(graph, node, judged) for node in judged}


def _state(graph: StageGraph, node: Node, judged: Mapping[Node, TokenJudgement]) -> ErrorState:
    own = judged[node]
    if own.injects:
        return ErrorState.INJECTED
    if own.beyond is None:
        return ErrorState.UNKNOWN
    if not own.beyond.any():
        return ErrorState.CLEAN
    if own.injects is not None:
        return ErrorState.INHERITED
    sources = [judged[source] for source in nearest_compared(graph, node, judged)]
    if any(source.beyond is None for source in sources):
        return ErrorState.UNKNOWN
    if not sources:
        return ErrorState.INJECTED
    direct = set(graph.inputs(node)) <= judged.keys()
    mixes = graph[node.stage].op in _MIXES_TOKENS or not direct
    for index in np.flatnonzero(own.beyond):
        token = own.first + int(index)
        if not any(source.any_until(token) if mixes else source.at(token) for source in sources):
            return ErrorState.INJECTED
    return ErrorState.INHERITED
