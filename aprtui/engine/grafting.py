"""Grafts: captured tensors put into our own forward pass, and what the logits become.

The rest of a pass is always computed by us, in the arithmetic that the capture shows: what an engine made of its own
tensors behind a stage cannot be asked of a file. So there are two kinds of grafts. *Captured into ours*: one captured
tensor (or those of a stretch) in a pass that is otherwise ours. *Ours into the capture*: all tensors up to a stage as
captured, everything behind it by us; two such cuts side by side say what lies between them is worth, for the second has
its tensor as captured and the first has ours there.

Cuts at one stage after the other lead from our logits to the captured ones, so what they add is all of the error. The
share of each is its part of the way, in the metric that the Kullback-Leibler divergence has for small differences (the
variance under the probabilities); shares add up to 1 and are negative where one error undoes another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.metrics.logits import LogitMetrics, measure_logits
from aprtui.engine.floors.measure import Run, flip_floors, run_forward
from aprtui.engine.replay.arithmetic import KnownArithmetic, NodeEvaluators, Recomputation, rounding_text
from aprtui.engine.replay.disturbed import LAST_BITS, MORE_FLIPS, Disturb, disturbance
from aprtui.engine.replay.identify import identify_capture
from aprtui.engine.replay.misfit import misfit
from aprtui.engine.replay.place import captured_range
from aprtui.engine.replay.recompute import CapturedStages
from aprtui.engine.replay.token_ids import tokens_of
from aprtui.errors import UsageError
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]
Wide = NDArray[np.float64]

LOOKED_INTO = 3
"""So many layers, those that add most, are looked into stage by stage."""
_LEAST_SHARE = 1e-3
_NOISE_RUNS = 2
_BEYOND_NOISE = 10.0
"""Times the divergence of honest runs: three times their difference."""


@dataclass(frozen=True, slots=True)
class GraftedLogits:
    """Logits of a pass with a graft, against those of ours: of how many tokens, the mean and the largest divergence in
    nats, None where they have no softmax, and in how many tokens another one comes first."""

    rows: int
    kl: float | None
    kl_largest: float | None
    flips: int

    @classmethod
    def of(cls, metrics: LogitMetrics) -> GraftedLogits:
        return cls(metrics.rows, metrics.kl_ab_mean, metrics.kl_ab_largest, len(metrics.flips))


@dataclass(frozen=True, slots=True)
class Worth:
    """What captured stages from `first` to `last` (in execution order) are worth.

    `share` of the error at the logits, None where there is none that can be divided; `before` and `after` are the
    logits with all captured up to them, without and with them, the rest by us. `alone` are those with these tensors in
    a pass that is otherwise ours, where that was asked for.
    """

    first: Node
    last: Node
    share: float | None
    before: GraftedLogits
    after: GraftedLogits
    alone: GraftedLogits | None = None
    whole_layer: bool = False


@dataclass(frozen=True, slots=True)
class GraftReport:
    """What each part is worth, the one that is worth most first. `total` is the whole error, `noise` the largest
    divergence between runs of this arithmetic that are honest; `statements` say what the pass was computed with."""

    total: GraftedLogits
    noise: float
    worths: tuple[Worth, ...]
    statements: tuple[str, ...]

    @property
    def explains(self) -> bool:
        """Whether the error is more than honest engines of this arithmetic are apart."""
        return self.total.kl is None or self.total.kl > _BEYOND_NOISE * self.noise

    @property
    def share_noise(self) -> float:
        """How far a share may be off: what honest runs are apart, against the whole error (both as differences of
        logits, whose squares divergences are)."""
        return math.sqrt(self.noise / self.total.kl) if self.total.kl else 0.0


@dataclass
class Grafting:
    """Grafts of one capture. Our own tensors of all layers' outputs are kept, so that a pass begins where it must."""

    model: Model
    stages: CapturedStages
    known: KnownArithmetic
    evaluators: NodeEvaluators
    progress: Progress
    statements: tuple[str, ...] = ()
    _clean: dict[Node, Array] = field(default_factory=dict)
    _logits: dict[Node | None, Array] = field(default_factory=dict)

    @classmethod
    def of(
        cls, capture: Capture, model: Model, evaluators: NodeEvaluators, progress: Progress,
        tokens: tuple[int, ...] | None = None, rounding: Mapping[str, str] = MappingProxyType({}),
    ) -> Grafting:  # fmt: skip
        """Grafts of `capture`, which `model` must have been run for; `tokens` are for one that records none, `rounding`
        is what our pass rounds where that is not what the capture shows.

        Raises `UsageError` where the capture does not fit the model, or its tokens cannot be known.
        """
        ids = capture.tokens or tokens or tokens_of(capture, model)
        problem = misfit(capture, model, ids)
        if problem or ids is None:
            raise UsageError(f"{capture.path}: {problem}")
        held = captured_range(capture, model, ids)
        stages = CapturedStages(capture, model, tuple(ids[: held.stop]), last=len(held))
        found = identify_capture(stages, {}, evaluators, progress)
        known, statements = found.engine.arithmetic, (*found.engine.statements, *found.layouts)
        statements += tuple(_form_statements(model))
        if rounding:
            known = KnownArithmetic(replace(known.rounding, **rounding))
            statements += (f"our pass: {rounding_text(known.rounding)}",)
        return cls(model, found.stages, known, evaluators, progress, statements)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The captured nodes that a graft can take: those with the values of some last positions."""
        stages = self.stages
        return tuple(node for node in self.model.graph.nodes if stages.rows(node) and not stages.is_saved_as_inf(node))

    def report(self, nodes: Sequence[Node] = ()) -> GraftReport:
        """What each of `nodes` is worth, each also alone.

        Without nodes: each layer, but of the layers that add most their stages, and what lies behind the layers.
        """
        if nodes:
            return self._reported([self.worth(node, node, alone=True) for node in nodes])
        worths = sorted(self._layers(), key=_weight, reverse=True)
        inside = [one for one in worths if one.whole_layer and _weight(one) >= _LEAST_SHARE][:LOOKED_INTO]
        stages = [self.worth(node, node) for one in inside for node in self._between(one.first, one.last)]
        return self._reported([one for one in worths if one not in inside] + stages)

    def stretch(self, first: Node, last: Node) -> GraftReport:
        """What the captured stages from `first` to `last` are worth, also alone in a pass that is otherwise ours."""
        return self._reported([self.worth(first, last, alone=True)])

    def _reported(self, worths: Sequence[Worth]) -> GraftReport:
        found = sorted(worths, key=_weight, reverse=True)
        return GraftReport(self._against_ours(self._end()), self._noise(), tuple(found), self.statements)

    def worth(self, first: Node, last: Node, *, alone: bool = False) -> Worth:
        """What the captured stages from `first` to `last` are worth. Raises `UsageError` where none was captured."""
        between = self._between(first, last)
        if not between:
            what = str(first) if first == last else f"from {first} to {last}"
            raise UsageError(f"{what}: not in the capture: it holds {self._held_names()}")
        before, after = self._cut(self._previous(between[0])), self._cut(between[-1])
        return Worth(
            first, last, self._share(before, after), self._against_ours(before), self._against_ours(after),
            self._against_ours(self._pass(frozenset(between), "put into our pass")) if alone else None,
        )  # fmt: skip

    def _held_names(self) -> str:
        return ", ".join(dict.fromkeys(node.stage for node in self.nodes)) or "nothing that fits"

    def _layers(self) -> Iterator[Worth]:
        graph = self.model.graph
        for layer in range(graph.layers):
            inside = [node for node in self.nodes if node.layer == layer]
            if inside:
                yield replace(self.worth(inside[0], inside[-1]), whole_layer=True)
        for node in self.nodes:
            if node.layer is None:
                yield self.worth(node, node)

    def _between(self, first: Node, last: Node) -> list[Node]:
        order = self.model.graph.order
        return [node for node in self.nodes if order[first] <= order[node] <= order[last]]

    def _previous(self, node: Node) -> Node | None:
        order = self.model.graph.order
        return next((other for other in reversed(self.nodes) if order[other] < order[node]), None)

    def _end(self) -> Array:
        return self._cut(self.nodes[-1] if self.nodes else None)

    def _cut(self, last: Node | None) -> Array:
        """Logits with all that was captured up to `last` as captured, everything behind it by us; kept."""
        if last is None:
            self._ours()
        if last not in self._logits:
            order = self.model.graph.order
            given = frozenset(node for node in self.nodes if last is not None and order[node] <= order[last])
            self._logits[last] = self._pass(given, f"captured up to {last}," if last else "our own pass")
        return self._logits[last]

    def _pass(self, given: frozenset[Node], what: str) -> Array:
        """Logits `[rows, V]` of a pass in which the captured tensors of `given` stand in place of ours."""
        self.progress(what, len(self._logits), max(self._passes, len(self._logits)))
        order = self.model.graph.order
        kept = self._ours()
        first = min((order[node] for node in given), default=0)
        known = given.union(node for node in kept if order[node] < first and node in self._crossing)
        *_, (_, logits) = self._run(known, lambda node: self._captured(node) if node in given else kept[node])
        return logits[-len(self._rows) :]

    def _run(self, known: frozenset[Node], values_of: Callable[[Node], Array], disturb: Disturb | None = None) -> Run:
        recomputation = Recomputation(self.model, self.known.rounding, self.evaluators, self.known.outputs)
        rows = list(self._rows[:-1])
        return run_forward(self.model, self.stages.tokens, recomputation, disturb, rows, known, values_of)

    def _ours(self) -> dict[Node, Array]:
        """Our own tensors where layers meet, and where the capture holds the last positions only."""
        if not self._clean:
            total = len(self.stages.tokens)
            partial = {node for node in self.nodes if 0 < self.stages.rows(node) < total}
            for node, values in self._run(frozenset(), self._captured):
                if node in self._crossing or node in partial:
                    self._clean[node] = values
                logits = values
            self._logits[None] = logits[-len(self._rows) :]
        return self._clean

    @cached_property
    def _crossing(self) -> frozenset[Node]:
        """Nodes that another layer reads, or what lies behind the layers."""
        graph = self.model.graph
        return frozenset(source for node in graph.nodes for source in graph.inputs(node) if source.layer != node.layer)

    def _captured(self, node: Node) -> Array:
        """The captured tensor of `node`; earlier positions, where it holds the last ones only, as we have them."""
        values, stage = self.stages.values(node), self.model.graph[node.stage]
        if stage.of_last_position or stage.is_attention_map or len(values) == len(self.stages.tokens):
            return values
        return np.concatenate([self._ours()[node][: -len(values)], values])

    @cached_property
    def _passes(self) -> int:
        """Passes that a report on all layers takes, about."""
        graph = self.model.graph
        return graph.layers + LOOKED_INTO * len(self.nodes) // graph.layers

    @property
    def _rows(self) -> range:
        """Positions of the captured logits; the last one where there are none."""
        total = len(self.stages.tokens)
        return range(total - max(1, self.stages.rows(self.model.graph.nodes[-1])), total)

    def _against_ours(self, logits: Array) -> GraftedLogits:
        return GraftedLogits.of(measure_logits(self._cut(None), logits))

    def _share(self, before: Array, after: Array) -> float | None:
        """The part of the way from our logits to the captured ones that lies between two cuts."""
        ours, end = self._cut(None).astype(np.float64), self._end().astype(np.float64)
        steps = [before.astype(np.float64), after.astype(np.float64)]
        if not all(np.isfinite(logits).all() for logits in (ours, end, *steps)):
            return None
        weights = (_softmax(ours) + _softmax(end)) / 2
        whole = _spread(end - ours, end - ours, weights)
        return _spread(steps[1] - steps[0], end - ours, weights) / whole if whole else None

    def _noise(self) -> float:
        """The largest divergence between our logits and those of runs with other last bits."""
        flips = any(flip_floors(self.model, [self.known.rounding]).values())
        size, found = LAST_BITS * (MORE_FLIPS if flips else 1), 0.0
        for seed in range(_NOISE_RUNS):
            self.progress("measuring the noise at the logits", seed, _NOISE_RUNS)
            *_, (_, logits) = self._run(frozenset(), self._captured, disturbance(self.model, seed, size))
            metrics = measure_logits(self._cut(None), logits[-len(self._rows) :])
            found = max(found, metrics.kl_ab_mean or 0.0)
        return found


def _form_statements(model: Model) -> Iterator[str]:
    """What is to be said where the model's file has another form than the capture."""
    if model.rebuilt is None:
        return
    yield model.rebuilt.statement
    stages = dict.fromkeys(node.stage for node in model.graph.nodes if model.uses_rebuilt(node))
    if stages:
        yield (
            f"what {' and '.join(stages)} are worth may be the quantisation alone: an engine with a file of the other "
            "form rounded the same weights otherwise"
        )


def _softmax(logits: Wide) -> Wide:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _spread(a: Wide, b: Wide, weights: Wide) -> float:
    """Covariance of `a` and `b` `[rows, V]` under `weights`, added up over the rows."""
    together = (weights * a * b).sum(axis=1) - (weights * a).sum(axis=1) * (weights * b).sum(axis=1)
    return float(together.sum())


def _weight(worth: Worth) -> float:
    """How much a part is worth, whatever the sign; more than all where logits stop being numbers there."""
    if worth.share is not None:
        return abs(worth.share)
    return np.inf if worth.before.kl is not None and worth.after.kl is None else 0.0
