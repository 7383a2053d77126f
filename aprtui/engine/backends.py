"""Choosing a backend and opening it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from aprtui.engine.protocol import Engine, Intervention, KvType, Mode
from aprtui.errors import EngineError

if TYPE_CHECKING:
    from aprtui.model.model import Model

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and out of how many."""


def numba_missing() -> str | None:
    """Why the compiled CPU kernels cannot run here, or None."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed: pip install numba"
    return None


def default_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_engine(
    model: Model,
    *,
    backend: str = "auto",
    mode: Mode = Mode.EXACT,
    kv: KvType = KvType.F32,
    threads: int | None = None,
    context: int | None = None,
    intervention: Intervention | None = None,
    progress: Progress | None = None,
) -> Engine:
    """Open `model` in `backend` (`auto`, `cpu`, `cuda` or `numpy`); `auto` takes numpy where numba is missing.

    `context` defaults to the model's own. Raises `EngineError` for a backend that cannot run here; a backend asked for
    by name is never replaced by another.
    """
    context = model.config.context if context is None else context
    if backend == "cuda":
        from aprtui.engine.cuda.detect import detect

        device = detect().require()
        raise EngineError(f"backend cuda: {device} is here, but this release has no CUDA engine: use --backend cpu")
    _require_memory(model, kv, context)
    missing = numba_missing()
    if backend == "numpy" or (backend == "auto" and missing):
        from aprtui.engine.reference.engine import NumpyEngine

        return NumpyEngine(model, mode, kv, context, intervention)
    if missing:
        raise EngineError(f"backend cpu: {missing}, or use --backend numpy")
    from aprtui.engine.cpu.engine import CpuEngine

    return CpuEngine(model, mode, kv, threads or default_threads(), context, progress, intervention)


def _require_memory(model: Model, kv: KvType, context: int) -> None:
    """Raise `EngineError` if the K/V cache alone is more than the memory that is available."""
    graph = model.config.graph
    needed = 2 * (2 if kv is KvType.F16 else 4) * graph.layers * graph.kv_width * context
    available = _available_memory()
    if available is not None and needed > available:
        raise EngineError(
            f"a K/V cache of {context} positions needs {needed / 1e9:.1f} GB, {available / 1e9:.1f} GB are available: "
            "use a smaller --context or --kv f16"
        )


def _available_memory() -> int | None:
    """Bytes that can be allocated without swapping, where the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
