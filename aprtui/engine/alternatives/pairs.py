"""Two alternatives at once: the second is solved for, and computed, on what the first one makes of a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from aprtui.engine.alternatives.alternative import Alternative, Attempt
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.trace.graph.stage import Node


def paired(first: Alternative, second: Alternative) -> Alternative:
    """Both as one alternative. Numbers of the first are solved for as if it were alone, or are the usual ones."""

    def attempts(call: StageCall, found: Array | None) -> Iterator[Attempt]:
        for one in distinct(first, call, found):
            yield from together(one, second, call, found)

    return Alternative(
        f"{first.name} and {second.name}", first.at & second.at, attempts, f"{first.advice}; {second.advice}",
        lambda model, node: first.applies(model, node) and second.applies(model, node),
        first.may_be_meant and second.may_be_meant,
    )  # fmt: skip


def together(first: Attempt, second: Alternative, call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """The attempts of the second where the engine does what the first says as well: on top of its result, or where the
    first is another call of the same op, in any way."""
    if second.of_result or first.changed is not None:
        for other in second.attempts(after(first, call), found):
            words = f"{first.words}; and {other.words}"
            yield Attempt(words, partial(_both, first, other), first.fitted + other.fitted)


def distinct(alternative: Alternative, call: StageCall, found: Array | None) -> list[Attempt]:
    """Its attempts with solved numbers, then those with usual ones, each once."""
    attempts = {attempt.words: attempt for attempt in alternative.attempts(call, None)} if found is not None else {}
    attempts |= {attempt.words: attempt for attempt in alternative.attempts(call, found)}
    return list(attempts.values())


def after(first: Attempt, call: StageCall) -> StageCall:
    """`call` as it is where the engine does what `first` says."""
    if first.changed is not None:
        return first.changed(call)
    return replace(call, engine=_Through(first.compute, call))


def _both(first: Attempt, second: Attempt, call: StageCall) -> Array:
    return second.compute(after(first, call))


@dataclass(slots=True)
class _Through:
    """`NodeEvaluator` that computes the node of a call in another way, once for the call's own inputs."""

    compute: Callable[[StageCall], Array]
    call: StageCall
    _own: Array | None = field(default=None)

    def evaluate(self, node: Node, inputs: Sequence[Array], *, tokens: Sequence[int], position: int) -> Array:
        call = self.call
        if node != call.node:
            return call.engine.evaluate(node, inputs, tokens=tokens, position=position)
        is_own = inputs is call.inputs and position == call.position
        if is_own and self._own is not None:
            return self._own
        found = self.compute(replace(call, inputs=tuple(inputs), tokens=tokens, position=position))
        if is_own:
            self._own = found
        return found

    def close(self) -> None:
        """Nothing of its own to release."""
