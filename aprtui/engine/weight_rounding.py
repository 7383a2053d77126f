"""Weights as an engine may keep them instead of the file's own: rounded to another type, with a scale of its own.

Each row of the table is one way. A weight that is rounded so has its values changed, and everything else as before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.rounding import ROUND, round_float8
from aprtui.model.weights import Weight

Array = NDArray[np.float32]
Largest = Array | np.float32

OWN_WEIGHTS = "model"
"""The name of weights as they lie in the file."""

_ROWS = 512


@dataclass(frozen=True, slots=True)
class WeightRounding:
    """One way to keep weights: its `words`, and `apply`, which rounds rows `[rows, columns]` of a tensor whose largest
    magnitude is given (0 where `needs_largest` is False)."""

    words: str
    apply: Callable[[Array, float], Array]
    needs_largest: bool = False


def _by_row(x: Array, of: Callable[[Array, Array], Array]) -> Array:
    return of(x, np.abs(x).max(-1, keepdims=True, initial=0))


def _e4m3(x: Array, largest: Largest) -> Array:
    return round_float8(x, largest / np.float32(448), mantissa=3, least=-6)


def _e5m2(x: Array, largest: Largest) -> Array:
    return round_float8(x, largest / np.float32(57344), mantissa=2, least=-14)


def _int8(x: Array, largest: Array) -> Array:
    scale = largest / np.float32(127)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(scale == 0, np.float32(0), np.rint(x / scale)) * scale, np.float32)


def _as(name: str) -> Callable[[Array, float], Array]:
    return lambda x, _: ROUND[name](x)


def _one_scale(of: Callable[[Array, Array], Array]) -> Callable[[Array, float], Array]:
    return lambda x, largest: of(x, np.asarray(largest, np.float32))


WEIGHT_ROUNDINGS: Mapping[str, WeightRounding] = MappingProxyType(
    {
        "fp8": WeightRounding("weights in fp8 (e4m3) with one scale a tensor", _one_scale(_e4m3), True),
        "fp8_row": WeightRounding("weights in fp8 (e4m3) with a scale a channel", lambda x, _: _by_row(x, _e4m3)),
        "fp8_cast": WeightRounding(
            "weights in fp8 (e4m3) without a scale", lambda x, _: _e4m3(np.clip(x, -448, 448), np.float32(448))
        ),
        "fp8_e5m2": WeightRounding("weights in fp8 (e5m2) with one scale a tensor", _one_scale(_e5m2), True),
        "fp8_e5m2_row": WeightRounding("weights in fp8 (e5m2) with a scale a channel", lambda x, _: _by_row(x, _e5m2)),
        "fp8_e5m2_cast": WeightRounding(
            "weights in fp8 (e5m2) without a scale", lambda x, _: _e5m2(x, np.float32(57344))
        ),
        "int8": WeightRounding("weights in int8 with one scale a tensor", _one_scale(_int8), True),
        "int8_row": WeightRounding("weights in int8 with a scale a row", lambda x, _: _by_row(x, _int8)),
        "q8_0": WeightRounding("weights in Q8_0", _as("q8_0")),
        "q4_0": WeightRounding("weights in Q4_0", _as("q4_0")),
        "bf16": WeightRounding("weights in bf16", _as("bf16")),
        "f16": WeightRounding("weights in f16", _as("f16")),
        "tf32": WeightRounding("weights in TF32", _as("tf32")),
    }
)
"""By name, as `--rounding weights=NAME` takes them."""


@dataclass(frozen=True, slots=True)
class RoundedWeight(Weight):
    """A weight whose dequantised values are those of `weight`, rounded in the way `kept`."""

    weight: Weight | None = None
    kept: str = OWN_WEIGHTS

    def dequantize(self, rows: slice | Sequence[int] = slice(None)) -> Array:
        assert self.weight is not None
        return round_rows(self.weight.dequantize(rows), self.weight, self.kept)


def rounded(weight: Weight, kept: str) -> Weight:
    """`weight` as an engine keeps it that rounds weights in the way `kept`."""
    if kept == OWN_WEIGHTS:
        return weight
    return RoundedWeight(weight.name, weight.type, weight.rows, weight.columns, weight.data, weight=weight, kept=kept)


def round_rows(values: Array, weight: Weight, kept: str) -> Array:
    """Some rows of `weight`, whose `values` `[rows, columns]` are at hand, rounded in the way `kept`."""
    way = WEIGHT_ROUNDINGS[kept]
    return way.apply(values, largest_magnitude(weight) if way.needs_largest else 0.0)


def largest_magnitude(weight: Weight) -> float:
    """Of all values of the weight, decoded a few rows at a time; remembered, as it takes a pass over the tensor."""
    return _largest(_Identity(weight))


class _Identity:
    """A weight by the memory it lies in: arrays have no hash of their own."""

    def __init__(self, weight: Weight) -> None:
        self.weight = weight
        self._key = (weight.name, weight.data.ctypes.data, weight.data.shape)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self._key == other._key


@lru_cache(maxsize=4096)
def _largest(identity: _Identity) -> float:
    weight = identity.weight
    starts = range(0, weight.rows, _ROWS)
    return max(float(np.abs(weight.dequantize(slice(start, start + _ROWS))).max(initial=0)) for start in starts)


def product(x: Array, weight: Weight, sums: str) -> Array:
    """`x` `[n, columns]` times the transpose of `weight`, in float64; where `sums` is another type than f32, each sum
    is rounded to it after every single product, in order: the coarsest that engines of such sums do."""
    out = np.empty((x.shape[0], weight.rows), np.float32)
    for start in range(0, weight.rows, _ROWS):
        rows = slice(start, min(start + _ROWS, weight.rows))
        values = weight.dequantize(rows)
        out[:, rows] = x.astype(np.float64) @ values.astype(np.float64).T if sums == "f32" else _summed(x, values, sums)
    return out


def _summed(x: Array, values: Array, sums: str) -> Array:
    total = np.zeros((x.shape[0], values.shape[0]), np.float32)
    with np.errstate(invalid="ignore"):
        for column, factor in zip(x.T, values.T, strict=True):
            total = ROUND[sums](total + column[:, None] * factor)
    return total
