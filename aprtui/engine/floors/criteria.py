"""Criteria from the model: the difference between two engines is found out first, then its floor is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from aprtui.compare.captures import Criteria
from aprtui.compare.floor import floor_bounds
from aprtui.compare.verdict import StageVerdict
from aprtui.engine.floors.measure import arithmetic_floor, spread_floor, weight_floor
from aprtui.engine.floors.own_errors import OTHER_WEIGHTS, OwnErrors, own_errors
from aprtui.engine.protocol import Rounding
from aprtui.engine.replay.arithmetic import KnownArithmetic, NodeEvaluators, rounding_text
from aprtui.engine.replay.bounds import OUTPUT_STEP
from aprtui.engine.replay.identify import FoundEngine, IdentifiedCapture, identify_capture, states_weights
from aprtui.engine.replay.misfit import misfit
from aprtui.engine.replay.place import captured_range
from aprtui.engine.replay.recompute import CapturedStages
from aprtui.engine.replay.spread import honest_roundings, other_roundings
from aprtui.engine.result_cache import cached, python_digest
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.resources import floor_cache
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node

Floors = dict[Node, float]

FLOATS = ("F32", "F16", "BF16")
"""Weights that are finer than those of any quantization."""

COARSER = 4.0
"""How much coarser the weights of another quantization may be: a step of two bits, as in Q2_K, is five of four bits."""

SOURCES = (
    "engine/floors", "engine/replay", "engine/rounding.py", "engine/cpu", "engine/reference", "compare/metrics",
    "model/weights.py", "model/weight_types.py",
)  # fmt: skip
"""The code that measures floors: floors that other versions of it measured are not valid."""


@dataclass(frozen=True, slots=True)
class OtherForm:
    """The model in the form that one of two captures is of, and its file is not."""

    model: Model
    evaluators: NodeEvaluators


def criteria_by_model(
    a: Capture, b: Capture, model: Model, tokens: Sequence[int], evaluators: NodeEvaluators,
    progress: Progress | None = None, others: Mapping[str, OtherForm] = MappingProxyType({}),
) -> Criteria:  # fmt: skip
    """The floor between the engines of `a` and `b` on `model`, which at least one of them must have run.

    Weights that differ give an estimated floor, arithmetic that differs a measured one; the statements say which. The
    floor admits all that came in with the inputs of a stage. So each side with the weights of `model` is replayed too:
    what a stage adds to its own inputs is a fault, however small it is against the floor. A side that `others` names is
    replayed in another form of the model; what both forms have rounds by as much in either, and has one floor.
    """
    forms = {name: others.get(name, OtherForm(model, evaluators)) for name in "AB"}
    problems = [(name, misfit(capture, forms[name].model, tokens)) for name, capture in (("A", a), ("B", b))]
    doubts = tuple(f"{name} cannot be held against MODEL: {problem}" for name, problem in problems if problem)
    if doubts:
        return Criteria(doubts=doubts, unjudgeable=True)
    captures = {"A": a, "B": b}
    identified = {
        name: identify_capture(_stages_of(capture, forms[name].model, tokens), {}, forms[name].evaluators, progress)
        for name, capture in captures.items()
    }
    sides = {name: _engine_of(side) for name, side in identified.items()}
    foreign = [name for name, side in sides.items() if not side.own_weights]
    statements = []
    for name, side in sides.items():
        weights = "the weights of MODEL" if side.own_weights else "other weights than MODEL's"
        statements.append(f"{name}: {weights}, rounding {rounding_text(side.rounding)}")
    if len(foreign) == 2:
        doubt = "neither side has the weights of MODEL: give each its own with --model-a and --model-b"
        return Criteria(statements=tuple(statements), doubts=(doubt,), unjudgeable=True)
    all_logits = all(_has_all_logits(capture) for capture in (a, b))
    measuring = _Measuring(model, tokens, evaluators, progress, all_logits)
    known = (sides["A"].arithmetic, sides["B"].arithmetic)
    floors, coarsest = measuring.allowed(known)
    basis = "the floor of this arithmetic"
    if foreign:
        of_weights = measuring.cached(
            ("weights",), lambda: weight_floor(model, tokens, progress, all_logits=all_logits)
        )
        floors = {node: math.hypot(floor, of_weights[node]) for node, floor in floors.items()}
        basis = "the estimated floor of other weights of this quantization"
        stated = _quantization(a if foreign == ["A"] else b)
        if stated is not None and stated not in (model.quantization, *FLOATS):
            coarsest = {node: max((coarsest or {}).get(node, 0.0), COARSER * floor) for node, floor in floors.items()}
            statements.append(
                f"{foreign[0]}: its weights are {stated}, MODEL's {model.quantization}: no error is a fault up to "
                f"{COARSER:g} × the bound"
            )
        statements.append(
            f"what differs: the weights ({foreign[0]}'s are not MODEL's); floor: estimated, exact runs with weights "
            "disturbed within their quantisation step, 8 seeds, 95th percentile"
        )
    else:
        differs = known[0].rounding != known[1].rounding or coarsest is not None
        what = "the arithmetic" if differs else "nothing but the order of sums"
        statements.append(f"what differs: {what}; floor: our own runs of MODEL on these tokens under both roundings")
    for name, side in sides.items():
        rebuilt = forms[name].model.rebuilt
        statements += [f"{name}: {rebuilt.statement}"] if rebuilt else []
        statements += [f"{name}: {statement}" for statement in side.statements[1:]]
    own = {
        name: own_errors(name, identified[name], forms[name].evaluators, progress)
        for name, side in sides.items()
        if side.own_weights or side.cause is not None
    }
    unproven = [n for n in foreign if n not in own and states_weights(captures[n], model) is not False]
    doubts = tuple(f"{name}: {OTHER_WEIGHTS}" for name in unproven)
    injected = {
        node: (_failed(own, "A", node), _failed(own, "B", node)) for side in own.values() for node in side.failed
    }
    widths = {stage.name: stage.width for stage in model.graph.stages if not stage.is_attention_map}
    return Criteria(
        bounds=floor_bounds(floors, basis, coarsest), statements=tuple(statements), widths=widths,
        injected=injected or None, doubts=doubts,
        everywhere=tuple(found for side in own.values() for found in side.everywhere),
        causes=tuple(cause for side in own.values() for cause in side.causes),
        alternatives=tuple(one for side in own.values() for one in side.alternatives),
        proven=own["A"].proven & own["B"].proven if len(own) == 2 and not foreign else frozenset(),
        groups=model.config.graph.expert_groups,
    )  # fmt: skip


def _failed(own: Mapping[str, OwnErrors], side: str, node: Node) -> StageVerdict | None:
    return own[side].failed.get(node) if side in own else None


def _quantization(capture: Capture) -> str | None:
    """The quantization that the manifest of a capture states; None where it says nothing."""
    return None if capture.manifest is None else capture.manifest.model.quantization


@dataclass(frozen=True, slots=True)
class _Measuring:
    """Measures floors of one model on some tokens, where they are not known yet: that costs several forward passes."""

    model: Model
    tokens: Sequence[int]
    evaluators: NodeEvaluators
    progress: Progress | None
    all_logits: bool
    """Whether both captures have logits of more than the last position."""

    def allowed(self, known: tuple[KnownArithmetic, KnownArithmetic]) -> tuple[Floors, Floors | None]:
        """The floors between two engines of the `known` arithmetics, and where nothing has established one of them,
        the floors up to the coarsest engine that it may be."""
        first, second = (side.rounding for side in known)
        floors = self.cached(
            ("arithmetic", rounding_text(first), rounding_text(second)),
            lambda: arithmetic_floor(
                self.model, self.tokens, (first, second), self.evaluators, self.progress, all_logits=self.all_logits
            ),
        )
        for side in known:
            alike = self._spread(side.rounding, other_roundings(side))
            stored = OUTPUT_STEP[side.stored]
            floors = {node: floor + alike.get(node, 0.0) + stored for node, floor in floors.items()}
        unsettled = [side for side in known if side.open_ops]
        if not unsettled:
            return floors, None
        coarsest = dict(floors)
        for side in unsettled:
            honest = self._spread(side.rounding, honest_roundings(side.rounding, side.open_ops))
            coarsest = {node: floor + honest.get(node, 0.0) for node, floor in coarsest.items()}
        return floors, coarsest

    def _spread(self, reference: Rounding, others: Collection[Rounding]) -> Floors:
        chosen = sorted(set(others) - {reference}, key=rounding_text)
        if not chosen:
            return {}
        return self.cached(
            ("spread", rounding_text(reference), *map(rounding_text, chosen)),
            lambda: spread_floor(
                self.model, self.tokens, reference, chosen, self.evaluators, self.progress, all_logits=self.all_logits
            ),
        )

    def cached(self, of: tuple[str, ...], measure: Callable[[], Floors]) -> Floors:
        rows: tuple[str, ...] = ("all logits",) if self.all_logits else ()
        rows += () if self.model.rebuilt is None else ("in the other form",)
        key = (python_digest(*SOURCES), *of, *rows, self.model.sha256(), ",".join(map(str, self.tokens)))
        return cached(
            floor_cache(), key, measure,
            encode=lambda floors: [[node.layer, node.stage, floor] for node, floor in floors.items()],
            decode=lambda rows: {Node(layer, stage): float(floor) for layer, stage, floor in rows},
        )  # fmt: skip


def _has_all_logits(capture: Capture) -> bool:
    shapes = [file.shape for node, file in capture.files.items() if capture.graph[node.stage].holds_logits]
    return any(shape is None or shape[0] > 1 for shape in shapes)


def _stages_of(capture: Capture, model: Model, tokens: Sequence[int]) -> CapturedStages:
    return CapturedStages(capture, model, tuple(tokens), last=len(captured_range(capture, model, tokens)))


def _engine_of(side: IdentifiedCapture) -> FoundEngine:
    """The engine of a side; one that has other weights than the model counts as one that rounds nothing."""
    found = side.engine
    return found if found.own_weights else replace(found, arithmetic=KnownArithmetic())
