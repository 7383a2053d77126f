"""What a backend says of itself: how it opens, why it may be missing here, and what it can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aprtui.errors import EngineError
from aprtui.machine import available_memory
from aprtui.progress import Progress
from aprtui.trace.graph.stage import TokenMixer

if TYPE_CHECKING:
    from aprtui.engine.protocol import Engine, Intervention, KvType, Mode, NodeEvaluator
    from aprtui.model.config import RopeAngles
    from aprtui.model.model import Model


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """The engine that a backend is asked for. With `fit` the context is reduced to what there is memory for."""

    model: Model
    mode: Mode
    kv: KvType
    threads: int
    context: int
    fit: bool
    intervention: Intervention | None
    progress: Progress


@dataclass(frozen=True, slots=True)
class BackendObstacle:
    problem: str
    advice: str


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """All that the results of a device depend on beside the model and our own version."""

    device: str
    driver: str
    kernels: str


@dataclass(frozen=True, slots=True)
class Backend:
    """A row of the registry. What an engine offers beyond the `Engine` protocol (times of its stages, choosing tokens
    by itself, the load of its device) the engine shows by the protocols that it implements."""

    name: str
    """As `--backend` and manifests name it."""
    title: str
    """As `doctor` names it."""
    summary: str
    """What it is, for the help of `--backend`."""
    obstacle: Callable[[], BackendObstacle | None]
    open: Callable[[EngineRequest], Engine]
    """Called where there is no obstacle. Raises `EngineError` where the model does not fit."""
    description: Callable[[], str] | None = None
    """What it runs on here, for `doctor`, which leaves out backends without one."""
    evaluator: Callable[[Model, RopeAngles, int, Progress], NodeEvaluator] | None = None
    """Opens an evaluator of single nodes on so many threads, for replays and floors; None where there is none."""
    identity: Callable[[], DeviceIdentity] | None = None
    """Of a backend that computes on a device of its own. `auto` takes it only once it computes what the processor does,
    and remembers that by this identity."""
    kv_types: tuple[str, ...] | None = None
    """The types of the K/V cache that it keeps; None for all."""
    interventions_problem: str = ""
    """Why no faults can be injected; empty where they can."""
    same_bits: bool = False
    """Whether chunks of a prompt, decoding and threads change no bit of any stage."""
    is_slow: bool = False
    """Whether it is there to be believed rather than to be fast."""

    @property
    def is_device(self) -> bool:
        """Whether it computes on a device of its own, and not on the processor."""
        return self.identity is not None


def context_in_memory(request: EngineRequest) -> int:
    """The context of `request`, reduced to what fits if it asks for that. Raises `EngineError` if the K/V cache alone
    takes more memory than is available."""
    # Imported here because the list of backends is read at every start, and numpy with it.
    from aprtui.engine.kv_types import cache_bytes

    graph, context = request.model.config.graph, request.context
    of_head = sum(cache_bytes(request.kv, width) for width in (graph.head_dim, graph.value_dim))
    position = graph.kv_heads * of_head * max(1, len(graph.layers_with(TokenMixer.ATTENTION)))
    available = available_memory()
    if available is None or position * context <= available:
        return context
    fits = available // position
    if request.fit and fits:
        return fits
    raise EngineError(
        f"a K/V cache of {context} positions needs {position * context / 1e9:.1f} GB, {available / 1e9:.1f} GB are "
        "available: use a smaller --context (or --context fit), or a K/V type of fewer bytes (--kv)"
    )
