"""Where a tensor differs, and what it looks like: another one, its transpose, a multiple, zero, its rows moved."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.metrics.measure import cosine_of_sums
from aprtui.model.weight_difference.judgement import LIMIT
from aprtui.model.weight_difference.values import WeightMetrics
from aprtui.model.weights import StoredTensor

Tensors = Mapping[str, StoredTensor]

_ALIKE, _UNLIKE = 0.9, 0.5
"""Cosine of a sample above which two tensors hold the same weights (4 bits: 0.997), below which they do not."""

_FEW = 100
"""One block in so many; two quantisers differ in nearly all blocks."""

_SAMPLE = 4096
_CORNER = 64


@dataclass(frozen=True, slots=True)
class BytesDifference:
    """Where the bytes of two tensors of one type and shape differ.

    `first_block` counts blocks within `first_row`; `parts` counts for each part of a quantised block in how many blocks
    it differs, and is empty for types that have no parts.
    """

    rows: int
    blocks: int
    first_row: int
    first_block: int
    parts: Mapping[str, int]


def bytes_difference(a: StoredTensor, b: StoredTensor) -> BytesDifference | None:
    """Where the bytes differ, or None where they are equal; the two must have one type and shape."""
    layout = a.parts
    row_count = block_count = 0
    first: tuple[int, int] | None = None
    parts = dict.fromkeys(layout, 0)
    for rows in a.row_ranges():
        if np.array_equal(a.data[rows], b.data[rows]):
            continue
        differs = a.blocks(rows) != b.blocks(rows)
        differing_blocks = differs.any(axis=2)
        row_count += int(np.count_nonzero(differing_blocks.any(axis=1)))
        block_count += int(np.count_nonzero(differing_blocks))
        for name, part in layout.items():
            parts[name] += int(np.count_nonzero(differs[:, :, part].any(axis=2)))
        if first is None:
            row, block = divmod(int(differing_blocks.argmax()), differing_blocks.shape[1])
            first = rows.start + row, block
    if first is None:
        return None
    return BytesDifference(row_count, block_count, *first, {name: count for name, count in parts.items() if count})


def twins(tensor: StoredTensor, others: Tensors) -> tuple[str, ...]:
    """Names of tensors of the other file, under another name, whose bytes are the same.

    A tensor of one repeated value, as a bias of zeros or a norm of ones, has none: all of them would be twins.
    """
    candidates = [name for name, other in others.items() if name != tensor.name and tensor.has_bytes_of(other)]
    return tuple(candidates) if candidates and not _is_constant(tensor) else ()


def _is_constant(tensor: StoredTensor) -> bool:
    try:
        values = tensor.values(slice(0, 1))
    except NotImplementedError:
        return False
    return bool((values == values[0, 0]).all())


def stored_findings(a: StoredTensor, b: StoredTensor, all_a: Tensors, all_b: Tensors) -> Iterator[str]:
    """What the bytes show; where only they can be compared, all that can be said."""
    in_b, in_a = twins(a, all_b), twins(b, all_a)
    if in_a and in_a == in_b:
        yield f"swapped with {in_a[0]}: each holds the other's bytes in B"
    else:
        if in_b:
            yield f"A's bytes are those of {in_b[0]} in B"
        if in_a:
            yield f"B's bytes are those of {in_a[0]} in A"
    if a.has_layout_of(b) and a.rows > 1 and not in_a:
        yield from _moved_rows(a, b)


def few_blocks(tensor: StoredTensor, where: BytesDifference) -> Iterator[str]:
    """Whether so few blocks of a quantised tensor differ that no other quantiser can be the reason."""
    count = tensor.data.size // tensor.block_bytes
    if tensor.block_values > 1 and where.blocks * _FEW <= count:
        yield f"only {where.blocks} of {count} blocks differ{'s' if where.blocks == 1 else ''}: looks edited or damaged"


def _moved_rows(a: StoredTensor, b: StoredTensor) -> Iterator[str]:
    left, right = ([zlib.crc32(row) for row in tensor.data] for tensor in (a, b))
    if left != right and sorted(left) == sorted(right):
        moved = next(row for row, (x, y) in enumerate(zip(left, right, strict=True)) if x != y)
        yield f"the same rows in another order: row {moved} of A is row {right.index(left[moved])} of B"


def value_findings(
    a: StoredTensor, b: StoredTensor, metrics: WeightMetrics, all_a: Tensors, all_b: Tensors
) -> Iterator[str]:
    """What the values show of a pair of one shape that differs by more than it should."""
    if not metrics.compared or metrics.cosine is None:
        return
    if metrics.norm_ratio is None:
        yield "all zero in A"
        return
    if metrics.norm_ratio == 0:
        yield "all zero in B"
        return
    # With B = k·A the angle between the sides is rounding alone, and k is beyond rounding.
    rounding = LIMIT * (metrics.expected_rel_l2 or 0.0) + 1e-7
    angle = math.sqrt(max(0.0, 1 - metrics.cosine**2))
    if metrics.cosine > 0 and angle <= rounding < abs(metrics.norm_ratio - 1):
        yield f"B is {metrics.norm_ratio:.4g} times A, but for rounding"
    if metrics.cosine >= _UNLIKE:
        return
    if metrics.cosine < -_ALIKE:
        yield "the sign is turned"
    yield from transposed(a, b)
    if a.type != b.type:
        yield from _look_alikes(b, a, all_a, "B", "A")
        yield from _look_alikes(a, b, all_b, "A", "B")


def transposed(a: StoredTensor, b: StoredTensor) -> Iterator[str]:
    """Whether B's upper left corner is the transpose of A's; for any two matrices with swapped extents."""
    if len(a.shape) != 2 or a.shape != b.shape[::-1]:
        return
    size = min(_CORNER, *a.shape)
    try:
        left, right = (tensor.values(slice(0, size))[:, :size] for tensor in (a, b))
    except NotImplementedError:
        return
    if size > 1 and cosine(left.T, right) > _ALIKE > cosine(left, right):
        yield "B looks like the transpose of A"


def _look_alikes(tensor: StoredTensor, namesake: StoredTensor, others: Tensors, side: str, other: str) -> Iterator[str]:
    """A tensor of the other file that holds the same weights in another type, by a sample of both."""
    sample = _sample(tensor)
    for name, candidate in others.items():
        if name == namesake.name or candidate.shape != tensor.shape:
            continue
        if cosine(sample, _sample(candidate)) > _ALIKE:
            yield f"{side}'s values are those of {name} in {other}, by a sample"
            return


def _sample(tensor: StoredTensor) -> NDArray[np.float32]:
    try:
        return tensor.values(slice(0, max(1, _SAMPLE // tensor.columns)))
    except NotImplementedError:
        return np.zeros((max(1, min(tensor.rows, _SAMPLE // tensor.columns)), tensor.columns), np.float32)


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Of the finite values of both; 0 where a side is zero."""
    finite = np.isfinite(a) & np.isfinite(b)
    left, right = a[finite].astype(np.float64), b[finite].astype(np.float64)
    squares = float((left * left).sum()), float((right * right).sum())
    return cosine_of_sums(float((left * right).sum()), *squares) if all(squares) else 0.0
