"""Whether the error of a stage stands out at some place, where the stage as a whole is within its bound.

Where results are kept in 16 bits, their rounding hides what a few wrong channels make of the norm of a token. Counted
in steps of that rounding, channel by channel, block by block, head by head and token by token, it hides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.pairing import StagePair
from aprtui.compare.groupings import GROUPINGS, TOKENS, Grouping, heads_of
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.standing_out import StandingOut, standing_out
from aprtui.compare.verdict import StageVerdict, Verdict
from aprtui.engine.replay.arithmetic import KnownArithmetic
from aprtui.engine.replay.bounds import OUTPUT_STEP, flip_error
from aprtui.engine.replay.recompute import CapturedStages
from aprtui.engine.replay.value_types import rounding_steps
from aprtui.model.model import Model
from aprtui.model.weights import Weight
from aprtui.trace.graph import Node, Op

Array = NDArray[np.float32]

_LOOKED_AT = frozenset({Op.RMS_NORM, Op.MATMUL, Op.BIAS, Op.ADD, Op.MULTIPLY, Op.SILU, Op.GELU, Op.ROPE})
"""Ops that compute each channel of a token from that token alone, by few roundings of about the token's size."""

_SAMPLED = 64
"""Channels of a product whose terms are counted where tokens are in question."""


@dataclass(frozen=True, slots=True)
class ErrorsByPlace:
    """Looks at the channels, blocks, heads and tokens of the stages of one capture that have their captured inputs."""

    model: Model
    stages: CapturedStages
    known: KnownArithmetic

    def judged(self, pair: StagePair, verdict: StageVerdict) -> StageVerdict:
        """`verdict`, or FAIL where it is PASS and some place stands out."""
        if verdict.verdict is not Verdict.PASS:
            return verdict
        found = self._standing_out(pair)
        if found is None:
            return verdict
        return StageVerdict(pair.node, Verdict.FAIL, Metric.PLACE, found.times, 1.0, found.bound, str(found))

    def _standing_out(self, pair: StagePair) -> StandingOut | None:
        output = self.known.output_type(pair.node)
        kind = self.known.stored if output == "f32" else output
        op = self.model.graph[pair.node.stage].op
        if kind == "f32" or op not in _LOOKED_AT or not pair.a.size:
            return None
        steps = rounding_steps(kind, pair.a)
        for grouping in self._groupings(op):
            if grouping is TOKENS and self._flips(pair.node):
                continue
            found = standing_out(pair.a, pair.b, steps, self._family, grouping)
            if found is not None and op is Op.MATMUL:
                # A sum whose terms are far larger than what is left of them errs by their roundings.
                found = self._beyond_terms(pair, steps, kind, found)
            if found is not None:
                first = found.groups if grouping.size else tuple(token + pair.first_token for token in found.groups)
                return replace(found, groups=first)
        return None

    def _beyond_terms(
        self, pair: StagePair, steps: NDArray[np.float64], kind: str, found: StandingOut
    ) -> StandingOut | None:
        """The same where the terms are counted of the channels in question, or of some where tokens are."""
        size, width = found.grouping.size, pair.a.shape[1]
        channels = [group * size + channel for group in found.groups for channel in range(size)]
        channels = channels or list(range(0, width, max(1, width // _SAMPLED)))
        terms = self._terms(pair, channels) * OUTPUT_STEP[kind]
        steps[:, channels] = np.hypot(steps[:, channels], terms)
        if size:
            return standing_out(pair.a, pair.b, steps, self._family, found.grouping)
        return standing_out(pair.a[:, channels], pair.b[:, channels], steps[:, channels], self._family, found.grouping)

    def _flips(self, node: Node) -> bool:
        """Whether what storage lost of its inputs flips levels that they are rounded to: at some tokens, not at all."""
        return self.known.stored != "f32" and flip_error(self.model, node, self.known.rounding) > 0

    def _groupings(self, op: Op) -> tuple[Grouping, ...]:
        """The smallest first: what one of them finds is named by it; a head before a part of it."""
        first, *others = GROUPINGS
        return (first, heads_of(self.model.config.graph.head_dim), *others) if op is Op.ROPE else GROUPINGS

    @property
    def _family(self) -> int:
        """All groups of the model's stages: one of them is called by chance as rarely as the whole capture may be."""
        graph, tokens = self.model.graph, len(self.stages.tokens)
        return sum(
            grouping.count((tokens, graph[node.stage].width))
            for node in graph.nodes
            if graph[node.stage].op in _LOOKED_AT
            for grouping in self._groupings(graph[node.stage].op)
        )

    def _terms(self, pair: StagePair, channels: list[int]) -> NDArray[np.float64]:
        """The root of the sum of the squared products of some `channels` of a matrix product, `[tokens, channels]`."""
        (source,) = self.model.graph.inputs(pair.node)
        (entry,) = self.model.graph.entries(pair.node)
        x = self.stages.values(source)[-pair.a.shape[0] :, self.model.config.graph.part(entry.part)]
        rows = np.concatenate([weight_row(self.model.params(pair.node), channel) for channel in channels])
        with np.errstate(invalid="ignore"):
            return np.sqrt((x.astype(np.float64) ** 2) @ (rows.astype(np.float64) ** 2).T)


def weight_row(weights: tuple[Weight, ...], channel: int) -> Array:
    """The row `[1, columns]` that a channel of a matrix product is computed with; a fused one has several weights."""
    for weight in weights:
        if channel < weight.rows:
            return weight.dequantize([channel])
        channel -= weight.rows
    raise IndexError(f"channel {channel} is beyond the last weight")
