"""The model and tokens of the golden values, and which values of a stage those are."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.model.weight_types import WeightType

MODEL: Mapping[str, Any] = MappingProxyType(
    {"architecture": "gpt-oss", "weight_type": WeightType.MXFP4, "layers": 2, "hidden": 128, "experts_used": 3}
)
TOKENS = tuple(int(token) for token in np.random.default_rng(9).integers(0, 260, 40))
_VALUES = 24


def sampled(path: str, values: NDArray[Any]) -> list[float]:
    """Some values of a stage, of maps with key ≤ query, chosen by the path."""
    seen = values[:, np.tri(values.shape[1], dtype=bool)] if values.ndim == 3 else values
    places = np.random.default_rng(zlib.crc32(path.encode())).integers(0, seen.size, _VALUES)
    return [float(f"{value:.9g}") for value in seen.reshape(-1)[places]]
