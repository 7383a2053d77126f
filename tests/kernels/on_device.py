"""The kernels on a device, called with numpy arrays as `emulated.Image` is: the same tests run on either.

Each call launches twice, with other fillings of unwritten memory, and demands the same bytes; each array lies
between guard bytes that must stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprtui.engine.cuda.detect import detect
from aprtui.engine.cuda.device_thread import DeviceThread
from aprtui.engine.cuda.driver import Driver, Launch
from aprtui.engine.cuda.images import kernel_images
from aprtui.engine.cuda.launches import load_kernels
from tests.kernels.emulated import Array, KernelError, Out, Packer

GUARD, CANARY = 32, 0xC5


class DeviceKernels:
    """All our kernels on the first device, until `close`."""

    def __init__(self) -> None:
        from aprtui.engine.cuda.pycuda_driver import PyCudaDriver

        found = detect()
        device = found.require()
        assert found.driver is not None
        images = kernel_images(device.capability, found.driver, lambda what, done, total: None)
        self._thread = DeviceThread()
        self._driver: Driver = self._thread.run(PyCudaDriver, device.ordinal)
        self._kernels = self._thread.run(load_kernels, self._driver, images)

    def close(self) -> None:
        self._thread.run(self._driver.close)
        self._thread.close()

    def run(
        self, kernel: str, grid: Sequence[int], block: int, *arguments: object, shared: int = 0, orders: int = 3
    ) -> list[Array]:
        """See `emulated.Image.run`; the device has an order of its own."""
        fillings = (0xFF, 0x41)[:orders]
        results = [self._thread.run(self._launch, kernel, grid, block, arguments, shared, fill) for fill in fillings]
        for place, found in enumerate(zip(*results, strict=True)):
            assert len({array.tobytes() for array in found}) == 1, (
                f"{kernel}: output {place} differs from run to run, or depends on memory that was never written"
            )
        return results[0]

    def _launch(
        self, kernel: str, grid: Sequence[int], block: int, arguments: Sequence[object], shared: int, fill: int
    ) -> list[Array]:
        memory = _DeviceMemory(self._driver, fill)
        try:
            packed = Packer(memory).pack(arguments)
            x, y, z = [*grid, 1, 1][:3]
            self._driver.launch(Launch(self._kernels[kernel], (x, y, z), (block, 1, 1), packed, shared))
            return memory.results(kernel)
        finally:
            memory.free()


class _DeviceMemory:
    """The arrays of one launch, each between guard bytes."""

    def __init__(self, driver: Driver, fill: int) -> None:
        self._driver, self._fill = driver, fill
        self._held: list[tuple[int, int]] = []
        self._outputs: dict[int, tuple[tuple[int, ...], np.dtype]] = {}

    def copy(self, values: Array, written: bool) -> int:
        values = np.ascontiguousarray(values)
        return self._placed(values.reshape(-1).view(np.uint8), (values.shape, values.dtype) if written else None)

    def blank(self, out: Out) -> int:
        dtype = np.dtype(out.dtype)
        size = int(np.prod(out.shape)) * dtype.itemsize
        return self._placed(np.full(size, self._fill, np.uint8), (out.shape, dtype))

    def _placed(self, content: Array, output: tuple[tuple[int, ...], np.dtype] | None) -> int:
        guard = np.full(GUARD, CANARY, np.uint8)
        address = self._driver.allocate(content.size + 2 * GUARD)
        self._held.append((address, content.size))
        if output is not None:
            self._outputs[address] = output
        self._driver.upload(address, np.concatenate([guard, content, guard]))
        return address + GUARD

    def results(self, kernel: str) -> list[Array]:
        """What was written, when the launch has ended."""
        found = []
        for address, size in self._held:
            room = self._driver.pinned(size + 2 * GUARD, np.uint8)
            self._driver.copy_out(room, address)
            self._driver.synchronize()
            everything = room.copy()
            self._driver.unpin(room)
            if (everything[:GUARD] != CANARY).any() or (everything[GUARD + size :] != CANARY).any():
                raise KernelError(f"{kernel}: wrote in front of an array of {size} bytes, or just behind it")
            if address in self._outputs:
                shape, dtype = self._outputs[address]
                found.append(everything[GUARD : GUARD + size].view(dtype).reshape(shape))
        return found

    def free(self) -> None:
        for address, _ in self._held:
            self._driver.free(address)
