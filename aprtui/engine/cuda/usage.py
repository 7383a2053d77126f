"""How much of a GPU is in use: its memory by the driver, its load by NVIDIA's management library.

The engine asks between two tokens, so the figures are taken at most twice a second.
"""

from __future__ import annotations

import math
import time
from typing import Any

from aprtui.engine.cuda.driver import Driver
from aprtui.engine.protocol import DeviceUse

_SECONDS = 0.5


class UsageMeter:
    """Of the device of `driver`; belongs to the thread that owns it."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._library, self._handle = _opened(driver.bus_id)
        self._taken = -math.inf
        self._last = DeviceUse(0, 0, math.nan)

    def take(self) -> DeviceUse:
        """What it is now, or was half a second ago."""
        now = time.monotonic()
        if now - self._taken >= _SECONDS:
            free, total = self._driver.free_memory(), self._driver.memory
            self._last = DeviceUse(total - free, total, self._load())
            self._taken = now
        return self._last

    def _load(self) -> float:
        if self._library is None:
            return math.nan
        try:
            return float(self._library.nvmlDeviceGetUtilizationRates(self._handle).gpu) / 100
        except self._library.NVMLError:
            return math.nan  # a virtual device, or one that is shared, may not tell


def _opened(bus_id: str) -> tuple[Any, Any]:
    """The library and its handle of a device; both None where the library is missing or refuses."""
    try:
        import pynvml
    except ImportError:
        return None, None
    try:
        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByPciBusId(bus_id)
    except pynvml.NVMLError:
        return None, None
