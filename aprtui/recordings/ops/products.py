"""Matrix products: in float64, with the activations rounded in each of the ways that an engine may round them.

The first candidate is what llama.cpp's CPU backend does for the type of the weights; the others are tried only where it
does not explain the output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from aprtui.engine.cpu.matmul import decoded_rows
from aprtui.engine.rounding import ROUND, sum_correction
from aprtui.model.weight_types import InputRounding
from aprtui.model.weights import Weight
from aprtui.recordings.element_types import weight_type
from aprtui.recordings.memory import values_of
from aprtui.recordings.ops.elementwise import repeated
from aprtui.recordings.ops.operands import Array, Operands, OpWay, OpWays

_ROWS_VALUES = 1 << 22
"""Values of a weight that are decoded together: 32 MB as float64."""
_FLOATS = (InputRounding.NONE, InputRounding.F16, InputRounding.BF16, "tf32")
_BLOCKS_OF_32 = (InputRounding.Q8_0, InputRounding.Q8_1, InputRounding.Q8_1_F16)


def roundings(op: Operands) -> list[str]:
    """How the input of a product with the first source may be rounded, the most likely first."""
    if op.exact:
        return [InputRounding.NONE]
    kind, columns = op.source(0).type, op.source(0).shape[3]
    row = weight_type(kind)
    first = InputRounding.NONE if row is None else row.format.cpu_input
    found: list[str] = [first, *_FLOATS]
    if row is not None and row.format.is_quantised:
        found += _BLOCKS_OF_32 if columns % 32 == 0 else ()
        found += (InputRounding.Q8_K,) if columns % 256 == 0 else ()
    return [name for name in dict.fromkeys(found) if _divides(name, columns)]


def _divides(rounding: str, columns: int) -> bool:
    block = 256 if rounding == InputRounding.Q8_K else 32 if rounding in _BLOCKS_OF_32 else 1
    return columns % block == 0


def rounding_words(rounding: str) -> str:
    return "" if rounding == InputRounding.NONE else f"input in {rounding}"


def product(op: Operands, index: int, place: tuple[int, int], inputs: Array, rounding: str) -> Array:
    """`inputs` `[n, columns]`, rounded, times the transpose of a matrix of a source: `[n, rows]`."""
    tensor = op.source(index)
    rounded = ROUND[rounding](inputs.astype(np.float32)).astype(np.float64) if rounding != "none" else inputs
    out = np.empty((len(inputs), tensor.shape[2]))
    weight = op.weight(index, *place)
    for rows, values in _decoded(op, index, place, weight):
        out[:, rows] = rounded @ values.T
        if weight is not None and rounding == InputRounding.Q8_1_F16:
            out[:, rows] += sum_correction(rounding, inputs.astype(np.float32), weight, rows)
    return out


def _decoded(op: Operands, index: int, place: tuple[int, int], weight: Weight | None) -> Iterator[tuple[slice, Array]]:
    """The matrix in ranges of rows."""
    tensor = op.source(index)
    count, columns = tensor.shape[2:]
    step = max(1, _ROWS_VALUES // max(1, columns))
    raw = op.raw(index)[place]
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        if weight is not None:
            yield rows, decoded_rows(weight, rows.start, rows.stop).astype(np.float64)
        else:
            part = replace(tensor, shape=(rows.stop - rows.start, columns), strides=tensor.strides[2:])
            yield rows, values_of(raw[rows], part)


def matrix_product(op: Operands) -> OpWays:
    """Rows of the second source times the matrices of the first, which serve several of them where there are fewer."""
    matrices, inputs = op.source(0), op.values(1)
    groups = inputs.shape[0] // matrices.shape[0], inputs.shape[1] // matrices.shape[1]
    for rounding in roundings(op):
        out = np.empty(op.shape)
        for i3, i2 in np.ndindex(*matrices.shape[:2]):
            part = (slice(i3 * groups[0], (i3 + 1) * groups[0]), slice(i2 * groups[1], (i2 + 1) * groups[1]))
            rows = inputs[part].reshape(-1, inputs.shape[-1])
            out[part] = product(op, 0, (i3, i2), rows, rounding).reshape(out[part].shape)
        yield OpWay(out, rounding_words(rounding))


def expert_product(op: Operands) -> OpWays:
    """Rows of the second source times the matrix that the third names for each: `[1, tokens, chosen, rows]`."""
    matrices, inputs, ids = op.source(0), op.values(1)[0], op.values(2)[0, 0]
    if ids.size and not 0 <= ids.min() <= ids.max() < matrices.shape[1]:
        raise ValueError(f"expert {ids.max()} of {matrices.shape[1]}")
    for rounding in roundings(op):
        out = np.zeros(op.shape)
        for expert in np.unique(ids):
            tokens, choices = np.nonzero(ids == expert)
            rows = inputs[tokens, choices % inputs.shape[1]]
            out[0, tokens, choices] = product(op, 0, (0, int(expert)), rows, rounding)
        yield OpWay(out, rounding_words(rounding))


def outer_product(op: Operands) -> Array:
    """The transpose of the second source times the first."""
    first, second = op.values(0), op.values(1)
    first = repeated(first, (*second.shape[:2], *first.shape[2:]))
    return np.asarray(np.matmul(second.swapaxes(-1, -2), first))


def solve_triangular(op: Operands) -> Array:
    """x with a lower triangular matrix times x = the second source."""
    return np.asarray(np.linalg.solve(np.tril(op.values(0)), op.values(1)))
