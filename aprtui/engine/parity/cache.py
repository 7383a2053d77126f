"""What the parity gate found, kept between runs: it depends on device, driver, model, kernels and version alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aprtui import __version__
from aprtui.engine.cuda.sources import source_digest
from aprtui.engine.parity.gate import Parity
from aprtui.engine.protocol import KvType
from aprtui.engine.result_cache import keep
from aprtui.resources import parity_cache

if TYPE_CHECKING:
    from aprtui.engine.cuda.detect import CudaDevice
    from aprtui.model.model import Model


@dataclass(frozen=True, slots=True)
class KeptParity:
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


def remembered(
    model: Model, device: CudaDevice, driver: tuple[int, int], kv: KvType, measure: Callable[[], Parity]
) -> Parity:  # fmt: skip
    """The parity of `model` on `device`, whose native mode has a cache of `kv`, measured where nobody has yet.

    A cache that cannot be read or written is done without.
    """
    key = (str(device), f"{driver[0]}.{driver[1]}", model.name, model.sha256(), __version__, source_digest(), str(kv))
    path = parity_cache() / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"
    try:
        return _read(path.read_text()).parity
    except (OSError, ValueError, TypeError, KeyError):
        pass
    parity = measure()
    kept = KeptParity(*key, datetime.now(UTC).strftime("%Y-%m-%d"), parity)
    keep(path, asdict(kept))
    return parity


def kept_parities(device: CudaDevice) -> Iterator[KeptParity]:
    """What is kept about `device` and this version's kernels."""
    kernels = source_digest()
    for path in sorted(parity_cache().glob("*.json")):
        try:
            kept = _read(path.read_text())
        except (OSError, ValueError, TypeError, KeyError):
            continue
        if (kept.device, kept.version, kept.kernels) == (str(device), __version__, kernels):
            yield kept


def _read(text: str) -> KeptParity:
    fields = json.loads(text)
    return KeptParity(**{**fields, "parity": Parity(**fields["parity"])})
