"""The element types of the K/V cache, a row each: how many bytes they take, and what they round.

Keys and values are rounded once, when they are written. Q8_0 and Q4_0 are those of GGUF files: blocks of 32 channels of
a head with one float16 scale (`--cache-type-k q8_0` of llama.cpp). Queries and probabilities stay in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.protocol import KvType
from aprtui.engine.rounding import ROUND
from aprtui.errors import UsageError
from aprtui.trace.graph.config import GraphConfig

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class KvFormat:
    """Values that share a block, its bytes, and the name of what a block rounds to in `ROUND`."""

    block_values: int
    block_bytes: int
    rounding: str


KV_FORMATS: Mapping[KvType, KvFormat] = MappingProxyType(
    {
        KvType.F32: KvFormat(1, 4, "none"),
        KvType.F16: KvFormat(1, 2, "f16"),
        KvType.Q8_0: KvFormat(32, 34, "q8_0"),
        KvType.Q4_0: KvFormat(32, 18, "q4_0"),
    }
)


def cache_bytes(kv: KvType, channels: int) -> int:
    """Bytes of `channels` keys or values, whole blocks of them."""
    row = KV_FORMATS[kv]
    return channels // row.block_values * row.block_bytes


def round_kv(kv: KvType, rows: Array) -> Array:
    """Keys or values `[n, kv_width]` as the cache gives them back."""
    return ROUND[KV_FORMATS[kv].rounding](rows)


def fitting_kv_types(config: GraphConfig) -> tuple[KvType, ...]:
    """The types whose blocks divide a head, as llama.cpp asks for."""
    heads = (config.head_dim, config.value_dim)
    return tuple(kv for kv, row in KV_FORMATS.items() if not any(dim % row.block_values for dim in heads))


def require_fitting(kv: KvType, config: GraphConfig) -> None:
    """Raise `UsageError` where the blocks of `kv` do not divide a head of the model."""
    fitting = fitting_kv_types(config)
    if kv not in fitting:
        raise UsageError(
            f"K/V cache type {kv}: its blocks have {KV_FORMATS[kv].block_values} channels, which do not divide a head "
            f"of {config.head_dim}: use --kv {' or '.join(fitting)}"
        )
