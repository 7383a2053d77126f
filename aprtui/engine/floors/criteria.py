"""Criteria from the model: the difference between two engines is found out first, then its floor is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from aprtui.compare.captures import Criteria
from aprtui.compare.floor import floor_bounds
from aprtui.engine.floors.measure import arithmetic_floor, weight_floor
from aprtui.engine.replay.arithmetic import UNROUNDED, NodeEvaluators, Recomputation, rounding_text
from aprtui.engine.replay.identify import FoundEngine, find_layouts, identify
from aprtui.engine.replay.recompute import CapturedStages, Recomputer
from aprtui.engine.replay.replay import misfit
from aprtui.engine.result_cache import cached, python_digest
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.resources import floor_cache
from aprtui.trace.capture import Capture
from aprtui.trace.graph import Node

Floors = dict[Node, float]

SOURCES = (
    "engine/floors", "engine/replay", "engine/rounding.py", "engine/cpu", "engine/reference", "compare/metrics",
    "model/weights.py", "model/weight_types.py",
)  # fmt: skip
"""The code that measures floors: floors that other versions of it measured are not valid."""


def criteria_by_model(
    a: Capture, b: Capture, model: Model, tokens: Sequence[int], evaluators: NodeEvaluators,
    progress: Progress | None = None,
) -> Criteria:  # fmt: skip
    """The floor between the engines of `a` and `b` on `model`, which at least one of them must have run.

    Weights that differ give an estimated floor, arithmetic that differs a measured one; the statements say which.
    """
    problems = [(name, misfit(capture, model, tokens)) for name, capture in (("A", a), ("B", b))]
    doubts = tuple(f"MODEL is not that of {name}: {problem}" for name, problem in problems if problem)
    if doubts:
        return Criteria(doubts=doubts, unjudgeable=True)
    sides = {name: _engine_of(capture, model, tokens, evaluators) for name, capture in (("A", a), ("B", b))}
    foreign = [name for name, side in sides.items() if not side.own_weights]
    statements = []
    for name, side in sides.items():
        weights = "the weights of MODEL" if side.own_weights else "other weights than MODEL's"
        statements.append(f"{name}: {weights}, rounding {rounding_text(side.rounding)}")
    if len(foreign) == 2:
        doubt = "neither side has the weights of MODEL: give each its own with --model-a and --model-b"
        return Criteria(statements=tuple(statements), doubts=(doubt,), unjudgeable=True)
    roundings = (sides["A"].rounding, sides["B"].rounding)
    floors = _cached(
        ("arithmetic", *map(rounding_text, roundings)), model, tokens,
        lambda: arithmetic_floor(model, tokens, roundings, evaluators, progress),
    )  # fmt: skip
    basis = "the floor of this arithmetic"
    if foreign:
        of_weights = _cached(("weights",), model, tokens, lambda: weight_floor(model, tokens, progress))
        floors = {node: math.hypot(floor, of_weights[node]) for node, floor in floors.items()}
        basis = "the estimated floor of other weights of this quantization"
        statements.append(
            f"what differs: the weights ({foreign[0]}'s are not MODEL's); floor: estimated, exact runs with weights "
            "disturbed within their quantisation step, 8 seeds, 95th percentile"
        )
    else:
        what = "the arithmetic" if roundings[0] != roundings[1] else "nothing but the order of sums"
        statements.append(f"what differs: {what}; floor: our own runs of MODEL on these tokens under both roundings")
    return Criteria(bounds=floor_bounds(floors, basis), statements=tuple(statements))


def _engine_of(capture: Capture, model: Model, tokens: Sequence[int], evaluators: NodeEvaluators) -> FoundEngine:
    """The engine of a capture; one that has other weights than `model` counts as one that rounds nothing."""
    recomputer = Recomputer(model, CapturedStages(capture, model, tokens))
    for _ in find_layouts(recomputer, Recomputation(model, UNROUNDED, evaluators)):
        pass
    found = identify(recomputer, {}, evaluators)
    return found if found.own_weights else replace(found, rounding=UNROUNDED)


def _cached(of: tuple[str, ...], model: Model, tokens: Sequence[int], measure: Callable[[], Floors]) -> Floors:
    """The floors of `model` on `tokens`, measured where they are not known yet: that costs several forward passes."""
    key = (python_digest(*SOURCES), *of, model.sha256(), ",".join(map(str, tokens)))
    return cached(
        floor_cache(), key, measure,
        encode=lambda floors: [[node.layer, node.stage, floor] for node, floor in floors.items()],
        decode=lambda rows: {Node(layer, stage): float(floor) for layer, stage, floor in rows},
    )  # fmt: skip
