"""Results of the parity gate, cached between runs: they depend on device, driver, model, kernels and version alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from aprtui import __version__
from aprtui.engine.backends.backend import DeviceIdentity
from aprtui.engine.parity.gate import Parity
from aprtui.engine.protocol import KvType
from aprtui.engine.result_cache import all_cached, cached
from aprtui.model.model import Model
from aprtui.resources import parity_cache


@dataclass(frozen=True, slots=True)
class ParityRecord:
    """A result with what it holds for."""

    device: str
    driver: str
    model: str
    sha256: str
    version: str
    kernels: str
    kv: str
    date: str
    parity: Parity


def cached_parity(model: Model, device: DeviceIdentity, kv: KvType, measure: Callable[[], Parity]) -> Parity:
    """The parity of `model` on `device`, whose native mode has a cache of `kv`; measured where it is not known yet."""
    key = (device.device, device.driver, model.name, model.sha256(), __version__, device.kernels, str(kv))

    def measured() -> ParityRecord:
        return ParityRecord(*key, datetime.now(UTC).strftime("%Y-%m-%d"), measure())

    return cached(parity_cache(), key, measured, encode=asdict, decode=_decode).parity


def known_parities(device: DeviceIdentity) -> Iterator[ParityRecord]:
    """What is known of `device` with this version and its kernels, under any driver."""
    for record in all_cached(parity_cache(), _decode):
        if (record.device, record.version, record.kernels) == (device.device, __version__, device.kernels):
            yield record


def _decode(fields: dict[str, Any]) -> ParityRecord:
    return ParityRecord(**{**fields, "parity": Parity(**fields["parity"])})
