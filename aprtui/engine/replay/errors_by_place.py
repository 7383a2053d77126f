"""Whether the error of a stage stands out at some place, where the stage as a whole is within its bound.

Where results are kept in 16 bits, their rounding hides what a few wrong channels make of the norm of a token. Counted
in steps of that rounding, channel by channel, block by block, head by head and token by token, it hides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.pairing import StagePair
from aprtui.compare.groupings import GROUPINGS, TOKENS, Grouping, heads_of
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.standing_out import StandingOut, standing_out
from aprtui.compare.verdict import StageVerdict, Verdict
from aprtui.compare.wording import counted, ranges
from aprtui.engine.protocol import Rounding
from aprtui.engine.replay.arithmetic import KnownArithmetic, matmul_rounding
from aprtui.engine.replay.bounds import MARGIN, OUTPUT_STEP, flip_error
from aprtui.engine.replay.recompute import CapturedStages
from aprtui.engine.replay.value_types import half_step, rounding_steps
from aprtui.engine.rounding import ROUND
from aprtui.model.model import Model
from aprtui.model.weights import Weight
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node, Stage

Array = NDArray[np.float32]
Wide = NDArray[np.float64]

_LOOKED_AT = frozenset({Op.RMS_NORM, Op.MATMUL, Op.BIAS, Op.ADD, Op.MULTIPLY, Op.SILU, Op.GELU, Op.ROPE})
"""Ops that compute each channel of a token from that token alone, by few roundings of about the token's size."""

_BY_CHANNEL = frozenset({Op.RMS_NORM, Op.ADD, Op.MULTIPLY})
"""Those whose channels err by their own size, whatever the size of the others."""
_OUTLIER = 8.0
"""Times the median of a token, from which a channel is an outlier; normal noise has one in ten million."""
_HIDDEN = 0.5
"""Of a token's norm: less than that is not seen in it."""
_MOST = 0.9
_LISTED = 4

_SAMPLED = 64
"""Channels of a product whose terms are counted where tokens are in question."""

_FLIPS_OF_BOUND = 2 / 3
"""Of what a group must err by, that all levels which storage may have decided make at most."""
_BITS = 8
"""Of an index: blocks of up to 256 values have a scale."""
_FEWEST_SHIFTS = 0
"""With them alone, a ninth of the work, two thirds of all levels are found: only where something stands out of these
are the others looked for."""
_VALUES = 1 << 21
"""Of a weight, that are looked at together."""


@dataclass(frozen=True, slots=True)
class ErrorsByPlace:
    """Looks at the channels, blocks, heads and tokens of the stages of one capture that have their captured inputs."""

    model: Model
    stages: CapturedStages
    known: KnownArithmetic
    _latest: dict[tuple[Node, int, int], tuple[Array, Array]] = field(default_factory=dict)
    """Terms and flips of the product that was looked at last: alternatives look at one several times."""

    def judged(self, pair: StagePair, verdict: StageVerdict) -> StageVerdict:
        """`verdict`, or FAIL where it is PASS and some place stands out."""
        if verdict.verdict is not Verdict.PASS:
            return verdict
        found = self._standing_out(pair)
        if found is not None:
            return StageVerdict(pair.node, Verdict.FAIL, Metric.PLACE, found.times, 1.0, found.bound, str(found))
        return self._beside_outliers(pair, verdict)

    def _beside_outliers(self, pair: StagePair, verdict: StageVerdict) -> StageVerdict:
        """`verdict`, or FAIL where a few channels are so large that the norm of a token is theirs, and the others are
        beyond the bound by their own norm."""
        node, graph = pair.node, self.model.graph
        if graph[node.stage].op not in _BY_CHANNEL or not verdict.bound or not pair.a.size:
            return verdict
        rows = pair.a.shape[0]
        sources = graph.inputs(node) if graph[node.stage].op is Op.ADD else ()
        if any(self.stages.rows(source) < rows for source in sources):
            return verdict
        values = [pair.a, *(self.stages.values(source)[-rows:] for source in sources)]
        sizes = [np.abs(x.astype(np.float64)) for x in values]
        quiet = np.isfinite(pair.b)
        for size in sizes:
            quiet &= size <= _OUTLIER * np.median(size, 1, keepdims=True)
        # What is taken off a large value is as inexact as that: all of them count as what a channel is made of.
        made_of = np.sqrt(sum((np.where(quiet, size, 0) ** 2).sum(1) for size in sizes))
        total = np.sqrt((sizes[0] ** 2).sum(1))
        with np.errstate(divide="ignore", invalid="ignore"):
            difference = np.where(quiet, pair.b.astype(np.float64) - pair.a, 0)
            errors = np.sqrt((difference**2).sum(1)) / made_of
        hidden = (made_of < _HIDDEN * total) & (quiet.mean(1) > _MOST)
        wrong = np.flatnonzero(hidden & (errors > verdict.bound))
        if not wrong.size:
            return verdict
        worst = int(wrong[errors[wrong].argmax()])
        channels = np.flatnonzero(~quiet[worst])
        times = MARGIN * float(errors[worst]) / verdict.bound
        typical = np.sqrt(np.mean(sizes[0][worst][quiet[worst]] ** 2)) or 1.0
        largest = sizes[0][worst][channels].max() / typical
        named = ranges(channels.tolist()[:_LISTED])
        reason = (
            f"beside {counted(channels.size, 'channel')} up to {largest:.2g} × as large ({named}), "
            f"the others of token {worst + pair.first_token} are off by "
            f"{100 * errors[worst]:.2g} %, {times:.2g} × what rounding gives there"
        )
        return StageVerdict(node, Verdict.FAIL, Metric.PLACE, times, 1.0, MARGIN, reason)

    def _standing_out(self, pair: StagePair) -> StandingOut | None:
        output = self.known.output_type(pair.node)
        kind = self.known.stored if output == "f32" else output
        stage = self.model.graph[pair.node.stage]
        op = stage.op
        if kind == "f32" or op not in _LOOKED_AT or not pair.a.size:
            return None
        steps = rounding_steps(kind, pair.a)
        if op is Op.MATMUL and self._flips(pair.node):
            return self._beyond_flips(pair, steps, kind)
        for grouping in self._groupings(stage):
            if grouping is TOKENS and self._flips(pair.node):
                continue
            found = standing_out(pair.a, pair.b, steps, self._family, grouping)
            if found is not None and op is Op.MATMUL:
                found = self._beyond_terms(pair, steps, kind, found)
            if found is not None:
                return _at_tokens_of(pair, found)
        return None

    def _beyond_terms(self, pair: StagePair, steps: Wide, kind: str, found: StandingOut | None) -> StandingOut | None:
        """What of `found` still stands out of a matrix product where a sum whose terms are far larger than what is left
        of them errs by their roundings: counted for those in question alone, and for what only then stands out."""
        width, looked_at = pair.a.shape[1], set[int]()
        while found is not None:
            size = found.grouping.size
            places = [group * size + channel for group in found.groups for channel in range(size)]
            channels = sorted(set(places or range(0, width, max(1, width // _SAMPLED))) - looked_at)
            if not channels:
                return found
            looked_at.update(channels)
            steps[:, channels] = np.hypot(steps[:, channels], self._terms(pair, channels) * OUTPUT_STEP[kind])
            if not size:
                a, b, counted_in = pair.a[:, channels], pair.b[:, channels], steps[:, channels]
                return standing_out(a, b, counted_in, self._family, found.grouping)
            found = standing_out(pair.a, pair.b, steps, self._family, found.grouping)
        return None

    def _beyond_flips(self, pair: StagePair, steps: Wide, kind: str) -> StandingOut | None:
        """What stands out of a matrix product whose inputs may have fallen to other levels than they were captured at,
        which is part of what every channel may err by. A token is off by it as a whole: none is looked at."""
        found = None
        for shifts in (_FEWEST_SHIFTS, _BITS):
            terms, flipped = self._terms_and_flips(pair, shifts)
            sums = np.hypot(steps, terms * OUTPUT_STEP[kind])
            looked_at = (grouping for grouping in GROUPINGS if grouping is not TOKENS)
            every = (
                standing_out(pair.a, pair.b, np.hypot(sums, _times_flipped(g) * flipped), self._family, g)
                for g in looked_at
            )
            found = next((one for one in every if one is not None), None)
            if found is None:
                return None
        return found

    def _flips(self, node: Node) -> bool:
        """Whether what storage lost of its inputs flips levels that they are rounded to, or hides that they are rounded
        at all: at some tokens, not at all."""
        return self.known.stored != "f32" and any(flip_error(self.model, node, r) > 0 for r in self._possible)

    @property
    def _possible(self) -> tuple[Rounding, ...]:
        """The arithmetic of the capture, and what may round the inputs of its matrix products instead."""
        rounding = self.known.rounding
        others = (changes["matmul_input"] for changes in self.known.alternatives if "matmul_input" in changes)
        return (rounding, *(replace(rounding, matmul_input=kind) for kind in others))

    def _groupings(self, stage: Stage) -> tuple[Grouping, ...]:
        """The smallest first: what one of them finds is named by it; a head before a part of it."""
        first, *others = GROUPINGS
        return (first, heads_of(stage.head_size), *others) if stage.op is Op.ROPE else GROUPINGS

    @property
    def _family(self) -> int:
        """All groups of the model's stages: one of them is called by chance as rarely as the whole capture may be."""
        graph, tokens = self.model.graph, len(self.stages.tokens)
        return sum(
            grouping.count((tokens, graph[node.stage].width))
            for node in graph.nodes
            if graph[node.stage].op in _LOOKED_AT
            for grouping in self._groupings(graph[node.stage])
        )

    def _terms(self, pair: StagePair, channels: list[int]) -> Wide:
        """The root of the sum of the squared products of some `channels` of a matrix product, `[tokens, channels]`."""
        rows = np.concatenate([weight_row(self.model.params(pair.node), channel) for channel in channels])
        return _norms(self._input(pair), rows)

    def _terms_and_flips(self, pair: StagePair, shifts: int) -> tuple[Array, Array]:
        """The same of all channels; and what each may err by because what its input lost when it was stored decides
        at some values which level they are rounded to: one level off at a token of a large value is seen in every
        channel, by as much as its weight for it."""
        key = pair.node, pair.a.shape[0], shifts
        if key not in self._latest:
            if any(node != pair.node for node, *_ in self._latest):
                self._latest.clear()
            x, found = self._input(pair), []
            for weight in self.model.params(pair.node):
                both = np.concatenate([x, self.moved_levels(weight, x, shifts)])
                step = max(1, _VALUES // weight.columns)
                ranges = (slice(start, start + step) for start in range(0, weight.rows, step))
                found += [_norms(both, weight.dequantize(rows)).astype(np.float32) for rows in ranges]
            terms, flipped = np.split(np.concatenate(found, axis=1), 2)
            self._latest[key] = terms, flipped
        return self._latest[key]

    def moved_levels(self, weight: Weight, kept: Array, shifts: int) -> Array:
        """How far each input of a product with `weight` may be from what its stored value `kept` is rounded to.

        The scale of a block is decided by a stored value as well, so that values move towards and away from it: in
        `_BITS` shifts each differs from every other one of its block in some bit of its index. Fewer find less.
        """
        half = np.where(kept == 0, np.float32(0), half_step(self.known.stored, kept))
        kinds = dict.fromkeys(matmul_rounding(r.matmul_input, weight) for r in self._possible)
        known, *others = (ROUND[kind] for kind in kinds)
        index, moved = np.arange(kept.shape[1]), np.zeros_like(kept)
        signs = [np.where(index >> bit & 1, np.float32(-1), np.float32(1)) for bit in range(shifts)]
        with np.errstate(invalid="ignore", over="ignore"):
            settled = known(kept)
            for shift in (half, *(half * sign for sign in signs)):
                for level in (known, *others):
                    for shifted in (kept + shift, kept - shift):
                        np.maximum(moved, np.abs(level(shifted) - settled), out=moved)
        return moved

    def _input(self, pair: StagePair) -> Array:
        """What a matrix product is given, at the tokens of `pair`."""
        (source,) = self.model.graph.inputs(pair.node)
        (entry,) = self.model.graph.entries(pair.node)
        values = self.stages.values(source)[-pair.a.shape[0] :, self.model.config.graph.part(entry.part)]
        return np.ascontiguousarray(values)


def _at_tokens_of(pair: StagePair, found: StandingOut) -> StandingOut:
    """`found` by the tokens' own numbers, where it is of tokens."""
    if found.grouping.size:
        return found
    return replace(found, groups=tuple(token + pair.first_token for token in found.groups))


def _times_flipped(grouping: Grouping) -> float:
    """How many times what flipped levels may make of a channel is counted.

    All of them at once may make so much of a group, whose channels have weights of either sign; of a single channel
    they add up, which chance seldom does in a few, and counting them once leaves room for 16 of them.
    """
    return max(1.0, 1 / (_FLIPS_OF_BOUND * grouping.least_times * grouping.least_level))


def _norms(x: Array, rows: Array) -> Wide:
    """The root of the sum of the squared products of each row of `x` and each of `rows`."""
    with np.errstate(invalid="ignore"):
        return np.sqrt((x.astype(np.float64) ** 2) @ (rows.astype(np.float64) ** 2).T)


def weight_row(weights: tuple[Weight, ...], channel: int) -> Array:
    """The row `[1, columns]` that a channel of a matrix product is computed with; a fused one has several weights."""
    for weight in weights:
        if channel < weight.rows:
            return weight.dequantize([channel])
        channel -= weight.rows
    raise IndexError(f"channel {channel} is beyond the last weight")
