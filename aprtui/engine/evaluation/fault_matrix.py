"""The faults that detection is measured on: every fault that is worth planting in a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.metrics.measure import measure
from aprtui.engine.faults.faults import Fault, FaultInjector
from aprtui.engine.faults.kinds import KINDS, applies
from aprtui.engine.protocol import Mode, NodeCall
from aprtui.model.model import Model
from aprtui.trace.graph import Node, Scope

MULTIPLES = (2, 10, 100)
"""Of the bound: what kinds with a magnitude change their stage by."""

OVERFLOW_SHARE = 0.9
"""The limit of `fp16-overflow`, as a share of the largest magnitude that the stage has in an honest run."""


@dataclass(frozen=True, slots=True)
class Case:
    """A fault to plant, the stages that are right answers for it, and for kinds with a magnitude its multiple."""

    fault: Fault
    accepted: frozenset[Node]
    multiple: int | None


def accepted_answers(fault: Fault) -> frozenset[Node]:
    """The stages that are right answers: the one where the fault is, whatever the kind; nothing before it is wrong."""
    return frozenset({fault.node})


def cases(model: Model, bound_of: Callable[[Node], float], largest: Mapping[Node, float]) -> Iterator[Case]:
    """Every kind at every stage that it applies to, in the first, the middle and the last layer.

    `bound_of` gives the bound of the judged signal at a node, `largest` the absmax of each stage in an honest run.
    """
    for kind, found in KINDS.items():
        for node in _nodes(model):
            if not applies(kind, model, node):
                continue
            if found.scales:
                for multiple in MULTIPLES:
                    yield _case(Fault(kind, node, {"magnitude": multiple * bound_of(node)}), multiple)
            elif "limit" in found.parameters:
                yield _case(Fault(kind, node, {"limit": OVERFLOW_SHARE * largest[node]}))
            else:
                yield _case(Fault(kind, node))


def _case(fault: Fault, multiple: int | None = None) -> Case:
    return Case(fault, accepted_answers(fault), multiple)


def _nodes(model: Model) -> Iterator[Node]:
    layers = model.graph.layers
    chosen = {0, layers // 2, layers - 1}
    for node in model.graph.nodes:
        if model.graph[node.stage].scope is not Scope.LAYER or node.layer in chosen:
            yield node


class MeteredFault:
    """`Intervention` that makes one fault and measures what it changes at its stage."""

    def __init__(self, model: Model, mode: Mode, fault: Fault) -> None:
        self.nodes = frozenset({fault.node})
        self._injector = FaultInjector(model, mode, [fault])
        self._graph = model.graph
        self.change = 0.0
        """The largest change of a token so far (`token_rel_l2`); inf where NaN or Inf appeared."""

    def __call__(self, call: NodeCall) -> NDArray[np.float32]:
        """The faulty stage tensor."""
        faulty = self._injector(call)
        before, after = call.output, faulty
        if self._graph[call.node.stage].is_attention_map:
            # A call sees its own queries only; above the diagonal both are zero, so all of it can be measured.
            before, after = (np.ascontiguousarray(maps.swapaxes(0, 1)) for maps in (before, after))
            before, after = before.reshape(len(before), -1), after.reshape(len(after), -1)
        tokens = measure(before, after).tokens
        self.change = max(self.change, float(np.nanmax(tokens, initial=0.0)))
        return faulty
