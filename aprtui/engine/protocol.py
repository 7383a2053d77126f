"""The protocol of every backend: one forward pass at a time, with taps on the stages.

Shapes: T = positions known to the engine after the call, n = positions evaluated by the call, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Protocol, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.sampling import Choice, Sampler, Sampling
from aprtui.errors import EngineError, UsageError
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.stats import Accumulator


class Mode(StrEnum):
    """How activations meet weights: in float32 (`exact`), or in the backend's own 8-bit scheme (`q8`)."""

    EXACT = "exact"
    Q8 = "q8"


class KvType(StrEnum):
    """Element type of the K/V cache; see `kv_types`."""

    F32 = "f32"
    F16 = "f16"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"


class Logits(StrEnum):
    """For which positions of a call logits are computed (and `final_norm`, `lm_head` tapped, the latter)."""

    LAST = "last"
    ALL = "all"


_WHERE_USUAL = 6
"""From this field on, what is usual is left out of manifests."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """The roundings of an engine; stated in manifests so that a replay can model them.

    `activation` is what goes into GELU and comes out of it: `f16` where an engine looks it up in a table, as ggml does.
    The last three are of matrix products: how it keeps weights (`model`: as the file does), what sums are kept in, and
    the magnitude that inputs are clamped at.
    """

    matmul_input: str
    kv_cache: str
    rope_angles: str
    stage_output: str = "f32"
    softmax: str = "f32"
    activation: str = "f32"
    weights: str = "model"
    sums: str = "f32"
    input_limit: str = "none"

    def stated(self) -> dict[str, str]:
        """By name, as manifests hold them; of weights, sums and limits only what is unusual."""
        usual = {entry.name: entry.default for entry in fields(self)[_WHERE_USUAL:]}
        values = {entry.name: str(getattr(self, entry.name)) for entry in fields(self)}
        return {name: value for name, value in values.items() if value != usual.get(name)}


class TapSink(Protocol):
    """Takes what taps hand out. The arrays are only valid during the call: copy or write them."""

    def put(self, node: Node, position: int, values: NDArray[np.float32] | None, stats: Accumulator | None) -> None:
        """Receive one stage tensor of the positions `position … position + n - 1`.

        `values` is `[n, width]`, or `[heads, n, position + n]` for attention maps (zero where key > query), and None
        where only statistics were asked for; `stats` covers the same values, and None where none were asked for.
        """


class StatsSink(TapSink, Protocol):
    """A sink that takes the statistics of many nodes in one call, if the engine can give them so.

    One by one they cost 2.3 ms a token on 80 layers. Other engines give them to `put`.
    """

    def put_sums(self, places: NDArray[np.int64], sums: NDArray[np.void]) -> None:
        """Receive records of `stats.SUMS` `[n]` of the nodes at `places` `[n]` in execution order."""


def takes_sums(sink: TapSink) -> TypeGuard[StatsSink]:
    """Whether `sink` is a `StatsSink`. Asked for every token: `isinstance` with a protocol takes 40 µs there."""
    return hasattr(sink, "put_sums")


@dataclass(frozen=True, slots=True)
class Taps:
    """Which nodes are handed out in full, of which only statistics, and the sink that gets them."""

    sink: TapSink | None = None
    full: frozenset[Node] = field(default_factory=frozenset)
    stats: frozenset[Node] = field(default_factory=frozenset)


NO_TAPS = Taps()


@dataclass(frozen=True, slots=True)
class NodeCall:
    """One evaluation of one node, as an intervention sees it.

    `inputs` and `output` are as in `reference.evaluate`: inputs cut to the part that the stage uses, keys and values
    (the second input of scores and attention) of all positions from 0, as the cache holds them. `tokens` are the ids
    at `position …`; for logits, of which a call may want the last only, inputs and output hold the wanted rows.
    """

    node: Node
    inputs: tuple[NDArray[np.float32], ...]
    output: NDArray[np.float32]
    tokens: Sequence[int]
    position: int


class Intervention(Protocol):
    """Replaces what an engine computes at some nodes; everything downstream sees what it returns, taps included."""

    nodes: frozenset[Node]

    def __call__(self, call: NodeCall) -> NDArray[np.float32]:
        """The stage tensor that the engine goes on with, in the shape of `call.output`, which must not be changed."""


class NodeEvaluator(Protocol):
    """Computes one node from given inputs, in float32 activations, as a replay does with every stage."""

    def evaluate(
        self, node: Node, inputs: Sequence[NDArray[np.float32]], *, tokens: Sequence[int], position: int
    ) -> NDArray[np.float32]:
        """The stage tensor of `node`; inputs as in `NodeCall`, and as many rows of output as positions in them."""

    def close(self) -> None:
        """Release threads and memory; a second call does nothing."""


class Engine(Protocol):
    """A model loaded into a backend, with the state of one sequence. Not thread-safe."""

    graph: StageGraph
    mode: Mode
    kv: KvType
    backend: str
    """Name for manifests: `cpu`, `numpy`, `cuda`."""
    device: str
    """Name of the processor or GPU that computes."""
    threads: int | None
    """Threads of the processor that compute; None for other devices."""
    rounding: Rounding
    context: int
    """Positions that the K/V cache holds at most."""

    @property
    def code_path(self) -> str:
        """Which kernels run: e.g. `numba-avx2`, `numba-avx512-vnni`, `numba-plain`, `numpy`."""

    @property
    def position(self) -> int:
        """Positions evaluated since the last reset."""

    def reset(self, position: int = 0) -> None:
        """Forget the positions from `position` on; those before it, at most all that were evaluated, are kept."""

    def forward(self, tokens: Sequence[int], taps: Taps = NO_TAPS, logits: Logits = Logits.LAST) -> NDArray[np.float32]:
        """Evaluate `tokens` (n ≥ 1) at the next positions; return logits `[1, V]` (LAST) or `[n, V]` (ALL).

        One token is the decode path, several are the prefill path. Stage tensors of a call reach `taps.sink` in
        execution order; a call may be split into chunks, each of which is handed out at its own position. Taps never
        change a result. Raises `EngineError` when the context is full; the state is then as before the call.
        """

    def close(self) -> None:
        """Release threads and memory; a second call does nothing."""


@runtime_checkable
class ChoosingEngine(Protocol):
    """An engine that can choose the next token by itself, without its logits coming to the host."""

    def can_choose(self, sampling: Sampling) -> bool:
        """Whether `choose` can follow these settings."""

    def choose(self, token: int, sampler: Sampler, taps: Taps = NO_TAPS) -> Iterator[Choice]:
        """Evaluate `token` at the next position and choose, evaluate the choice and so on, until the context is full.

        Each choice is what `sampler` would choose from the logits of that pass, up to rounding (an engine may name
        fewer candidates). It uses up the number that it drew with, so that the sampler goes on from the last choice
        that was asked for; `position` counts the passes of those. Any other call of the engine ends it. Raises
        `EngineError` at logits that are no distribution.
        """


@runtime_checkable
class TimedEngine(Protocol):
    """An engine that measures how long its stages took."""

    def stage_seconds(self) -> NDArray[np.float32]:
        """Wall seconds `[nodes]` of each node in the last call of `forward`, in execution order.

        Stages that are computed together have their time at the first of them and NaN at the others.
        """


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """How much of a device all processes use: bytes of its memory, and its load from 0 to 1 (NaN: not known)."""

    memory_used: int
    memory: int
    load: float


@runtime_checkable
class MeteredEngine(Protocol):
    """An engine that runs on a device with a memory of its own."""

    def device_use(self) -> DeviceUse:
        """What is in use now, at most half a second old."""


def require_positions(engine: Engine, tokens: int) -> None:
    """Raise `EngineError` if `tokens` more positions do not fit into the context."""
    if engine.position + tokens > engine.context:
        raise EngineError(
            f"the context of {engine.context} positions is full: {engine.position} are used and {tokens} more were "
            "asked for: raise --context or ask for fewer tokens"
        )


def require_known(ids: NDArray[np.int64], vocabulary: int) -> None:
    """Raise `UsageError` if there are no ids, or some that the vocabulary lacks."""
    if not ids.size:
        raise UsageError("no tokens to evaluate: give at least one")
    unknown = ids[(ids < 0) | (ids >= vocabulary)]
    if unknown.size:
        raise UsageError(f"token id {unknown[0]} is not in the vocabulary: ids go from 0 to {vocabulary - 1}")
