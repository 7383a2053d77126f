"""How far apart honest engines come out at a stage, measured: the stage computed again in every way that the evidence
about a capture still allows.

Two questions. *Noise*: what is left between engines of one arithmetic where stages in between or digits are missing,
from runs with other last bits, with captured values moved within the step they were stored in, and without the
roundings whose input is itself computed (flips of a level make more flips, until two engines err independently: half of
what the rounding costs, times the margin, admits √2 times of it). *Spread*: how far engines of other arithmetics come
out, where nothing has established the capture's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

import numpy as np

from aprtui.compare.metrics.measure import token_errors
from aprtui.compare.verdict import Tolerance
from aprtui.engine.protocol import Rounding
from aprtui.engine.replay.arithmetic import (
    ATTENTION_OPS,
    BY_WEIGHT,
    UNROUNDED,
    KnownArithmetic,
    NodeEvaluators,
    Recomputation,
    cached_type,
    concerns,
)
from aprtui.engine.replay.bounds import (
    ANGLE_ERROR,
    FLOAT32,
    OUTPUT_STEP,
    bound_of,
    fed_nodes,
    flip_error,
    replay_tolerance,
)
from aprtui.engine.replay.chunked_delta import ChunkedNodes
from aprtui.engine.replay.disturbed import LAST_BITS, MORE_FLIPS, Disturb, DisturbedNodes, disturbance
from aprtui.engine.replay.quiet_places import QuietPlace, quiet_place
from aprtui.engine.replay.recompute import Array, CapturedStages, Recomputed, Recomputer
from aprtui.engine.replay.value_types import before_storage
from aprtui.model.model import Model
from aprtui.trace.graph.ops import MATRIX_PRODUCTS, Op
from aprtui.trace.graph.stage import Node

SEEDS = (1, 2)
_APART_SEEDS = (3, 4, 5, 6)
_CLEARLY_LESS = 0.5
"""Of a spread, what a quiet place must allow no more of for a reason to say so."""
_HIDDEN = frozenset({"f16", "bf16"})
"""Types that an engine may keep stages in that were not captured, whatever the others are in; llama.cpp on a CPU does
not."""

_NARROW = 64
"""A product of fewer channels may be near zero in all of them at some token, where a float32 sum errs by more of it."""

HONEST_ROUNDINGS: tuple[Mapping[str, str], ...] = tuple(
    MappingProxyType(
        {
            "matmul_input": matmul,
            "kv_cache": cache,
            "softmax": softmax,
            "activation": activation,
            "stage_output": output,
        }
    )
    for matmul, cache, softmax, activation, output in (
        ("none", "f32", "f32", "f32", "f32"),
        ("f16", "f16", "f16", "f16", "f16"),
        ("bf16", "bf16", "bf16", "f32", "bf16"),
        ("q8", "q8_0", "f32", "f16", "f32"),
        ("q8_1", "f16", "f32", "f32", "f32"),
        ("fp8", "fp8", "f32", "f32", "f32"),
        ("int8_row", "q4_0", "f32", "f32", "f32"),
        ("none", "q4_0+f32", "bf16", "f32", "f32"),
    )
)
"""What engines in use round to, from nothing to the coarsest. A bound of three times their spread also covers an
engine that rounds weights and sums as coarsely as inputs (√3 of it together), at a token that fares worse than ours."""


@dataclass(slots=True)
class Spreads:
    """Measures noise and spread of the stages of one capture; nodes are asked for in execution order."""

    model: Model
    stages: CapturedStages
    known: KnownArithmetic
    evaluators: NodeEvaluators
    _runs: dict[Rounding | int | str | tuple[Rounding | str, int], Recomputer] = field(default_factory=dict)

    def close_bound(self, node: Node, segment: Sequence[Node]) -> Tolerance:
        """The bound that needs no measurement."""
        return replay_tolerance(self.model, node, segment, self.known, len(self.stages.tokens))

    def bound(self, node: Node, found: Recomputed) -> Tolerance:
        """The bound from the measured noise of an engine of the known arithmetic; beyond it and up to its limit, where
        the arithmetic is open, nothing is settled."""
        close = self.close_bound(node, found.segment)
        floor = (close.floor or 0.0) + self._noise(node, found)
        what = "what honest engines of this rounding part by here"
        if self.known.stored != "f32":
            what += f", stored in {self.known.stored}"
        tolerance = bound_of(floor, what)
        opened = self.open_ops(node, found.segment)
        if not opened:
            return tolerance
        if opened & MATRIX_PRODUCTS and self.lacks_tokens(node):
            # Engines that scale a tensor as a whole do so by the largest value, maybe of a token that was not captured.
            return replace(tolerance, limit=math.inf)
        spread, quiet = self._spread(node, found)
        limit = bound_of(math.hypot(floor, spread), "").bound
        if quiet:
            what += f"; a coarser one would not leave {quiet} right"
        return replace(bound_of(floor, what), limit=limit)

    def runs_bound(self, node: Node, found: Recomputed) -> Tolerance | None:
        """The bound from several runs of the known arithmetic, whose results differ by as much as those of two engines
        do, where the capture is beyond it; None where it is within, or some other arithmetic that is possible has it
        within its own. Stages in between may be kept in any type."""
        hidden = frozenset[str]() if self.known.rounding.matmul_input == BY_WEIGHT else _HIDDEN
        kinds = dict.fromkeys((self.known.rounding.stage_output, *sorted(self.known.between | hidden)))
        plain = [replace(self.known.rounding, stage_output=kind) for kind in kinds]
        bounds = []
        for rounding in plain:
            bounds.append(self._bound_of_runs(node, found, rounding))
            if bounds[-1].admits(self._error(node, rounding)):
                return None
        for rounding in map(partial(self._nearest, node), plain):
            bounds.append(self._bound_of_runs(node, found, rounding))
            if bounds[-1].admits(self._error(node, rounding)):
                return None
        return max(bounds, key=lambda bound: bound.bound)

    def _nearest(self, node: Node, rounding: Rounding) -> Rounding:
        """`rounding` with the alternatives that come nearest to the capture, one after the other: the right one comes
        out nearer, whatever else is not right yet."""
        possible = self.known.alternatives
        for keys in sorted({tuple(sorted(changes)) for changes in possible if changes}):
            tried = [rounding, *(replace(rounding, **c) for c in possible if tuple(sorted(c)) == keys)]
            rounding = min(tried, key=lambda choice: self._error(node, choice))
        return rounding

    def _bound_of_runs(self, node: Node, found: Recomputed, rounding: Rounding) -> Tolerance:
        expected = self._run(rounding).recompute(node, found.values.shape[-2])
        runs = max(self._distance(node, expected, self._apart(s, rounding), self._stored(s)) for s in _APART_SEEDS)
        exact = FLOAT32 * math.sqrt(len(found.segment) + 1) + ANGLE_ERROR * len(self.stages.tokens)
        runs += self._by_chunks(node, found)
        return bound_of(math.hypot(exact, runs), "what runs of this rounding part by here")

    def _error(self, node: Node, rounding: Rounding) -> float:
        """How far the capture is from an engine of `rounding`, for the worst token."""
        captured = np.ascontiguousarray(self.stages.values(node))
        return self._between(node, self._run(rounding).recompute(node, captured.shape[-2]).values, captured)

    def open_ops(self, node: Node, segment: Sequence[Node]) -> frozenset[Op]:
        """The ops on the way to `node` whose rounding is not established."""
        return self.known.open_ops & {self.model.graph[n.stage].op for n in (*segment, node)}

    def lacks_tokens(self, node: Node) -> bool:
        """Whether the engine computed `node` for more tokens than were captured; of logits it wants the last only."""
        return not self.model.graph[node.stage].of_last_position and self.stages.rows(node) < len(self.stages.tokens)

    def forget_before(self, layer: int) -> None:
        for run in self._runs.values():
            run.forget_before(layer)

    def _noise(self, node: Node, found: Recomputed) -> float:
        rounding, evaluated = self.known.rounding, (*found.segment, node)
        is_stored = any(self._stored_as(n) != "f32" for n in (*self.model.graph.inputs(node), *evaluated))
        noise, _ = self._farthest(node, found, self._alternatives({self.model.graph[n.stage].op for n in evaluated}))
        # What a softplus loses depends on its values.
        if found.segment or is_stored or self.model.graph[node.stage].op is Op.SOFTPLUS:
            noise += max(self._distance(node, found, self._disturbed(seed), self._stored(seed)) for seed in SEEDS)
        if self._may_cancel(node):
            noise += max(self._distance(node, found, self._moved(seed)) for seed in SEEDS)
        noise += self._by_chunks(node, found)
        fed = evaluated if is_stored else fed_nodes(self.model, node, found.segment)
        if any(flip_error(self.model, n, rounding) for n in fed):
            noise += self._distance(node, found, self._run(_without_inputs(rounding))) / 2
        if rounding.sums != "f32" and any(self.model.graph[n.stage].op in MATRIX_PRODUCTS for n in evaluated):
            # Another order of sums errs as much, and independently.
            noise += self._distance(node, found, self._run(replace(rounding, sums="f32")))
        if found.segment:
            # A fused kernel keeps more digits between its ops than it writes, another engine fewer.
            kinds = self.known.between - {rounding.stage_output}
            noise += sum(self._distance(node, found, self._run(replace(rounding, stage_output=kind))) for kind in kinds)
        return noise

    def _alternatives(self, ops: set[Op]) -> set[Rounding]:
        """The roundings that are possible beside the known one, as far as they can change what `ops` give."""
        rounding = self.known.rounding
        if ops.isdisjoint(MATRIX_PRODUCTS | ATTENTION_OPS | {Op.GELU}):
            return set()
        return {
            replace(rounding, **{name: kind for name, kind in changes.items() if concerns(name, ops)})
            for changes in self.known.alternatives
        } - {rounding}

    def _spread(self, node: Node, found: Recomputed) -> tuple[float, str | None]:
        roundings = honest_roundings(self.known.rounding, self.open_ops(node, found.segment))
        return self._farthest(node, found, roundings)

    def _farthest(self, node: Node, found: Recomputed, roundings: Iterable[Rounding]) -> tuple[float, str | None]:
        """How far the farthest engine of the `roundings` comes out that may have made the capture, and the place that
        came out right where the farthest of all would not have left it so."""
        distances, quiet = dict[Rounding, float](), dict[Rounding, QuietPlace | None]()
        for rounding in roundings:
            other = self._run(rounding).recompute(node, found.values.shape[-2]).values
            distances[rounding] = self._between(node, found.values, other)
            quiet[rounding] = self._quiet_place(node, found, rounding, other)
        if not distances:
            return 0.0, None
        shares = {rounding: 1.0 if place is None else place.share for rounding, place in quiet.items()}
        farthest = quiet[max(distances, key=lambda rounding: distances[rounding])]
        possible = max(distance * shares[rounding] for rounding, distance in distances.items())
        return possible, farthest.name if farthest is not None and farthest.share < _CLEARLY_LESS else None

    def _quiet_place(self, node: Node, found: Recomputed, rounding: Rounding, other: Array) -> QuietPlace | None:
        """Where the captured values are nearest to `found`, against `other` ones of an engine of another `rounding`."""
        expected = found.values.astype(np.float64)
        if expected.ndim != 2:
            return None
        rows = expected.shape[0]
        error, spread = (values - expected for values in (self.stages.values(node)[-rows:], other))
        finite = np.isfinite(error).all(1) & np.isfinite(spread).all(1)
        tokens = np.flatnonzero(finite) + len(self.stages.tokens) - rows
        of_scores = changes_scores_only(self.known.rounding, rounding)
        sources = self.model.config.graph.heads if of_scores else None
        return quiet_place(error[finite], spread[finite], tokens.tolist(), sources)

    def _run(self, rounding: Rounding) -> Recomputer:
        if rounding not in self._runs:
            recomputation = Recomputation(self.model, rounding, self.evaluators, self.known.outputs)
            self._runs[rounding] = Recomputer(self.model, self.stages, recomputation)
        return self._runs[rounding]

    def _disturbed(self, seed: int) -> Recomputer:
        if seed not in self._runs:
            last_bits = disturbance(self.model, seed, LAST_BITS)
            recomputation = Recomputation(
                self.model, self.known.rounding, lambda angles: DisturbedNodes(self.evaluators(angles), last_bits),
                self.known.outputs,
            )  # fmt: skip
            self._runs[seed] = Recomputer(self.model, self.stages, recomputation, read=self._stored(seed))
        return self._runs[seed]

    def _apart(self, seed: int, rounding: Rounding) -> Recomputer:
        """A run of `rounding` whose results differ by as much as those of another engine of it."""
        if (rounding, seed) not in self._runs:
            apart = disturbance(self.model, seed, differing_by(rounding))
            recomputation = Recomputation(
                self.model, rounding, lambda angles: DisturbedNodes(self.evaluators(angles), apart), self.known.outputs
            )
            run = Recomputer(self.model, self.stages, recomputation, read=self._stored(seed))
            self._runs[rounding, seed] = run
        return self._runs[rounding, seed]

    def _may_cancel(self, node: Node) -> bool:
        """Whether the result for a token may be much smaller than what it is the sum of."""
        stage = self.model.graph[node.stage]
        narrow = stage.op is Op.MATMUL and stage.width < _NARROW
        return narrow or stage.op in (Op.DELTA_STATE, Op.DELTA_OUTPUT)

    def _moved(self, seed: int) -> Recomputer:
        """Inputs with other last bits: what that does to a sum, another order of it may do as well."""
        if ("moved", seed) not in self._runs:
            recomputation = Recomputation(self.model, self.known.rounding, self.evaluators, self.known.outputs)
            read = disturbance(self.model, seed, LAST_BITS)
            self._runs["moved", seed] = Recomputer(self.model, self.stages, recomputation, read=read)
        return self._runs["moved", seed]

    def _by_chunks(self, node: Node, found: Recomputed) -> float:
        """How far a stage comes out whose recurrences, if it has any, are computed in chunks."""
        recurrences = (Op.DELTA_STATE, Op.DELTA_OUTPUT)
        if not any(self.model.graph[n.stage].op in recurrences for n in (*found.segment, node)):
            return 0.0
        return self._distance(node, found, self._in_chunks())

    def _in_chunks(self) -> Recomputer:
        """Recurrences computed as other engines compute prompts."""
        if "chunks" not in self._runs:
            recomputation = Recomputation(
                self.model, self.known.rounding, lambda angles: ChunkedNodes(self.evaluators(angles), self.model),
                self.known.outputs,
            )  # fmt: skip
            self._runs["chunks"] = Recomputer(self.model, self.stages, recomputation)
        return self._runs["chunks"]

    def _stored(self, seed: int) -> Disturb:
        return lambda node, values: before_storage(self._stored_as(node), seed)(node, values)

    def _stored_as(self, node: Node) -> str:
        """The type that values of `node` may only have been saved in. Of attention maps nothing shows whether an engine
        that computes in 16 bits goes on with those: many keep scores and probabilities in float32."""
        if self.known.stored == "f32" and self.model.graph[node.stage].is_attention_map:
            return self.known.output_type(node)
        return self.known.stored

    def _distance(self, node: Node, found: Recomputed, run: Recomputer, written: Disturb | None = None) -> float:
        """How far `run` comes out from `found`, for the worst token."""
        other: Array = run.recompute(node, found.values.shape[-2]).values
        return self._between(node, found.values, other if written is None else written(node, other))

    def _between(self, node: Node, expected: Array, other: Array) -> float:
        """Tokens that overflow in one of them aside."""
        causal = self.model.graph[node.stage].is_attention_map
        tokens = token_errors(np.ascontiguousarray(expected), np.ascontiguousarray(other), causal=causal)
        return float(np.max(tokens[np.isfinite(tokens)], initial=0.0))


def other_roundings(known: KnownArithmetic) -> set[Rounding]:
    """What an engine of the `known` arithmetic may round instead: alternatives, other types of stages in between."""
    rounding = known.rounding
    others = {replace(rounding, **changes) for changes in known.alternatives}
    return (others | {replace(rounding, stage_output=kind) for kind in known.between}) - {rounding}


def differing_by(rounding: Rounding) -> float:
    """What results of two engines of an arithmetic differ by, relatively.

    Stages in 16 bits are rounded in the middle of an op as well, by each engine elsewhere. A few runs see few flips of
    8-bit inputs, so there the last bits differ by more.
    """
    if rounding.stage_output != "f32":
        return OUTPUT_STEP[rounding.stage_output] / 2
    return LAST_BITS * (1 if rounding.matmul_input in ("none", "tf32", "f16", "bf16") else MORE_FLIPS)


def changes_scores_only(rounding: Rounding, other: Rounding) -> bool:
    """Whether engines of the two roundings part in the probabilities of keys and in nothing else."""
    same_values = cached_type(Op.ATTEND, rounding) == cached_type(Op.ATTEND, other)
    return same_values and replace(other, kv_cache=rounding.kv_cache, softmax=rounding.softmax) == rounding


def honest_roundings(rounding: Rounding, ops: frozenset[Op]) -> set[Rounding]:
    """`rounding` with each of the `HONEST_ROUNDINGS` in its place as far as it concerns `ops`."""
    names = {"stage_output"} if rounding.stage_output == "f32" else set()
    names |= {name for name in ("matmul_input", "kv_cache", "softmax", "activation") if concerns(name, ops)}
    return {replace(rounding, **{name: choice[name] for name in names}) for choice in HONEST_ROUNDINGS}


def _without_inputs(rounding: Rounding) -> Rounding:
    """`rounding` without what is rounded on the way into matrix products, attention and GELU."""
    return replace(
        rounding, matmul_input=UNROUNDED.matmul_input, kv_cache=UNROUNDED.kv_cache, softmax=UNROUNDED.softmax,
        activation=UNROUNDED.activation,
    )  # fmt: skip
