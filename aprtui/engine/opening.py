"""Opening an engine: in a named backend, or in the best one that can be used here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from aprtui.engine.backends.backend import Backend, EngineRequest
from aprtui.engine.backends.registry import (
    AUTO,
    BACKENDS,
    host_backends,
    named_backend,
    require_available,
    require_kv_type,
)
from aprtui.engine.kv_types import require_fitting
from aprtui.engine.protocol import Engine, Intervention, KvType, Mode
from aprtui.errors import EngineError, UsageError
from aprtui.machine import default_threads
from aprtui.model.model import Model
from aprtui.progress import Progress, no_progress


def open_engine(
    model: Model,
    *,
    backend: str = AUTO,
    mode: Mode = Mode.EXACT,
    kv: KvType = KvType.F32,
    threads: int | None = None,
    context: int | None = None,
    fit: bool = False,
    intervention: Intervention | None = None,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
) -> Engine:
    """Open `model` in `backend`: `auto`, or a name of `backends.registry`.

    `auto` takes a device that computes what the CPU computes (see `parity`), else the first backend of the processor
    that can run; `announce` is told which and why. `context` defaults to the model's own; with `fit` it is reduced to
    what there is memory for. Raises `EngineError` for a backend that cannot run here; a named backend is never
    replaced. Raises `UsageError` for a type of the K/V cache that does not fit the model.
    """
    require_fitting(kv, model.config.graph)
    request = EngineRequest(
        model, mode, kv, threads or default_threads(), model.config.context if context is None else context, fit,
        intervention, progress or no_progress,
    )  # fmt: skip
    if backend == AUTO:
        return _open_best(request, announce)
    chosen = named_backend(backend)
    if intervention is not None and chosen.interventions_problem:
        usable = next(other.name for other in BACKENDS if not other.interventions_problem)
        raise UsageError(f"backend {backend}: {chosen.interventions_problem}: use --backend {usable}")
    require_kv_type(chosen, kv)
    require_available(chosen)
    return chosen.open(request)


def _open_best(request: EngineRequest, announce: Callable[[str], None] | None) -> Engine:
    reasons = []
    for backend in BACKENDS:
        if backend.is_device:
            try:
                require_kv_type(backend, request.kv)
                reason = _parity(backend, request)
                engine = backend.open(request)
            except EngineError as error:
                # Without what to do about it: the caller of `auto` gets another engine.
                text = str(error).removeprefix(f"backend {backend.name}: ")
                reasons.append(text.rpartition(": use ")[0] or text)
                continue
        else:
            obstacle = backend.obstacle()
            if obstacle is not None:
                reasons.append(obstacle.problem)
                continue
            engine, reason = backend.open(request), "; ".join(reasons)
        if announce is not None:
            announce(f"backend {backend.name}: {reason}")
        return engine
    raise EngineError(f"no backend can run here: {'; '.join(reasons)}: see aprtui doctor")


def _parity(backend: Backend, request: EngineRequest) -> str:
    """Why a device can be taken. Raises `EngineError` that says why it cannot."""
    assert backend.identity is not None
    obstacle = backend.obstacle()
    if obstacle is not None:
        raise EngineError(obstacle.problem)
    # Imported here because most runs do without: replay and its comparison take a third of the time to load.
    from aprtui.engine.parity import POSITIONS, cached_parity, parity_gate

    if request.intervention is not None and backend.interventions_problem:
        raise EngineError(f"faults cannot be injected on {backend.name}")
    identity, host = backend.identity(), host_backends()[0]
    missing = host.obstacle()
    if missing is not None:
        raise EngineError(f"no {host.title} to hold {identity.device} against: {missing.problem}: {missing.advice}")

    def opened(by: Backend, mode: Mode) -> Engine:
        kv = request.kv if mode is Mode.Q8 else KvType.F32
        return by.open(replace(request, mode=mode, kv=kv, context=POSITIONS, fit=False, intervention=None))

    parity = cached_parity(
        request.model, identity, request.kv,
        lambda: parity_gate(
            request.model, lambda mode: opened(backend, mode), lambda: opened(host, Mode.EXACT), request.threads,
            request.progress,
        ),
    )  # fmt: skip
    reason = f"{identity.device}: {parity.reason}"
    if not parity.passed:
        raise EngineError(reason)
    return reason
