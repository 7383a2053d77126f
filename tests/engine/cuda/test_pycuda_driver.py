"""The driver layer on real PyCUDA over the fake driver library: order, waiting, graphs, failures, and nothing left."""

from __future__ import annotations

import ctypes
import gc
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aprtui.engine.cuda.device_thread import DeviceThread
from aprtui.engine.cuda.driver import Launch
from aprtui.errors import EngineError
from tests.engine.cuda.conftest import INSIDE
from tests.kernels.emulated import Image

if TYPE_CHECKING:
    from aprtui.engine.cuda.pycuda_driver import PyCudaDriver

COUNT = 1000

pytestmark = [pytest.mark.group("pycuda"), pytest.mark.fake_driver]


class Setting:
    """A driver with two arrays on it and the kernels of `driver.cu`; its methods run on the thread that owns it."""

    def __init__(self, image: bytes) -> None:
        from aprtui.engine.cuda.pycuda_driver import PyCudaDriver

        self.driver: PyCudaDriver = PyCudaDriver(0)
        self.kernels: dict[str, int] = self.driver.kernels(image, ("add_scaled", "sum_block", "stray"))
        self.x, self.y = self.driver.allocate(4 * COUNT), self.driver.allocate(4 * COUNT)
        self.seen = self.driver.pinned(COUNT, np.float32)
        self.seen[:] = 0
        self.driver.upload(self.x, np.arange(COUNT, dtype=np.float32))
        self.driver.upload(self.y, np.zeros(COUNT, np.float32))

    def add(self, amount: float, *, waits_itself: bool = False) -> None:
        packed = struct.pack("PPfi", self.y, self.x, amount, COUNT)
        kernel = self.kernels["add_scaled"]
        self.driver.launch(Launch(kernel, (8, 1, 1), (128, 1, 1), packed, waits_itself=waits_itself))

    def fetch(self) -> None:
        self.driver.copy_out(self.seen, self.y)

    def close(self) -> None:
        self.driver.close()


@pytest.fixture
def on_device(image_of: Callable[..., Image], request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Runs a function of a `Setting` on the device's thread. Afterwards nothing may be left on the device."""
    image = image_of(request.path.with_name("driver.cu")).path.read_bytes()
    if INSIDE not in os.environ:
        yield lambda work: None  # the process that runs the test has its own
        return
    thread = DeviceThread()
    setting = thread.run(Setting, image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield lambda work: thread.run(work, setting)
        thread.run(setting.close)
        thread.run(gc.collect)
        thread.close()


def counted(what: str) -> int:
    return int(getattr(ctypes.CDLL("libcuda.so.1"), f"fake_driver_{what}")())


def test_launches_and_copies_do_not_wait_and_keep_their_order(on_device: Callable[..., Any]) -> None:
    def work(setting: Setting) -> None:
        setting.add(2.0)
        setting.add(3.0)
        setting.fetch()
        assert not setting.seen.any(), "a copy was there before anybody waited for it"
        setting.driver.synchronize()
        np.testing.assert_array_equal(setting.seen, 5 * np.arange(COUNT, dtype=np.float32))

    on_device(work)


def test_waiting_for_a_mark_waits_for_nothing_behind_it(on_device: Callable[..., Any]) -> None:
    def work(setting: Setting) -> None:
        for number in (0, 1):
            setting.add(1.0)
            setting.fetch()
            setting.driver.mark(number)
        for number in (0, 1):
            setting.driver.wait(number)
            np.testing.assert_array_equal(setting.seen, (number + 1) * np.arange(COUNT, dtype=np.float32))

    on_device(work)


def test_a_graph_holds_what_was_queued_and_runs_it_as_often_as_asked(on_device: Callable[..., Any]) -> None:
    def work(setting: Setting) -> None:
        def token() -> None:
            setting.add(1.0)
            setting.fetch()

        graph = setting.driver.capture(token)
        assert graph is not None
        setting.driver.synchronize()
        assert not setting.seen.any(), "capturing ran the work"
        launched = counted("launches")
        for _ in range(3):
            setting.driver.replay(graph)
        setting.driver.synchronize()
        np.testing.assert_array_equal(setting.seen, 3 * np.arange(COUNT, dtype=np.float32))
        assert (counted("launches"), counted("replays")) == (launched, 3)

    on_device(work)


def test_kernels_that_wait_themselves_may_begin_early_in_a_graph_and_behind_a_kernel(
    on_device: Callable[..., Any],
) -> None:
    def work(setting: Setting) -> None:
        def token() -> None:
            setting.add(1.0, waits_itself=True)
            setting.add(1.0, waits_itself=True)  # the only one with such a kernel in front of it
            setting.add(1.0)
            setting.fetch()
            setting.add(1.0, waits_itself=True)
            setting.fetch()

        token()
        assert counted("early") == 0, "outside of a graph"
        graph = setting.driver.capture(token)
        assert graph is not None
        assert counted("early") == 1
        setting.driver.replay(graph)
        setting.driver.synchronize()
        np.testing.assert_array_equal(setting.seen, 8 * np.arange(COUNT, dtype=np.float32))

    on_device(work)


@pytest.mark.fake_driver(FAKE_CUDA_NO_EARLY="1")
def test_where_early_beginnings_are_refused_graphs_have_plain_edges_and_the_driver_is_asked_once(
    on_device: Callable[..., Any],
) -> None:
    def work(setting: Setting) -> None:
        queued = 0

        def token() -> None:
            nonlocal queued
            queued += 1
            setting.add(1.0, waits_itself=True)
            setting.add(2.0, waits_itself=True)
            setting.fetch()

        graphs = [setting.driver.capture(token) for _ in range(3)]
        assert queued == 4
        assert counted("early") == 0
        for graph in graphs:
            assert graph is not None
            setting.driver.replay(graph)
        setting.driver.synchronize()
        np.testing.assert_array_equal(setting.seen, 9 * np.arange(COUNT, dtype=np.float32))

    on_device(work)


@pytest.mark.fake_driver(FAKE_CUDA_NO_CAPTURE="1")
def test_a_driver_that_refuses_to_capture_is_reported_and_still_launches(on_device: Callable[..., Any]) -> None:
    def work(setting: Setting) -> None:
        assert setting.driver.capture(lambda: setting.add(1.0)) is None
        setting.add(1.0)
        setting.fetch()
        setting.driver.synchronize()
        np.testing.assert_array_equal(setting.seen, np.arange(COUNT, dtype=np.float32))

    on_device(work)


def test_waiting_inside_a_capture_refuses_the_capture(on_device: Callable[..., Any]) -> None:
    def work(setting: Setting) -> None:
        def waits() -> None:
            setting.add(1.0)
            with pytest.raises(EngineError, match="capturing"):
                setting.driver.synchronize()

        assert setting.driver.capture(waits) is None
        setting.driver.synchronize()

    on_device(work)


def test_an_error_inside_a_capture_leaves_a_stream_that_works(on_device: Callable[..., Any]) -> None:
    def work(setting: Setting) -> None:
        def breaks() -> None:
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            setting.driver.capture(breaks)
        assert gc.isenabled()
        setting.add(1.0)
        setting.fetch()
        setting.driver.synchronize()
        assert setting.seen[1] == 1.0

    on_device(work)


def test_a_launch_that_the_driver_refuses_is_reported(on_device: Callable[..., Any]) -> None:
    def work(setting: Setting) -> None:
        packed = struct.pack("PP", setting.y, setting.x)
        launch = Launch(setting.kernels["sum_block"], (1, 1, 1), (100, 1, 1), packed, 48 << 10)
        with pytest.raises(EngineError, match="launching a kernel"):
            setting.driver.launch(replace(launch, shared_bytes=64 << 10))
        setting.driver.launch(launch)
        setting.fetch()
        setting.driver.synchronize()
        assert setting.seen[0] == sum(range(100))

    on_device(work)


@pytest.mark.fake_driver(FAKE_CUDA_MEMORY="1000000")
def test_memory_that_is_not_there_is_an_engine_error_with_the_size(on_device: Callable[..., Any]) -> None:
    def work(setting: Setting) -> None:
        free = setting.driver.free_memory()
        assert free == 1_000_000 - 8 * COUNT
        with pytest.raises(EngineError, match=r"no memory left \(allocating 2.0 MB\).*lower --context"):
            setting.driver.allocate(2_000_000)
        assert setting.driver.free_memory() == free

    on_device(work)


def test_an_image_of_another_machine_is_refused(on_device: Callable[..., Any]) -> None:
    def work(setting: Setting) -> None:
        with pytest.raises(EngineError, match=r"loading kernels.*kernel image is invalid"):
            setting.driver.kernels(b"no image" * 100, ("add_scaled",))

    on_device(work)


def test_a_kernel_that_strays_is_reported_and_the_driver_still_closes(on_device: Callable[..., Any]) -> None:
    def work(setting: Setting) -> None:
        packed = struct.pack("Pi", setting.y, COUNT)
        setting.driver.launch(Launch(setting.kernels["stray"], (1, 1, 1), (32, 1, 1), packed))
        with pytest.raises(EngineError, match=r"waiting for kernels.*stray: access out of bounds.*new process"):
            setting.driver.synchronize()
        with pytest.raises(EngineError, match="launching a kernel"):
            setting.add(1.0)

    on_device(work)


def test_closing_leaves_nothing_on_the_device(on_device: Callable[..., Any]) -> None:
    def work(setting: Setting) -> None:
        graph = setting.driver.capture(setting.fetch)
        assert graph is not None
        setting.driver.replay(graph)
        setting.driver.synchronize()
        assert counted("remains") > 0
        setting.close()
        setting.driver.close()
        gc.collect()
        assert counted("remains") == 0

    on_device(work)
