"""Engines whose kernels trap on purpose, as a fault of a device does: nothing works in that process afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aprtui.engine.cuda.engine import CudaEngine
from aprtui.engine.process.loading import LoadedEngine, load_engine
from aprtui.engine.process.messages import EngineSettings
from aprtui.progress import Progress
from aprtui.resources import embedded_model

NOBODYS = 64  # an address


def trapping_engines(passes: int) -> None:
    """From now on CUDA engines of this process trap when they are asked for more than that many forward passes."""
    forward = CudaEngine.forward
    done = 0

    def counted(self: CudaEngine, tokens: Sequence[int], *rest: Any) -> Any:
        nonlocal done
        done += 1
        if done > passes:
            vectors = self._on_device._lowering.weights.vectors
            vectors.update(dict.fromkeys(vectors, NOBODYS))
            self._thread.run(self._on_device._drop_plans)
        return forward(self, tokens, *rest)

    CudaEngine.forward = counted  # type: ignore[method-assign, assignment]


def open_and_trap(progress: Progress, settings: EngineSettings) -> LoadedEngine:
    """Opens the embedded model; the third pass after that traps."""
    loaded = load_engine(progress, settings, embedded_model())
    trapping_engines(2)
    return loaded
