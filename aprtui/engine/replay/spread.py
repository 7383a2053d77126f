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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from aprtui.compare.metrics.measure import measure
from aprtui.compare.verdict import Tolerance
from aprtui.engine.protocol import Rounding
from aprtui.engine.replay.arithmetic import ATTENTION_OPS, UNROUNDED, KnownArithmetic, NodeEvaluators, Recomputation
from aprtui.engine.replay.bounds import bound_of, fed_nodes, flip_error, replay_tolerance
from aprtui.engine.replay.chunked_delta import ChunkedNodes
from aprtui.engine.replay.disturbed import LAST_BITS, Disturb, DisturbedNodes, disturbance
from aprtui.engine.replay.recompute import Array, CapturedStages, Recomputed, Recomputer
from aprtui.engine.replay.value_types import before_storage
from aprtui.model.model import Model
from aprtui.trace.graph import MATRIX_PRODUCTS, Node, Op

SEEDS = (1, 2)

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
    _runs: dict[Rounding | int | str | tuple[str, int], Recomputer] = field(default_factory=dict)

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
        if opened & MATRIX_PRODUCTS and self._lacks_tokens(node):
            # Engines that scale a tensor as a whole do so by the largest value, maybe of a token that was not captured.
            return replace(tolerance, limit=math.inf)
        return replace(tolerance, limit=bound_of(floor + self._spread(node, found), "").bound)

    def open_ops(self, node: Node, segment: Sequence[Node]) -> frozenset[Op]:
        """The ops on the way to `node` whose rounding is not established."""
        return self.known.open_ops & {self.model.graph[n.stage].op for n in (*segment, node)}

    def _lacks_tokens(self, node: Node) -> bool:
        """Whether the engine computed `node` for more tokens than were captured; of logits it wants the last only."""
        return not self.model.graph[node.stage].of_last_position and self.stages.rows(node) < len(self.stages.tokens)

    def forget_before(self, layer: int) -> None:
        for run in self._runs.values():
            run.forget_before(layer)

    def _noise(self, node: Node, found: Recomputed) -> float:
        rounding, evaluated = self.known.rounding, (*found.segment, node)
        is_stored = any(self._stored_as(n) != "f32" for n in (*self.model.graph.inputs(node), *evaluated))
        rounding_ops = MATRIX_PRODUCTS | ATTENTION_OPS | {Op.GELU}
        rounds = any(self.model.graph[n.stage].op in rounding_ops for n in evaluated)
        others = {replace(rounding, **changes) for changes in self.known.alternatives} - {rounding} if rounds else ()
        noise = max((self._distance(node, found, self._run(other)) for other in others), default=0.0)
        # What a softplus loses depends on its values.
        if found.segment or is_stored or self.model.graph[node.stage].op is Op.SOFTPLUS:
            noise += max(self._distance(node, found, self._disturbed(seed), self._stored(seed)) for seed in SEEDS)
        if self._may_cancel(node):
            noise += max(self._distance(node, found, self._moved(seed)) for seed in SEEDS)
        if any(self.model.graph[n.stage].op in (Op.DELTA_STATE, Op.DELTA_OUTPUT) for n in evaluated):
            noise += self._distance(node, found, self._in_chunks())
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

    def _spread(self, node: Node, found: Recomputed) -> float:
        ops = self.open_ops(node, found.segment)
        runs = honest_roundings(self.known.rounding, ops)
        return max(self._distance(node, found, self._run(rounding)) for rounding in runs)

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
        """How far `run` comes out from `found`, for the worst token; tokens that overflow in one of them aside."""
        other: Array = run.recompute(node, found.values.shape[-2]).values
        if written is not None:
            other = written(node, other)
        causal = self.model.graph[node.stage].is_attention_map
        tokens = measure(found.values, np.ascontiguousarray(other), causal=causal).tokens
        return float(np.max(tokens[np.isfinite(tokens)], initial=0.0))


def other_roundings(known: KnownArithmetic) -> set[Rounding]:
    """What an engine of the `known` arithmetic may round instead: alternatives, other types of stages in between."""
    rounding = known.rounding
    others = {replace(rounding, **changes) for changes in known.alternatives}
    return (others | {replace(rounding, stage_output=kind) for kind in known.between}) - {rounding}


def honest_roundings(rounding: Rounding, ops: frozenset[Op]) -> set[Rounding]:
    """`rounding` with each of the `HONEST_ROUNDINGS` in its place as far as it concerns `ops`."""
    names = {"stage_output"} if rounding.stage_output == "f32" else set()
    names |= {"matmul_input"} if MATRIX_PRODUCTS & ops else set()
    names |= {"kv_cache", "softmax"} if ATTENTION_OPS & ops else set()
    names |= {"activation"} if Op.GELU in ops else set()
    return {replace(rounding, **{name: choice[name] for name in names}) for choice in HONEST_ROUNDINGS}


def _without_inputs(rounding: Rounding) -> Rounding:
    """`rounding` without what is rounded on the way into matrix products, attention and GELU."""
    return replace(
        rounding, matmul_input=UNROUNDED.matmul_input, kv_cache=UNROUNDED.kv_cache, softmax=UNROUNDED.softmax,
        activation=UNROUNDED.activation,
    )  # fmt: skip
