"""What alternatives leave of a stage behind whole layers of which nothing was captured, each tried at all nodes on the
way that it concerns, before the engine's arithmetic is looked for under any of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from aprtui.compare.verdict import Verdict
from aprtui.engine.alternatives.alternative import Alternative, least, nicest
from aprtui.engine.alternatives.call import AlternativeNodes, StageCall
from aprtui.engine.alternatives.in_all_layers.numbered import NUMBERED, NumberedAlternative
from aprtui.engine.alternatives.in_all_layers.table import IN_ALL_LAYERS
from aprtui.engine.protocol import NodeEvaluator
from aprtui.engine.replay.arithmetic import KnownArithmetic, NodeEvaluators, Recomputation
from aprtui.engine.replay.causes.failing import Failing, SearchedRun
from aprtui.engine.replay.causes.proof import LACKING, ChangedNodes
from aprtui.engine.replay.causes.remembered import ComputedOrCaptured, RememberingNodes
from aprtui.engine.replay.recompute import Recomputed, Recomputer
from aprtui.model.config import RopeAngles
from aprtui.progress import Progress
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

_MOST_NUMBERS = 12
"""Numbers that one alternative is tried with: some go through all tokens."""
_HELPS = 0.7
"""Of the model's own error: what a number must leave less than to be looked for more closely."""
_ABOUT = 1.5
"""A number leaves about as little as another one up to so many times that."""
_STEP, _DOUBLINGS = 0.005, 9
"""How far, as a share, the first number is that is tried for leaving more, and how often that is doubled."""
_LAST_BITS = 1e-6
"""What is left of a model by sums in another order: of numbers that leave less, the shortest is taken."""
_STEPS = 18
"""Between two numbers: to one part in five thousand of their distance."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """A change, and what it leaves of the failing stage."""

    change: ChangedNodes
    residue: float


@dataclass(slots=True)
class WholeScan:
    """Tries alternatives on the way to one stage that fails; of those that are named `only`, where any are."""

    run: SearchedRun
    failing: Failing
    only: Collection[str]
    progress: Progress
    _way: tuple[Node, ...] = field(init=False)
    _own: Recomputer = field(init=False)

    def __post_init__(self) -> None:
        self._own = self.run.recomputer(self._known)
        self._way = (*self._own.segment(self.failing.node, self.failing.found.shape[-2]), self.failing.node)

    def at_all_nodes(self) -> Iterator[Scanned]:
        """Each alternative at all nodes that it concerns; those of one number with the number that leaves least."""
        yield from self._scanned([change for one, nodes in self._concerned() for change in self._changes(one, [nodes])])
        rows = [row for row in NUMBERED if self._is_asked_for(row.alternative)]
        for done, row in enumerate(rows):
            words = f"looking for the cause at {self.failing.node}, trying numbers,"
            nodes = self._nodes(row.alternative)
            if nodes:
                tick = partial(self.progress, words, done, len(rows))
                yield from _WithNumbers(self, row, frozenset(nodes), self._call_at(nodes[-1]), tick).scanned()

    def at_nodes_of_one_name(self) -> Iterator[Scanned]:
        """Alternatives that concern stages of several names, at those of each name: all keys, but no queries. Weights
        are decoded alike everywhere."""
        changes: list[ChangedNodes] = []
        for alternative, nodes in self._concerned():
            names = dict.fromkeys(node.stage for node in nodes)
            if len(names) > 1 and self.run.model.graph[nodes[-1].stage].op is not Op.MATMUL:
                changes += self._changes(
                    alternative, [[node for node in nodes if node.stage == name] for name in names]
                )
        yield from self._scanned(changes)

    def left_by(self, change: ChangedNodes) -> Iterator[Scanned]:
        """What a change leaves; nothing where it cannot be computed."""
        with suppress(*LACKING):
            values = recomputed(self.run, self.failing, self._known, changed(self.run, change)).values
            if values.shape == self.failing.found.shape:
                yield Scanned(change, self.run.left(self.failing, values))

    @property
    def _known(self) -> KnownArithmetic:
        """The arithmetic that is known; of one that could not be told, or that a stage passes by, maybe by chance,
        nothing is taken for granted."""
        is_doubtful = self.run.known.open_ops or self.failing.comparison.verdict.verdict is Verdict.PASS
        return KnownArithmetic() if is_doubtful else self.run.known

    def _is_asked_for(self, alternative: Alternative) -> bool:
        return not self.only or alternative.name in self.only

    def _nodes(self, alternative: Alternative) -> list[Node]:
        return [node for node in self._way if alternative.concerns(self.run.model, node)]

    def _concerned(self) -> list[tuple[Alternative, list[Node]]]:
        """The alternatives that concern nodes on the way, with these, in execution order."""
        found = [(one, self._nodes(one)) for one in IN_ALL_LAYERS if self._is_asked_for(one)]
        return sorted(
            ((one, nodes) for one, nodes in found if nodes),
            key=lambda entry: self.run.model.graph.order[entry[1][-1]],
        )

    def _changes(self, alternative: Alternative, groups: Sequence[Sequence[Node]]) -> list[ChangedNodes]:
        """An alternative at each group of nodes, with the numbers that are usual."""
        with suppress(*LACKING):
            attempts = list(alternative.attempts(self._call_at(groups[-1][-1]), None))[:_MOST_NUMBERS]
            return [ChangedNodes(frozenset(nodes), alternative, one) for one in attempts for nodes in groups]
        return []

    def _call_at(self, node: Node) -> StageCall:
        tokens = self.run.stages.tokens
        count = self.failing.found.shape[-2] if node == self.failing.node else len(tokens)
        self._own.recompute(node, count)
        position, inputs = len(tokens) - count, tuple(self._own.inputs(node, count))
        return replace(self.failing.call, node=node, inputs=inputs, tokens=tokens[position:], position=position)

    def _scanned(self, changes: Sequence[ChangedNodes]) -> Iterator[Scanned]:
        for done, change in enumerate(changes):
            self.progress(f"looking for the cause at {self.failing.node}, trying other ways,", done, len(changes))
            yield from self.left_by(change)


@dataclass(slots=True)
class _WithNumbers:
    """Looks for the number of one alternative at the nodes that it concerns."""

    scan: WholeScan
    row: NumberedAlternative
    at: frozenset[Node]
    call: StageCall
    tick: Callable[[], None]
    _found: dict[float, Scanned] = field(default_factory=dict)

    def scanned(self) -> Iterator[Scanned]:
        """The number that leaves least, with those that leave about as little where more than last bits are left."""
        nearest = _looked_for(self._left, self.row.numbers(self.call), _HELPS * self.scan.failing.error)
        if nearest not in self._found:
            return
        found = self._found[nearest]
        if _LAST_BITS * 10 < found.residue <= _HELPS * self.scan.failing.error:
            low, high = (_short(self._end(nearest, found.residue * _ABOUT, sign)) for sign in (-1, 1))
            words = f"{found.change.attempt.words} ({low} to {high} leave about as little)"
            found = replace(found, change=replace(found.change, attempt=replace(found.change.attempt, words=words)))
        yield found

    def _end(self, nearest: float, most: float, sign: int) -> float:
        """The first number on one side of the nearest that leaves more than `most`, each twice as far as the last."""
        for power in range(_DOUBLINGS):
            number = nearest * math.exp(sign * _STEP * 2**power)
            if self._left(number) > most:
                break
        return number

    def _left(self, number: float) -> float:
        if number not in self._found:
            self.tick()
            change = ChangedNodes(self.at, self.row.alternative, self.row.attempt(self.call, number))
            self._found.update((number, one) for one in self.scan.left_by(change))
        return self._found[number].residue if number in self._found else math.inf


def _looked_for(left: Callable[[float], float], numbers: Sequence[float], enough: float) -> float:
    """The number that leaves least: of `numbers`, or between these where that leaves less than half; these alone where
    none of them leaves less than `enough`."""
    ordered = sorted(numbers)
    best = min(ordered, key=left)
    if not 0 < left(best) <= enough:
        return best
    place = ordered.index(best)
    below = ordered[place - 1] if place else best**2 / ordered[1]
    above = ordered[place + 1] if place + 1 < len(ordered) else best**2 / ordered[-2]
    between = math.exp(least(lambda x: left(math.exp(x)), math.log(below), math.log(above), _STEPS))
    solved = nicest(between, lambda number: max(left(number), _LAST_BITS) ** 2)
    return solved if left(solved) < left(best) / 2 else best


def _short(number: float) -> str:
    """In three digits, without an exponent where that is no longer."""
    return f"{float(f'{number:.3g}'):.10g}"


def changed(run: SearchedRun, change: ChangedNodes) -> NodeEvaluators:
    """Evaluators that compute the changed nodes in the other way."""
    opened = dict[RopeAngles, NodeEvaluator]()

    def other(angles: RopeAngles) -> NodeEvaluator:
        if angles not in opened:
            computed = dict[Node, np.ndarray]()
            seen = ComputedOrCaptured(computed, run.stages)
            engine = run.evaluators(angles)
            nodes = AlternativeNodes(run.model, angles, engine, change.attempt.compute, change.at, seen)
            opened[angles] = RememberingNodes(nodes, computed)
        return opened[angles]

    return other


def recomputed(run: SearchedRun, failing: Failing, known: KnownArithmetic, evaluators: NodeEvaluators) -> Recomputed:
    """The failing stage as these evaluators compute it under an arithmetic."""
    arithmetic = Recomputation(run.model, known.rounding, evaluators, known.outputs)
    return Recomputer(run.model, run.stages, arithmetic).recompute(failing.node, failing.found.shape[-2])
