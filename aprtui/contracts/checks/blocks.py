"""Checks of quantised blocks: the values of given bytes, and that the compiled kernels decode a model's blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.wording import counted
from aprtui.contracts.checks.arguments import CheckArguments
from aprtui.contracts.checks.judgement import Judgement, passed_if, unknown
from aprtui.engine.backends.cpu import CPU
from aprtui.errors import UsageError
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight

ROWS = 64
"""Rows of a tensor that are decoded together."""


def block_values(arguments: CheckArguments) -> Judgement:
    """A block of the bytes in `block` (hexadecimal) decodes to the numbers in `values`, by column, to the bit.

    Both decoders are tested: the reference, which the numpy backend uses, and the compiled kernels.
    """
    kind, columns, size = _type(arguments)
    if not _weights(arguments, kind):
        return unknown(f"the model has no tensor of type {kind.name}")
    data, expected = _bytes(arguments.text("block"), size), _expected(arguments.parameters.get("values"), columns)
    weight = Weight("block", kind, 1, columns, np.frombuffer(data, np.uint8).reshape(1, size))
    decoders = _decoders(weight, 0, 1)
    wrong = [
        f"column {column} is {values[0, column]:g} to {name}, expected {value:g}"
        for name, values in decoders.items()
        for column, value in expected.items()
        if np.float32(value).tobytes() != values[0, column].tobytes()
    ]
    reason = wrong[0] if wrong else f"{counted(len(expected), 'column')} as expected, by {' and '.join(decoders)}"
    return passed_if(not wrong, reason, "columns that differ", len(wrong), 0)


def block_decoding(arguments: CheckArguments) -> Judgement:
    """Every tensor of the type is made of whole blocks, and the compiled kernels decode each value to the reference's
    bits."""
    kind, columns, size = _type(arguments)
    weights = _weights(arguments, kind)
    if not weights:
        return unknown(f"the model has no tensor of type {kind.name}")
    if (obstacle := CPU.obstacle()) is not None:
        return unknown(f"the compiled kernels cannot run here: {obstacle.problem}: {obstacle.advice}")
    wrong, compared, first = 0, 0, ""
    for weight in weights:
        if weight.data.shape[1] * columns != weight.columns * size:
            wrong += weight.rows
            first = first or f"{weight.name}: {weight.data.shape[1]} bytes a row of {weight.columns} values"
            continue
        found = sum(_differing(weight))
        wrong, compared = wrong + found, compared + weight.rows * weight.columns
        first = first or (f"{weight.name}: {counted(found, 'value')}" if found else "")
    reason = first or f"{counted(len(weights), 'tensor')}, {counted(compared, 'value')}, the same to the bit"
    return passed_if(not wrong, reason, "values that differ", wrong, 0)


def _differing(weight: Weight) -> Iterator[int]:
    for begin in range(0, weight.rows, ROWS):
        reference, kernels = _decoders(weight, begin, min(begin + ROWS, weight.rows)).values()
        yield int((reference.view(np.uint32) != kernels.view(np.uint32)).sum())


def _decoders(weight: Weight, begin: int, end: int) -> Mapping[str, NDArray[np.float32]]:
    """Rows of `weight` from each decoder that can run here, shape `[rows, columns]`."""
    found = {"the reference": weight.dequantize(slice(begin, end))}
    if CPU.obstacle() is None:
        from aprtui.engine.cpu.matmul import decoded_rows

        found["the kernels"] = decoded_rows(weight, begin, end)
    return found


def _weights(arguments: CheckArguments, kind: WeightType) -> list[Weight]:
    return [weight for weight in arguments.require_model().weights.values() if weight.type is kind]


def _type(arguments: CheckArguments) -> tuple[WeightType, int, int]:
    """The type, and the numbers of values and bytes in its blocks."""
    kind = WeightType[arguments.one_of("type", WeightType.Q4_K.name, [kind.name for kind in WeightType])]
    return kind, kind.format.block_values, kind.format.block_bytes


def _bytes(text: str, size: int) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError as error:
        raise UsageError(f"check parameter block: not hexadecimal: {error}") from error
    if len(data) != size:
        raise UsageError(f"check parameter block: {len(data)} bytes: a block of the type has {size}")
    return data


def _expected(value: Any, columns: int) -> dict[int, float]:
    if (
        not isinstance(value, dict)
        or not value
        or not all(
            key.isdecimal() and len(key) < 10 and int(key) < columns and type(number) in (int, float)
            for key, number in value.items()
        )
    ):
        raise UsageError(f"check parameter values: expected numbers by column, 0 … {columns - 1}, as {{0: 1.5, 7: -2}}")
    return {int(key): float(number) for key, number in value.items()}
