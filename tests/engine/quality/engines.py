"""Engines that do wrong what a gate is for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.protocol import NO_TAPS, Engine, Logits, Taps


class TouchedByTaps:
    """An engine whose logits are others where something is captured."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def forward(self, tokens: Sequence[int], taps: Taps = NO_TAPS, logits: Logits = Logits.LAST) -> NDArray[np.float32]:
        made = self._engine.forward(tokens, taps, logits)
        return np.ascontiguousarray(made[:, ::-1]) if taps.sink is not None else made
