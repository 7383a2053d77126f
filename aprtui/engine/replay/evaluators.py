"""Which evaluator computes the nodes of a replay: the compiled kernels, or numpy where they cannot run."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from aprtui.engine.opening import numba_missing
from aprtui.engine.protocol import NodeEvaluator
from aprtui.engine.reference.nodes import NumpyNodes
from aprtui.errors import EngineError
from aprtui.machine import default_threads
from aprtui.model.config import RopeAngles
from aprtui.progress import Progress

if TYPE_CHECKING:
    from aprtui.model.model import Model


class Evaluators:
    """Evaluators of one model by their way of computing RoPE angles, opened when they are first asked for."""

    def __init__(
        self, model: Model, backend: str = "auto", threads: int | None = None, progress: Progress | None = None
    ) -> None:
        """Raises `EngineError` for a backend asked for by name that cannot run here."""
        missing = numba_missing()
        if backend == "cpu" and missing:
            raise EngineError(f"backend cpu: {missing}, or use --backend numpy")
        self._compiled = backend != "numpy" and missing is None
        self._model, self._threads, self._progress = model, threads or default_threads(), progress
        self._opened: dict[RopeAngles, NodeEvaluator] = {}

    def __call__(self, angles: RopeAngles) -> NodeEvaluator:
        """The evaluator that computes angles that way."""
        if angles not in self._opened:
            self._opened[angles] = self._open(angles)
        return self._opened[angles]

    def _open(self, angles: RopeAngles) -> NodeEvaluator:
        if not self._compiled:
            return NumpyNodes(self._model, angles)
        from aprtui.engine.cpu.nodes import CpuNodes

        return CpuNodes(self._model, self._threads, rope_angles=angles, progress=self._progress)

    def __enter__(self) -> Evaluators:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for evaluator in self._opened.values():
            evaluator.close()
