"""What the CUDA engine asks of a driver: memory, kernels, one stream, and graphs of what was queued on it.

All methods belong to one thread, the one that made the driver. Work is done in the order in which it was queued;
`launch`, `copy_in`, `copy_out` and `replay` only queue it, `synchronize` waits for it. Addresses are the device's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import DTypeLike, NDArray

Extent = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch, with its arguments packed as the kernel takes them (native alignment)."""

    kernel: int
    """What `Driver.kernels` gave."""
    grid: Extent
    block: Extent
    arguments: bytes
    shared_bytes: int = 0
    name: str = ""
    """Of the kernel, for people."""
    moved: int = 0
    """Bytes of weights that it has to read: what its speed is held against."""
    moved_a_position: int = 0
    """Bytes of the K/V cache that it has to read for each position."""
    waits_itself: bool = False
    """Whether the kernel waits for the kernels in front of it, so that a graph may let it begin before they end."""


class Driver(Protocol):
    """One device, with everything that was allocated on it. Failures of the device are `EngineError`."""

    multiprocessors: int
    memory: int
    """Bytes that the device has in all."""
    bus_id: str
    """Where it sits, as PCI names places."""

    def free(self, address: int) -> None:
        """Give back what `allocate` gave; nothing that was queued may use it any more."""

    def free_memory(self) -> int:
        """Bytes that can still be allocated, as far as the driver knows."""

    def allocate(self, size: int) -> int:
        """The address of `size` new bytes, of undefined content, at least 16-byte aligned."""

    def pinned(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Host memory that `copy_in` and `copy_out` may use."""

    def unpin(self, values: NDArray[Any]) -> None:
        """Give back what `pinned` gave; nothing that was queued may use it any more."""

    def kernels(self, image: bytes, names: tuple[str, ...]) -> dict[str, int]:
        """Load a kernel image; numbers for its entry points `names`, good while the driver is open."""

    def upload(self, address: int, values: NDArray[Any]) -> None:
        """Copy `values` to the device and wait for it."""

    def copy_in(self, address: int, values: NDArray[Any]) -> None:
        """Queue a copy of pinned `values` to the device; they are read when the copy is done, not now."""

    def copy_out(self, values: NDArray[Any], address: int) -> None:
        """Queue a copy from the device into pinned `values`."""

    def copy_within(self, target: int, source: int, size: int) -> None:
        """Queue a copy of `size` bytes on the device."""

    def launch(self, launch: Launch) -> None:
        """Queue a kernel."""

    def capture(self, work: Callable[[], None]) -> Any | None:
        """A graph of what `work` queues, which is not run; None where the driver refuses to capture."""

    def replay(self, graph: Any) -> None:
        """Queue all that a graph holds."""

    def discard(self, graph: Any) -> None:
        """Free a graph."""

    def mark(self, number: int) -> None:
        """Put mark `number` behind all that was queued so far; it was somewhere else before."""

    def wait(self, number: int) -> None:
        """Wait until all work queued before mark `number` is done, and for none after it. Raises as `synchronize`."""

    def synchronize(self) -> None:
        """Wait until all that was queued is done. Raises `EngineError` if some of it failed."""

    def close(self) -> None:
        """Free everything; a second call does nothing."""
