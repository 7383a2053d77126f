"""What fails in a capture, with what it was computed from, what the model makes of that, and what was captured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.comparison import StageComparison
from aprtui.compare.metrics.measure import token_errors
from aprtui.engine.alternatives.alternative import Alternative
from aprtui.engine.alternatives.call import StageCall
from aprtui.engine.alternatives.table import ALTERNATIVES
from aprtui.engine.replay.arithmetic import KnownArithmetic, NodeEvaluators, Recomputation
from aprtui.engine.replay.bounds import replay_tolerance
from aprtui.engine.replay.recompute import CapturedStages, Recomputed, Recomputer
from aprtui.engine.replay.spread import Spreads
from aprtui.model.config import RopeAngles
from aprtui.model.model import Model
from aprtui.trace.graph.ops import MATRIX_PRODUCTS
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Failing:
    """A stage that fails; `error` is what the model's `own` values miss the `found` ones by."""

    comparison: StageComparison
    call: StageCall
    own: Array
    found: Array
    error: float
    bound: float
    known: KnownArithmetic

    @property
    def node(self) -> Node:
        return self.comparison.node

    @property
    def given(self) -> StageCall:
        """The call, of which the model's own way need not be computed again."""
        return replace(self.call, engine=_Given(self.call, self.own))


def residue(values: Array, found: Array, *, is_map: bool) -> float:
    """Relative L2 of the worst token; inf where values are NaN or Inf on one side only."""
    errors = token_errors(values, found, causal=is_map)
    return float(errors[~np.isnan(errors)].max(initial=0.0))


@dataclass(frozen=True, slots=True)
class Seen(Mapping[Node, Array]):
    """What a capture holds; what it lacks is computed from what it holds."""

    recomputer: Recomputer

    def __getitem__(self, node: Node) -> Array:
        stages, graph = self.recomputer.stages, self.recomputer.model.graph
        if node not in graph.order:
            raise KeyError(node)
        if stages.rows(node):
            return stages.values(node)
        return self.recomputer.recompute(node, len(stages.tokens)).values

    def __iter__(self) -> Iterator[Node]:
        return iter(self.recomputer.stages.capture.files)

    def __len__(self) -> int:
        return len(self.recomputer.stages.capture.files)


@dataclass(frozen=True, slots=True)
class _Given:
    """`NodeEvaluator` that knows what comes of a call as it is."""

    call: StageCall
    own: Array

    def evaluate(self, node: Node, inputs: Sequence[Array], *, tokens: Sequence[int], position: int) -> Array:
        call = self.call
        if node == call.node and inputs is call.inputs and position == call.position and tokens is call.tokens:
            return self.own
        return call.engine.evaluate(node, inputs, tokens=tokens, position=position)

    def close(self) -> None:
        """Nothing to release."""


@dataclass(slots=True)
class SearchedRun:
    """One capture, what is known of its engine, what of that the user stated, and what its stages may err by."""

    model: Model
    stages: CapturedStages
    known: KnownArithmetic
    evaluators: NodeEvaluators
    spreads: Spreads
    stated: Mapping[str, str] = field(default_factory=dict)
    seen: Seen = field(init=False)

    def __post_init__(self) -> None:
        self.seen = Seen(self.recomputer(self.known))

    def recomputer(self, known: KnownArithmetic) -> Recomputer:
        """One that computes as an engine of this arithmetic."""
        arithmetic = Recomputation(self.model, known.rounding, self.evaluators, known.outputs)
        return Recomputer(self.model, self.stages, arithmetic)

    def failing(self, stage: StageComparison, known: KnownArithmetic) -> Failing:
        """A stage that fails, computed in the model's own way under an arithmetic."""
        node, recomputer = stage.node, self.recomputer(known)
        rows = self.stages.rows(node)
        position = len(self.stages.tokens) - rows
        own = np.ascontiguousarray(recomputer.recompute(node, rows).values)
        inputs, angles = recomputer.inputs(node, rows), RopeAngles(known.rounding.rope_angles)
        call = StageCall(
            self.model, angles, self.evaluators(angles), self.seen, node, tuple(inputs),
            self.stages.tokens[position:], position,
        )  # fmt: skip
        found = np.ascontiguousarray(self.stages.values(node))
        error = residue(own, found, is_map=self.model.graph[node.stage].is_attention_map)
        return Failing(stage, call, own, found, error, self._bound(stage, own, known), known)

    def _bound(self, stage: StageComparison, own: Array, known: KnownArithmetic) -> float:
        if known is self.known:
            return self.spreads.bound(stage.node, Recomputed(own, stage.segment)).bound
        return replay_tolerance(self.model, stage.node, (), known, len(self.stages.tokens)).bound

    def left(self, failing: Failing, values: Array) -> float:
        """What is left of a stage that fails where it comes out as `values`: a share of the smaller of the two, or
        large values would seem to leave little."""
        is_map, values = self.model.graph[failing.node.stage].is_attention_map, np.ascontiguousarray(values)
        return max(residue(values, failing.found, is_map=is_map), residue(failing.found, values, is_map=is_map))

    def alternatives(self, node: Node) -> list[Alternative]:
        """Those that concern a node; none of products in an engine that has other weights than the model."""
        if self.is_product(node) and self._products_are_others:
            return []
        return [alternative for alternative in ALTERNATIVES if alternative.concerns(self.model, node)]

    def is_product(self, node: Node) -> bool:
        return self.model.graph[node.stage].op in MATRIX_PRODUCTS

    @property
    def _products_are_others(self) -> bool:
        return Recomputation(self.model, self.known.rounding, self.evaluators).changes_products
