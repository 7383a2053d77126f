"""The element types of `.apr` files: aprender's own, and ggml's under their own numbers.

Numbers and layouts: `TensorDType` and `dequantize_q4` of aprender-core (`format/v2`). Files from before the numbers
128 and 129 have 8 and 9 for the same two types, which are others in ggml; 3, 6 and 7 mean another type in either, too.
What a number means is then told by the size of the tensor, which the index states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.model.conversion import Conversion
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import dequantized

Bytes = NDArray[np.uint8]


def _as_bytes(values: NDArray[np.float32], blocks: Bytes) -> Bytes:
    """`values` as bytes, in rows as `blocks` are."""
    return values.view(np.uint8).reshape(*blocks.shape[:-1], -1)


def _as_float32(dtype: str, _: Bytes, blocks: Bytes) -> Bytes:
    values: NDArray[Any] = np.ascontiguousarray(blocks).view(dtype)
    with np.errstate(over="ignore"):
        floats: NDArray[np.float32] = values.astype(np.float32)
    return _as_bytes(floats, blocks)


def _apr_q8(prefix: Bytes, blocks: Bytes) -> Bytes:
    """One scale for the whole tensor, a signed byte a value."""
    scale = np.ascontiguousarray(prefix).view("<f4")[0]
    with np.errstate(over="ignore", invalid="ignore"):
        values = blocks.view(np.int8).astype(np.float32) * scale
    return _as_bytes(values, blocks)


def _apr_q4(_: Bytes, blocks: Bytes) -> Bytes:
    """Blocks as Q4_0 has them, but with neighbouring values in the halves of a byte, where Q4_0 has those of 16 apart.

    Scales that are no number or smaller than float16's normal ones count as 0, as aprender reads them.
    """
    out = np.empty_like(blocks)
    scales = np.ascontiguousarray(blocks[..., :2]).view("<f2")
    is_used = np.isfinite(scales) & (np.abs(scales) >= np.finfo(np.float16).smallest_normal)
    out[..., :2] = np.where(is_used, scales, np.float16(0)).astype("<f2").view(np.uint8)
    quants = np.stack([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], axis=-1).reshape(*blocks.shape[:-1], 32)
    out[..., 2:] = quants[..., :16] | quants[..., 16:] << 4
    return out


def _plain(name: str, dtype: str) -> Conversion:
    return Conversion(name, 1, np.dtype(dtype).itemsize, WeightType.F32, partial(_as_float32, dtype))


_APR_Q4 = Conversion("AprQ4", 32, 18, WeightType.Q4_0, _apr_q4)
_APR_Q8 = Conversion("AprQ8", 1, 1, WeightType.F32, _apr_q8, prefix=4)

_OWN: Mapping[int, Conversion] = MappingProxyType(
    {
        3: _plain("F64", "<f8"), 4: _plain("I32", "<i4"), 5: _plain("I64", "<i8"), 6: _plain("I8", "i1"),
        7: _plain("U8", "u1"), 8: _APR_Q4, 9: _APR_Q8, 128: _APR_Q4, 129: _APR_Q8,
    }
)  # fmt: skip
"""aprender's types by their numbers; all others are ggml's."""


def _padded(number: int, columns: int) -> Conversion:
    """Rows of a ggml type that end in a block which is not full, as aprender quantises them; ggml has no such rows."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kind = GGMLQuantizationType(number)
    block_values, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = -(-columns // block_values)

    def convert(_: Bytes, rows: Bytes) -> Bytes:
        values = dequantized(kind.name, rows.reshape(-1, blocks * block_bytes), blocks * block_values)
        kept = np.ascontiguousarray(values[:, :columns])
        return kept.view(np.uint8).reshape(*rows.shape[:-1], -1)

    return Conversion(f"{kind.name}, padded", columns, blocks * block_bytes, WeightType.F32, convert)


def meanings(number: int, rows: int, columns: int) -> Iterator[tuple[int, Conversion | None, int]]:
    """What the number of the type of a matrix may mean: the ggml type that its values are read as, how they are stored
    if otherwise, and the bytes that they take."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    own = _OWN.get(number)
    if own is not None:
        yield own.ggml_type, own, own.prefix + -(-rows * columns // own.block_values) * own.block_bytes
    if number in set(GGMLQuantizationType):
        block_values, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(number)]
        padded = _padded(number, columns) if columns % block_values else None
        kind = number if padded is None else padded.ggml_type
        yield kind, padded, rows * -(-columns // block_values) * block_bytes


def name_of(number: int) -> str:
    from gguf import GGMLQuantizationType

    if number in _OWN:
        return _OWN[number].name
    return GGMLQuantizationType(number).name if number in set(GGMLQuantizationType) else f"number {number}"
