"""Gates on the scales of quantised blocks: one block that a converter or a disk got wrong, among millions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.quality.gate import GateFinding, ModelUnderTest
from aprtui.model.tensor_table import TensorInfo, tensor_table
from aprtui.model.weight_types import BlockPart

OUTLIER = 10.0
"""Times the largest other scale of the block's row and of its column. In 28.5 million blocks of four models (Q4_K,
Q5_0, Q6_K, Q8_0, Q4_1) the largest is 5.01."""

VOCABULARIES = ("token_embd.weight", "output.weight", "per_layer_token_embd.weight")
"""Tensors with a row for each token: those of tokens that do not exist are zero."""

FEW = 1e-3
"""Of the blocks of a tensor: a sign or a zero that more blocks have is how the tensor was made."""


def block_scales(subject: ModelUnderTest) -> GateFinding:
    """No block has a scale of zero among others, of the sign that no other has, or far beyond its neighbours."""
    problems, blocks = [], 0
    for info in tensor_table(subject.model.path):
        scales = _scales(info)
        if scales is not None:
            blocks += scales.size
            padded = info.name in VOCABULARIES
            problems += [f"{info.name}: {problem}" for problem in scale_problems(scales, padded=padded)]
    if not blocks:
        return GateFinding.skipped("no tensor is made of blocks with a float16 scale")
    return GateFinding.of_problems(problems, f"{blocks} block scales, none zero, of the other sign or an outlier")


def _scales(info: TensorInfo) -> NDArray[np.float32] | None:
    """The scales of a tensor's blocks, shape `[rows, blocks]`; None where it has none, or they are no float16."""
    stored = info.stored
    place = None if stored is None else stored.parts.get(BlockPart.SCALE)
    if stored is None or place is None:
        return None
    blocks = stored.data.reshape(stored.data.shape[0], -1, stored.block_bytes)[:, :, place]
    if blocks.shape[2] != 2:
        return None
    return np.ascontiguousarray(blocks).view("<f2")[..., 0].astype(np.float32)


def scale_problems(scales: NDArray[np.float32], *, padded: bool = False) -> Iterator[str]:
    """What is odd about the scales `[rows, blocks]` of one tensor. With `padded`, rows of zeros alone are not."""
    sizes = np.abs(np.where(np.isfinite(scales), scales, 0))
    filled = (sizes > 0).any(axis=1, keepdims=True) | (not padded)
    few = max(1, int(FEW * scales.size))
    for name, wrong in (("zero", (sizes == 0) & filled), ("negative", scales < 0), ("positive", scales > 0)):
        count = int(wrong.sum())
        if 0 < count <= few and scales.size > few:
            row, block = np.argwhere(wrong)[0]
            yield f"the scale of block {block} in row {row} is {name}, as of {count} of {scales.size} blocks"
    others = np.maximum(_largest_other(sizes, 0), _largest_other(sizes, 1))
    times = np.divide(sizes, others, out=np.zeros_like(sizes), where=others > 0)
    row, block = np.unravel_index(int(times.argmax()), times.shape)
    if times[row, block] > OUTLIER:
        largest = f"{times[row, block]:.1f} times the largest other of its row and column"
        yield f"the scale of block {block} in row {row} is {scales[row, block]:.3g}, {largest}"


def _largest_other(sizes: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """For each entry the largest of the others along `axis`; 0 where it has none."""
    if sizes.shape[axis] < 2:
        return np.zeros_like(sizes)
    two = np.partition(sizes, sizes.shape[axis] - 2, axis=axis).take([-2, -1], axis=axis)
    second, first = np.split(two, 2, axis=axis)
    return np.where(sizes == first, second, first)
