"""The reference as a `NodeEvaluator`: one node at a time in plain numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.reference.evaluate import evaluate
from aprtui.engine.rounding import Arithmetic, unrounded_input
from aprtui.model.config import RopeAngles
from aprtui.model.model import Model
from aprtui.trace.graph import Node


class NumpyNodes:
    """`NodeEvaluator` in float64 inside and float32 outside."""

    def __init__(self, model: Model, rope_angles: RopeAngles = RopeAngles.F64) -> None:
        self._model = model
        self._arithmetic = Arithmetic(unrounded_input, rope_angles)

    def evaluate(
        self, node: Node, inputs: Sequence[NDArray[np.float32]], *, tokens: Sequence[int], position: int
    ) -> NDArray[np.float32]:
        with np.errstate(invalid="ignore", over="ignore"):
            return evaluate(self._model, node, inputs, tokens=tokens, position=position, arithmetic=self._arithmetic)

    def close(self) -> None:
        """Nothing to release."""
