"""Which type values are kept in, seen from the values themselves, and how far rounding to it may have moved them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.replay.disturbed import Disturb
from aprtui.engine.rounding import ROUND
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]

NARROW_TYPES = ("bf16", "f16")
"""From the fewest digits on."""

_LEAST_VALUES = 32
"""Fewer different values may fit a 16-bit type by chance, as the probabilities of a single token do."""
_LOOKED_AT = 1 << 16


def fitting_types(values: Array) -> frozenset[str] | None:
    """The 16-bit types that every finite value fits; None where too few values differ to tell."""
    flat = values.reshape(-1)
    flat = flat[:: max(1, flat.size // _LOOKED_AT)]
    flat = flat[np.isfinite(flat)]
    if np.unique(flat).size < _LEAST_VALUES:
        return None
    return frozenset(kind for kind in NARROW_TYPES if np.array_equal(ROUND[kind](flat), flat))


def narrowest(fitting: Collection[str]) -> str:
    """The one of the `fitting` types with the fewest digits; `f32` where there is none."""
    return next((kind for kind in NARROW_TYPES if kind in fitting), "f32")


def _bf16_half_step(values: Array) -> Array:
    _, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.float32(1), np.maximum(exponent, -125) - 9), np.float32)


def _f16_half_step(values: Array) -> Array:
    # The step above the largest value is Inf in float16.
    magnitudes = np.clip(np.abs(values), 0, 65472).astype(np.float16)
    with np.errstate(invalid="ignore"):  # of a NaN there is none
        return np.asarray(np.spacing(magnitudes) / np.float32(2), np.float32)


_HALF_STEP: Mapping[str, Callable[[Array], Array]] = MappingProxyType({"bf16": _bf16_half_step, "f16": _f16_half_step})


def half_step(kind: str, values: Array) -> Array:
    """How far values may have been from what they were stored as in the type `kind`."""
    return _HALF_STEP[kind](values)


def rounding_steps(kind: str, values: Array) -> NDArray[np.float64]:
    """What rounding results `values` `[tokens, width]` to the type `kind` may err by: a step at the value itself, and
    one at the root mean square of its token, which the sums are as large as that a small value is left of."""
    largest = np.sqrt((values.astype(np.float64) ** 2).mean(1, keepdims=True)).astype(np.float32)
    of_value, of_token = _HALF_STEP[kind](values), _HALF_STEP[kind](largest)
    return 2 * np.hypot(of_value.astype(np.float64), of_token)


def before_storage(kind: str, seed: int) -> Disturb:
    """Values as they may have been before they were stored as `kind`: anywhere within half a step of it."""

    def disturb(node: Node, values: Array) -> Array:
        if kind not in _HALF_STEP:
            return values
        random = np.random.default_rng([seed, (node.layer or 0) + 1, *node.stage.encode()])
        noise = random.uniform(-1, 1, values.shape).astype(np.float32)
        with np.errstate(invalid="ignore"):
            moved = values + noise * _HALF_STEP[kind](values)
        return np.where(np.isfinite(values) & (values != 0), moved, values).astype(np.float32)

    return disturb
