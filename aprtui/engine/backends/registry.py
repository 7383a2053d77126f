"""All backends, and how the rest of the program asks for one: by name or by what it can do.

A new backend is a file with a `Backend` and a line in `BACKENDS`. Command-line options, the form of the live screen,
contract checks, quality gates and `doctor` read this list.
"""

from __future__ import annotations

from collections.abc import Sequence

from aprtui.engine.backends.backend import Backend
from aprtui.engine.backends.cpu import CPU
from aprtui.engine.backends.cuda import CUDA
from aprtui.engine.backends.numpy_reference import NUMPY
from aprtui.errors import EngineError, UsageError

AUTO = "auto"
"""Stands for the first backend that can be used here."""

BACKENDS: list[Backend] = [CUDA, CPU, NUMPY]
"""The fastest first: the order in which `auto` tries them."""


def backend_names(backends: Sequence[Backend] | None = None) -> tuple[str, ...]:
    """Names of `backends` (all by default), in alphabetical order."""
    return tuple(sorted(backend.name for backend in (BACKENDS if backends is None else backends)))


def backend_choices(backends: Sequence[Backend] | None = None) -> tuple[str, ...]:
    """What a user may choose among `backends` (all by default)."""
    return (AUTO, *backend_names(backends))


def backend_help() -> str:
    """What each choice of `--backend` means, in one line."""
    rows = sorted((backend.name, backend.summary) for backend in BACKENDS)
    return "; ".join(f"{name}: {summary}" for name, summary in [*rows, (AUTO, "the best one here")]) + "."


def find_backend(name: str | None) -> Backend | None:
    """The backend called `name`; None where there is none, as for captures of other engines."""
    return next((backend for backend in BACKENDS if backend.name == name), None)


def named_backend(name: str) -> Backend:
    """The backend called `name`. Raises `UsageError` where there is none."""
    backend = find_backend(name)
    if backend is None:
        raise UsageError(f"backend {name}: there is none of this name: use one of {', '.join(backend_choices())}")
    return backend


def require_available(backend: Backend) -> None:
    """Raise `EngineError` where `backend` cannot run here: why, what to do, and which one to use instead."""
    obstacle = backend.obstacle()
    if obstacle is not None:
        slower = BACKENDS[BACKENDS.index(backend) + 1 :]
        instead = f", or use --backend {slower[0].name}" if slower else ""
        raise EngineError(f"backend {backend.name}: {obstacle.problem}: {obstacle.advice}{instead}")


def require_kv_type(backend: Backend, kv: str) -> None:
    """Raise `EngineError` where `backend` keeps no K/V cache of that type: which it keeps, and what keeps others."""
    if backend.kv_types is not None and kv not in backend.kv_types:
        other = next(slower.name for slower in BACKENDS if slower.kv_types is None)
        raise EngineError(
            f"backend {backend.name}: it keeps no K/V cache of type {kv}: use --kv {' or '.join(backend.kv_types)}, "
            f"or --backend {other}"
        )


def device_backends() -> list[Backend]:
    return [backend for backend in BACKENDS if backend.is_device]


def host_backends() -> list[Backend]:
    return [backend for backend in BACKENDS if not backend.is_device]


def evaluating_backends() -> list[Backend]:
    """Backends that evaluate single nodes: what a replay can run on."""
    return [backend for backend in BACKENDS if backend.evaluator is not None]


def fast_backends() -> list[Backend]:
    """Backends whose speed is worth measuring."""
    return [backend for backend in BACKENDS if not backend.is_slow]


def is_host(name: str | None) -> bool:
    """Whether `name` is a backend that computes on the processor."""
    backend = find_backend(name)
    return backend is not None and not backend.is_device
