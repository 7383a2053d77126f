"""The compiled kernels on the processor's cores."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from aprtui.engine.backends.backend import Backend, BackendObstacle, EngineRequest, context_in_memory
from aprtui.machine import default_threads, memory_bytes, processor_name
from aprtui.progress import Progress

if TYPE_CHECKING:
    from aprtui.engine.protocol import Engine, NodeEvaluator
    from aprtui.model.config import RopeAngles
    from aprtui.model.model import Model


def _obstacle() -> BackendObstacle | None:
    if importlib.util.find_spec("numba") is None:
        return BackendObstacle("numba is not installed", "pip install numba")
    return None


def _description() -> str:
    from aprtui.engine.cpu.tier import TIER

    memory = f"{memory_bytes() / 1e9:.0f} GB memory"
    return f"{processor_name()}, {default_threads()} cores, {memory}; kernels: {TIER}"


def _open(request: EngineRequest) -> Engine:
    from aprtui.engine.cpu.engine import CpuEngine

    context = context_in_memory(request)
    return CpuEngine(
        request.model, request.mode, request.kv, request.threads, context, request.progress, request.intervention
    )


def _evaluator(model: Model, angles: RopeAngles, threads: int, progress: Progress) -> NodeEvaluator:
    from aprtui.engine.cpu.nodes import CpuNodes

    return CpuNodes(model, threads, rope_angles=angles, progress=progress)


CPU = Backend(
    "cpu", "CPU engine", "compiled kernels", _obstacle, _open, description=_description, evaluator=_evaluator,
    same_bits=True,
)  # fmt: skip
