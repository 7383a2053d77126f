"""Which evaluator computes the nodes of a replay: that of a named backend, or of the fastest that can run here."""

from __future__ import annotations

from typing import Self

from aprtui.engine.backends.backend import Backend
from aprtui.engine.backends.registry import AUTO, evaluating_backends, find_backend, require_available
from aprtui.engine.protocol import NodeEvaluator
from aprtui.errors import EngineError
from aprtui.machine import default_threads
from aprtui.model.config import RopeAngles
from aprtui.model.model import Model
from aprtui.progress import Progress, no_progress


class Evaluators:
    """Evaluators of one model by their way of computing RoPE angles, opened when they are first asked for."""

    def __init__(
        self, model: Model, backend: str = AUTO, threads: int | None = None, progress: Progress | None = None
    ) -> None:
        """A backend that evaluates no single nodes is replaced; raises `EngineError` for one that cannot run here."""
        self._backend = _evaluating(backend)
        self._model, self._threads, self._progress = model, threads or default_threads(), progress or no_progress
        self._opened: dict[RopeAngles, NodeEvaluator] = {}

    def __call__(self, angles: RopeAngles) -> NodeEvaluator:
        if angles not in self._opened:
            assert self._backend.evaluator is not None
            self._opened[angles] = self._backend.evaluator(self._model, angles, self._threads, self._progress)
        return self._opened[angles]

    def close(self) -> None:
        """Close what was opened; a second call does nothing."""
        for evaluator in self._opened.values():
            evaluator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _evaluating(name: str) -> Backend:
    backend, usable = find_backend(name), evaluating_backends()
    if backend in usable:
        require_available(backend)
        return backend
    for backend in usable:
        if backend.obstacle() is None:
            return backend
    raise EngineError("no backend that evaluates single stages can run here: see aprtui doctor")
