"""What is in use of a GPU: from the driver and from NVIDIA's management library, queried at most twice a second."""

from __future__ import annotations

import math
import sys
import types
from typing import Any

import pytest

from aprtui.engine.cuda import usage
from aprtui.engine.cuda.usage import UsageMeter
from aprtui.engine.protocol import DeviceUse


class Driver:
    """As much of one as the meter asks."""

    memory, bus_id = 100, "0000:01:00.0"

    def __init__(self) -> None:
        self.queries = 0

    def free_memory(self) -> int:
        self.queries += 1
        return 100 - 10 * self.queries


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def monotonic(self) -> float:
        return self.now


def library(refuses: str = "") -> types.ModuleType:
    """A `pynvml` whose function `refuses` raises."""

    class NVMLError(Exception):
        pass

    def answer(name: str, value: Any) -> Any:
        def function(*arguments: Any) -> Any:
            if name == refuses:
                raise NVMLError(name)
            return arguments[0] if value is None else value

        return function

    module = types.ModuleType("pynvml")
    rates = types.SimpleNamespace(gpu=96)
    module.NVMLError = NVMLError  # type: ignore[attr-defined]
    for name, value in (
        ("nvmlInit", 0), ("nvmlDeviceGetHandleByPciBusId", None), ("nvmlDeviceGetUtilizationRates", rates),
    ):  # fmt: skip
        setattr(module, name, answer(name, value))
    return module


def test_memory_and_load_are_asked_for_at_most_twice_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, driver = Clock(), Driver()
    monkeypatch.setattr(usage, "time", clock)
    monkeypatch.setitem(sys.modules, "pynvml", library())
    meter = UsageMeter(driver)  # type: ignore[arg-type]
    assert [meter.take() for _ in range(3)] == [DeviceUse(10, 100, 0.96)] * 3
    clock.now += 0.49
    assert meter.take().memory_used == 10
    clock.now += 0.01
    assert meter.take().memory_used == 20
    assert driver.queries == 2


@pytest.mark.parametrize("refuses", ["nvmlInit", "nvmlDeviceGetHandleByPciBusId", "nvmlDeviceGetUtilizationRates"])
def test_a_library_that_refuses_leaves_the_load_unknown(monkeypatch: pytest.MonkeyPatch, refuses: str) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library(refuses))
    found = UsageMeter(Driver()).take()  # type: ignore[arg-type]
    assert (found.memory_used, math.isnan(found.load)) == (10, True)


def test_without_the_library_the_load_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert math.isnan(UsageMeter(Driver()).take().load)  # type: ignore[arg-type]
