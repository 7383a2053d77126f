"""Whether the error of a stage stands out in some channels, where the stage as a whole is within its bound.

Where results are kept in 16 bits, their rounding hides what a few wrong channels make of the norm of a token. Counted
in steps of that rounding, channel by channel, it hides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.pairing import StagePair
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.standing_out import StandingOut, standing_out
from aprtui.compare.verdict import StageVerdict, Verdict
from aprtui.engine.replay.arithmetic import KnownArithmetic
from aprtui.engine.replay.bounds import OUTPUT_STEP
from aprtui.engine.replay.recompute import CapturedStages
from aprtui.engine.replay.value_types import rounding_steps
from aprtui.model.model import Model
from aprtui.model.weights import Weight
from aprtui.trace.graph import Op

Array = NDArray[np.float32]

_LOOKED_AT = frozenset({Op.RMS_NORM, Op.MATMUL, Op.BIAS, Op.ADD, Op.MULTIPLY, Op.SILU, Op.GELU, Op.ROPE})
"""Ops that compute each channel of a token from that token alone, by few roundings of about the token's size."""


@dataclass(frozen=True, slots=True)
class ChannelErrors:
    """Looks at the channels of the stages of one capture that have their captured inputs."""

    model: Model
    stages: CapturedStages
    known: KnownArithmetic

    def judged(self, pair: StagePair, verdict: StageVerdict) -> StageVerdict:
        """`verdict`, or FAIL where it is PASS and some channels stand out."""
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
        found = standing_out(pair.a, pair.b, steps, self._family)
        if found is None or op is not Op.MATMUL:
            return found
        # A sum whose terms are far larger than what is left of them errs by their roundings.
        channels = list(found.channels)
        terms = self._terms(pair, channels) * OUTPUT_STEP[kind]
        steps[:, channels] = np.hypot(steps[:, channels], terms)
        return standing_out(pair.a, pair.b, steps, self._family)

    @property
    def _family(self) -> int:
        """All channels of the model's stages: one of them is called by chance as rarely as the whole capture may be."""
        graph = self.model.graph
        return sum(graph[node.stage].width for node in graph.nodes if graph[node.stage].op in _LOOKED_AT)

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
