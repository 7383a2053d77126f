"""Where the rows of a capture stand in their sequence: from the ids, or from the angles that RoPE turned them by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from aprtui.engine.replay.arithmetic import NodeEvaluators
from aprtui.engine.replay.recompute import CapturedStages
from aprtui.engine.replay.token_ids import parts_of
from aprtui.model.config import RopeAngles
from aprtui.model.model import Model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

_POSITIONS = 4096
_ROWS = 64
_NEAR = 0.05
"""How far a row turned by the right angles may be off; by those of another position it is off by much more."""


def captured_range(capture: Capture, model: Model, tokens: Sequence[int]) -> range:
    """The positions of `tokens` that the capture's rows are of: where its embedding shows fewer of them in one place,
    those, else all."""
    parts = parts_of(tokens, capture, model)
    return parts[0] if len(parts) == 1 else range(len(tokens))


def row_positions(stages: CapturedStages, evaluators: NodeEvaluators) -> tuple[int, ...] | None:
    """The position of each row (of the first 64) as RoPE turned it, in the first layer that tells; None where none
    does."""
    graph = stages.model.graph
    for node in graph.nodes:
        if graph[node.stage].op is Op.ROPE:
            source = graph.inputs(node)[0]
            if 0 < stages.rows(node) == stages.rows(source):
                return _turned_by(node, source, stages, evaluators)
    return None


def position_ranges(positions: Sequence[int]) -> str:
    """`positions` as runs of one after the other: "0–6, 0–6"."""
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in _runs(positions))


def _turned_by(
    node: Node, source: Node, stages: CapturedStages, evaluators: NodeEvaluators
) -> tuple[int, ...] | None:  # fmt: skip
    model = stages.model
    part = model.config.graph.part(model.graph.entries(node)[0].part)
    evaluator, count = evaluators(RopeAngles.F64), min(_POSITIONS, model.config.context)
    found = []
    for before, after in zip(stages.values(source)[:_ROWS, part], stages.values(node)[:_ROWS], strict=True):
        turned = evaluator.evaluate(node, [np.tile(before, (count, 1))], tokens=[0] * count, position=0)
        errors = np.linalg.norm(turned - after, axis=1)
        if not errors.min() <= _NEAR * np.linalg.norm(after):
            return None
        found.append(int(errors.argmin()))
    return tuple(found)


def _runs(positions: Sequence[int]) -> Iterator[list[int]]:
    run = [positions[0]]
    for before, position in pairwise(positions):
        if position != before + 1:
            yield run
            run = []
        run.append(position)
    yield run
