"""How the blocks of a weight are decoded: their scales, minimums, halves of bytes, tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.wording import counted, ranges
from aprtui.engine.alternatives.alternative import Alternative, Attempt, nicest, parametrised, plain
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.alternatives.matrices import products
from aprtui.engine.alternatives.matrices.channels import BLOCK, Places, Wide, is_small, rows_of, wrong_channels
from aprtui.model.model import Model
from aprtui.model.weight_types import BlockPart, ScalePacking, WeightFormat, WeightType
from aprtui.model.weights import Weight
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

Bytes = NDArray[np.uint8]

_MOST_ROWS = 512


def _decoded(words: str, change: Callable[[Weight], Weight | None]) -> Callable[..., Iterator[Attempt]]:
    """Blocks that are decoded in another way, each weight of a fused product alike."""

    def changed(call: StageCall) -> list[Weight]:
        return [change(weight) or weight for weight in call.model.params(call.node)]

    return lambda call, found: iter([parametrised(words, changed)])


def _as_other_types(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Blocks that are taken for those of another type of the same size."""
    weights = call.model.params(call.node)
    for kind in WeightType:
        if all(as_type(weight, kind) is not None for weight in weights):
            names = " and ".join(dict.fromkeys(weight.type.name for weight in weights))
            yield parametrised(
                f"weights are decoded as {kind.name}, the model's are {names}",
                lambda c, kind=kind: [as_type(w, kind) or w for w in c.model.params(c.node)],  # type: ignore[misc]
            )


def as_type(weight: Weight, kind: WeightType) -> Weight | None:
    """The bytes of a weight taken for those of another type; None where that has blocks of another size."""
    own, other = weight.type.format, kind.format
    sizes = (own.block_values, own.block_bytes) == (other.block_values, other.block_bytes)
    return replace(weight, type=kind) if sizes and kind is not weight.type else None


def _with_part(weight: Weight, part: BlockPart, change: Callable[[Bytes], Bytes]) -> Weight | None:
    """A weight of which the bytes of one part of all blocks, `[rows, blocks, bytes]`, are changed."""
    row = weight.type.format
    if part not in row.parts:
        return None
    data = weight.data.copy()
    of_part = data.reshape(weight.rows, -1, row.block_bytes)[..., row.parts[part]]
    of_part[...] = change(of_part.copy())
    return replace(weight, data=data)


def of_block_before(weight: Weight, part: BlockPart = BlockPart.SCALE) -> Weight | None:
    """Each block has that `part` of the one before it in its row."""
    return _with_part(weight, part, lambda packed: np.roll(packed, 1, 1))


def without_upper_bits(weight: Weight) -> Weight | None:
    """Of sub-blocks' scales of six bits the later ones lack the upper two, which lie with the first ones."""
    if weight.type.format.scale_packing is not ScalePacking.SIX_BITS:
        return None

    def cut(packed: Bytes) -> Bytes:
        packed[..., :8] &= 63
        return packed

    return _with_part(weight, BlockPart.SUB_BLOCK_SCALES, cut)


def without_offset(weight: Weight) -> Weight | None:
    """Quants that are not counted from the middle of their range."""
    row = weight.type.format
    zeroed = _with_part(weight, BlockPart.QUANTS, np.zeros_like) if row.offset and not row.codebook else None
    return None if zeroed is None else weight.of_values(weight.dequantize() - zeroed.dequantize())


def _small_with(has: Callable[[WeightFormat], bool]) -> Callable[[Model, Node], bool]:
    """Whether a product is small, and one of its weights is of a type whose blocks `has` what is decoded otherwise."""
    return lambda model, node: is_small(model, node) and any(has(weight.type.format) for weight in model.params(node))


def _block_factors(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Wrong channels in each of which the weights of one block of 32 are multiplied by a number: a scale, a sign."""
    if found is None or len(call.x) < 4 or call.x.shape[1] % BLOCK:
        return
    wrong = wrong_channels(call, found)
    if not 0 < wrong.size <= _MOST_ROWS or not np.isfinite(found).all():
        return
    rows = rows_of(call.model.params(call.node), wrong.tolist()).reshape(wrong.size, -1, BLOCK)
    x = call.x.astype(np.float64).reshape(len(call.x), -1, BLOCK)
    error = (found - call.honest()).astype(np.float64)[:, wrong]
    blocks, factors = np.zeros(wrong.size, np.intp), np.zeros(wrong.size)
    for at in range(wrong.size):
        terms = np.einsum("tbk,bk->tb", x, rows[at])
        squares = (terms**2).sum(0)
        projected = (terms * error[:, at : at + 1]).sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            gains = np.where(squares > 0, projected**2 / squares, 0.0)
        blocks[at] = int(gains.argmax())
        factors[at] = 1 + projected[blocks[at]] / squares[blocks[at]] if squares[blocks[at]] else 1.0
    middle = float(np.median(factors))
    if np.abs(factors - middle).max() <= 1e-2 * max(1.0, abs(middle)):
        middle = nicest(middle, lambda value: float(((factors - value) ** 2).mean()))
        factors[:] = middle
        by = f"multiplied by {middle:.6g}" if middle else "left out"
        fitted = 1 + (0 if len(set(blocks.tolist())) == 1 else wrong.size)
    else:
        by, fitted = f"multiplied by {factors.min():.4g} … {factors.max():.4g}", 2 * wrong.size
    one = len(set(blocks.tolist())) == 1
    columns = f"columns {blocks[0] * BLOCK}–{blocks[0] * BLOCK + BLOCK - 1}" if one else "one block of 32"
    each = "" if one else " each"
    yield Attempt(
        f"the weights of {columns} in {counted(wrong.size, 'row')} ({ranges(wrong.tolist())}){each} are {by}",
        partial(_with_factors, wrong, blocks, factors), fitted,
    )  # fmt: skip


def _with_factors(wrong: Places, blocks: Places, factors: Wide, call: StageCall) -> Array:
    rows = rows_of(call.model.params(call.node), wrong.tolist()).reshape(wrong.size, -1, BLOCK)
    x = call.x.astype(np.float64).reshape(len(call.x), -1, BLOCK)
    out = call.honest().copy()
    terms = np.stack([x[:, block] @ rows[at, block] for at, block in enumerate(blocks)], 1)
    out[:, wrong] += (terms * (factors - 1)).astype(np.float32)
    return out


def _with_minimums(model: Model, node: Node) -> bool:
    return products.has_minimums(model, node) and is_small(model, node)


def _with_tile(model: Model, node: Node) -> bool:
    return is_small(model, node) and all(min(w.rows, w.columns) >= BLOCK for w in model.params(node))


def _with_nibbles(model: Model, node: Node) -> bool:
    return products.has_nibbles(model, node) and is_small(model, node)


_PRODUCT = (Op.MATMUL,)
_DECODING = "decode the blocks of this type as ggml's reference does"

DECODING_ALTERNATIVES: tuple[Alternative, ...] = (
    *(
        Alternative("decoding", frozenset(_PRODUCT), _decoded(words, change), _DECODING, _small_with(has))
        for words, change, has in (
            (
                "each block of weights has the scale of the one before", of_block_before,
                lambda row: BlockPart.SCALE in row.parts,
            ),
            (
                "each block of weights has the sub-block scales of the one before",
                partial(of_block_before, part=BlockPart.SUB_BLOCK_SCALES),
                lambda row: BlockPart.SUB_BLOCK_SCALES in row.parts,
            ),
            (
                "the upper bits of the later sub-blocks' scales are left out", without_upper_bits,
                lambda row: row.scale_packing is ScalePacking.SIX_BITS,
            ),
            (
                "quants are not counted from the middle of their range", without_offset,
                lambda row: bool(row.offset and not row.codebook),
            ),
        )
    ),
    Alternative("decoding", frozenset(_PRODUCT), _as_other_types, _DECODING, is_small),
    Alternative("block of weights", frozenset(_PRODUCT), _block_factors, _DECODING),
    plain(
        "minimums", _PRODUCT, products.minimums_left_out, "minimums of blocks are left out", _DECODING, _with_minimums
    ),
    plain(
        "nibbles", _PRODUCT, products.nibbles_exchanged, "the halves of each byte of quants are exchanged", _DECODING,
        _with_nibbles,
    ),
    plain(
        "columns of blocks", _PRODUCT, products.columns_reversed, "the columns of each block of 32 are in reverse",
        _DECODING, is_small,
    ),
    plain(
        "tile transposed", _PRODUCT, products.tile_transposed, "the first tile of 32 × 32 weights is transposed",
        "load the tile along the other axis", _with_tile,
    ),
)  # fmt: skip
