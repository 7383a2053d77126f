"""Choosing a backend and opening it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

from aprtui.engine.protocol import Engine, Intervention, KvType, Mode
from aprtui.errors import EngineError, UsageError
from aprtui.machine import available_memory, default_threads
from aprtui.progress import Progress

if TYPE_CHECKING:
    from aprtui.model.model import Model


def numba_missing() -> str | None:
    """Why the compiled CPU kernels cannot run here, or None."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed: pip install numba"
    return None


def open_engine(
    model: Model,
    *,
    backend: str = "auto",
    mode: Mode = Mode.EXACT,
    kv: KvType = KvType.F32,
    threads: int | None = None,
    context: int | None = None,
    fit: bool = False,
    intervention: Intervention | None = None,
    progress: Progress | None = None,
    told: Callable[[str], None] | None = None,
) -> Engine:
    """Open `model` in `backend` (`auto`, `cpu`, `cuda` or `numpy`).

    `auto` takes the GPU where one computes what the CPU computes (see `parity`), else the CPU, else numpy; `told` hears
    which and why. `context` defaults to the model's own; with `fit` it is reduced to what there is memory for. Raises
    `EngineError` for a backend that cannot run here; a backend asked for by name is never replaced.
    """
    context = model.config.context if context is None else context
    progress = progress or (lambda what, done, total: None)
    if backend == "cuda":
        return _open_cuda(model, mode, kv, context, progress, intervention, fit=fit)
    if backend == "auto":
        try:
            why = _parity_with_cuda(model, kv, threads or default_threads(), progress, intervention)
            engine = _open_cuda(model, mode, kv, context, progress, intervention, fit=fit)
        except EngineError as error:
            why = _without_cure(str(error).removeprefix("backend cuda: "))
            engine = _open_cpu(model, backend, mode, kv, threads, context, progress, intervention, fit=fit)
        if told is not None:
            told(f"backend {engine.backend}: {why}")
        return engine
    return _open_cpu(model, backend, mode, kv, threads, context, progress, intervention, fit=fit)


def _without_cure(text: str) -> str:
    """What is wrong, without what to do about it: who asked for `auto` has got another engine."""
    return text.rpartition(": use ")[0] or text


def _parity_with_cuda(
    model: Model, kv: KvType, threads: int, progress: Progress, intervention: Intervention | None
) -> str:
    """Why the GPU can be taken. Raises `EngineError` that says why it cannot."""
    from aprtui.engine.cuda.detect import detect

    found = detect()
    if found.problem or found.device is None or found.driver is None:
        raise EngineError(found.problem)
    if intervention is not None:
        raise EngineError("faults are injected on the CPU only")
    if numba_missing():
        raise EngineError(f"no CPU engine to hold {found.device} against: {numba_missing()}")
    from aprtui.engine.parity.cache import remembered
    from aprtui.engine.parity.gate import POSITIONS, parity_gate

    def opened(name: str, mode: Mode) -> Engine:
        return open_engine(
            model, backend=name, mode=mode, kv=kv if mode is Mode.Q8 else KvType.F32, threads=threads,
            context=POSITIONS, progress=progress,
        )  # fmt: skip

    parity = remembered(
        model, found.device, found.driver, kv,
        lambda: parity_gate(
            model, lambda mode: opened("cuda", mode), lambda: opened("cpu", Mode.EXACT), threads, progress
        ),
    )  # fmt: skip
    told = f"{found.device}: {parity.reason}"
    if not parity.passed:
        raise EngineError(told)
    return told


def _open_cuda(
    model: Model, mode: Mode, kv: KvType, context: int, progress: Progress, intervention: Intervention | None,
    *, fit: bool,
) -> Engine:  # fmt: skip
    if intervention is not None:
        raise UsageError(
            "backend cuda: its kernels compute several stages at once, so no fault can be injected between them: "
            "use --backend cpu"
        )
    from aprtui.engine.cuda.opening import open_cuda

    return open_cuda(model, mode, kv, context, progress, fit=fit)


def _open_cpu(
    model: Model, backend: str, mode: Mode, kv: KvType, threads: int | None, context: int, progress: Progress,
    intervention: Intervention | None, *, fit: bool,
) -> Engine:  # fmt: skip
    context = _with_memory(model, kv, context, fit=fit)
    missing = numba_missing()
    if backend == "numpy" or (backend == "auto" and missing):
        from aprtui.engine.reference.engine import NumpyEngine

        return NumpyEngine(model, mode, kv, context, intervention)
    if missing:
        raise EngineError(f"backend cpu: {missing}, or use --backend numpy")
    from aprtui.engine.cpu.engine import CpuEngine

    return CpuEngine(model, mode, kv, threads or default_threads(), context, progress, intervention)


def _with_memory(model: Model, kv: KvType, context: int, *, fit: bool) -> int:
    """The context, reduced to what fits if asked to. Raises `EngineError` if the K/V cache alone takes more memory than
    is available."""
    graph = model.config.graph
    position = 2 * (2 if kv is KvType.F16 else 4) * graph.layers * graph.kv_width
    available = available_memory()
    if available is None or position * context <= available:
        return context
    fits = available // position
    if fit and fits:
        return fits
    raise EngineError(
        f"a K/V cache of {context} positions needs {position * context / 1e9:.1f} GB, {available / 1e9:.1f} GB are "
        "available: use a smaller --context (or --context fit), or --kv f16"
    )
