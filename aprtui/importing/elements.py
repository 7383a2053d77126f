"""The types that stored numbers have, and how each becomes float32 without a bit lost where float32 can hold it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Raw = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ElementType:
    """A type by the name that safetensors gives it; `to_floats` takes the bytes of some values, little-endian."""

    name: str
    size: int
    to_floats: Callable[[Raw], Floats]
    exact: bool = True
    """Whether float32 holds every number of it."""


def _plain(kind: str) -> Callable[[Raw], Floats]:
    def convert(raw: Raw) -> Floats:
        with np.errstate(over="ignore", invalid="ignore"):
            return raw.view(kind).astype(np.float32)

    return convert


def _same(raw: Raw) -> Floats:
    return raw.view("<f4")


def _bfloat16(raw: Raw) -> Floats:
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _float16(raw: Raw) -> Floats:
    """NaN with its payload, which conversion by the processor changes."""
    bits = raw.view("<u2")
    values = raw.view("<f2").astype(np.float32)
    found = (bits & 0x7FFF) > 0x7C00
    if found.any():
        wide = bits[found].astype(np.uint32)
        values.view(np.uint32)[found] = (wide & 0x8000) << 16 | 0x7F800000 | (wide & 0x3FF) << 13
    return values


def _e5m2(raw: Raw) -> Floats:
    """The upper byte of a float16 (Micikevicius et al. 2022, arXiv:2209.05433)."""
    return _float16((raw.astype("<u2") << 8).view(np.uint8))


def _e4m3fn(raw: Raw) -> Floats:
    """Four bits of exponent with bias 7, three of mantissa; no infinities, 0x7F is NaN (arXiv:2209.05433)."""
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    size = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(8.0 + mantissa, exponent - 10))
    table = np.where(codes & 0x7F == 0x7F, np.nan, np.where(codes < 128, size, -size)).astype(np.float32)
    return table[raw]


ELEMENTS: Mapping[str, ElementType] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            ElementType("F32", 4, _same),
            ElementType("F16", 2, _float16),
            ElementType("BF16", 2, _bfloat16),
            ElementType("F64", 8, _plain("<f8"), exact=False),
            ElementType("F8_E4M3", 1, _e4m3fn),
            ElementType("F8_E5M2", 1, _e5m2),
            ElementType("BOOL", 1, _plain("u1")),
            ElementType("U8", 1, _plain("u1")),
            ElementType("I8", 1, _plain("i1")),
            ElementType("I16", 2, _plain("<i2")),
            ElementType("U16", 2, _plain("<u2")),
            ElementType("I32", 4, _plain("<i4"), exact=False),
            ElementType("U32", 4, _plain("<u4"), exact=False),
            ElementType("I64", 8, _plain("<i8"), exact=False),
            ElementType("U64", 8, _plain("<u8"), exact=False),
        )
    }
)

INTEGERS: Mapping[str, str] = MappingProxyType(
    {"U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8", "U64": "<u8"}
)
"""The types that token ids and positions may have, as numpy names them."""


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor of a source. `load` gives its bytes, row-major; its size was checked against the file before.

    `dims` says how ranks share it, where the tool does (`aprtui.importing.dims`).
    """

    name: str
    shape: tuple[int, ...]
    element: ElementType
    load: Callable[[], Raw]
    dims: str = ""

    def floats(self) -> Floats:
        return self.element.to_floats(self.load()).reshape(self.shape)

    def integers(self) -> NDArray[Any] | None:
        """The values of a tensor of whole numbers; None for any other."""
        kind = INTEGERS.get(self.element.name)
        return None if kind is None else self.load().view(kind).reshape(self.shape)
