"""The logit lens: what a model would say if it ended after each of its layers (nostalgebraist 2020).

The last norm and the head of the model are applied to the output of every layer at one position, in float32
activations: without the roundings of the engine and without the faults that are injected into it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.sampling import NO_TOKEN, Candidate
from aprtui.model.config import RopeAngles
from aprtui.model.model import Model
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph


def layer_outputs(graph: StageGraph) -> tuple[Node, ...]:
    """The nodes that the lens looks at: the input of the last norm, and the same stage in every layer."""
    (last,) = graph.inputs(_end(graph)[0])
    return tuple(node for node in graph.nodes if node.stage == last.stage)


def _end(graph: StageGraph) -> tuple[Node, ...]:
    """The last norm, and what makes logits of it."""
    logits = tuple(node for node in graph.nodes if graph[node.stage].holds_logits)
    return (*graph.inputs(logits[0]), *logits)


class LogitLens:
    """The lens of one model. It opens an evaluator of its own, which is idle between two calls."""

    def __init__(self, model: Model, backend: str, threads: int | None) -> None:
        self._graph = model.graph
        self._evaluators = Evaluators(model, backend, threads)

    def look(self, outputs: NDArray[np.float32]) -> list[Candidate]:
        """The likeliest token after each layer, from the outputs `[layers, hidden]` of one position.

        NO_TOKEN with probability NaN where the logits are no distribution.
        """
        evaluator = self._evaluators(RopeAngles.F64)
        values, unused = outputs, [0] * len(outputs)
        for node in _end(self._graph):
            values = evaluator.evaluate(node, [values], tokens=unused, position=0)
        return [_likeliest(row) for row in values]

    def close(self) -> None:
        """End the evaluator; a second call does nothing."""
        self._evaluators.close()


def _likeliest(logits: NDArray[np.float32]) -> Candidate:
    best = int(np.argmax(logits))
    with np.errstate(invalid="ignore"):
        total = float(np.exp(logits - logits[best]).sum(dtype=np.float64))
    return Candidate(best, 1 / total) if np.isfinite(total) else Candidate(NO_TOKEN, float("nan"))
