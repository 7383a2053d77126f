"""Alternatives of matrix products: which weights are read, how, and what of them is summed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.wording import counted, ranges
from aprtui.engine.alternatives import products
from aprtui.engine.alternatives.alternative import (
    MOST_VALUES,
    Alternative,
    Attempt,
    distance,
    least,
    nicest,
    parametrised,
    plain,
    reading,
)
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.alternatives.left_out import STEP, End, squares_without
from aprtui.engine.alternatives.places import layer_words
from aprtui.engine.rounding import ROUND
from aprtui.model.model import Model
from aprtui.model.weight_types import BlockPart, ScalePacking, WeightType
from aprtui.model.weights import Weight
from aprtui.trace.graph import Node, Op

Wide = NDArray[np.float64]
Places = NDArray[np.intp]
Bytes = NDArray[np.uint8]

_SAMPLED = 24
_TOKENS = 16
_OFF = 1e-4
"""Of a channel's size: what a channel must err by to be one of the wrong ones; less is looked at where none does."""
_BLOCK = 32
_MOST_ROWS = 512
_EQUATIONS = 3
"""Values that are looked at for each number that is solved for."""
_SOLVED = 1e-2
"""What a number that is solved for may be off by."""
_SHIFTS = 8
_TERMS = (1, 8, 16, 32, 64, 128, 256)
_INPUTS = {
    "f16": "float16", "bf16": "bfloat16", "q8_0": "Q8_0", "q8_1": "Q8_1", "q8_k": "Q8_K",
    "int8_row": "int8, a scale a row", "fp8": "FP8",
}  # fmt: skip


def _small(model: Model, node: Node) -> bool:
    """Whether all weights can be decoded as a whole."""
    return all(weight.rows * weight.columns <= MOST_VALUES for weight in model.params(node))


def _wrong_channels(call: StageCall, found: Array) -> Places:
    own = call.honest().astype(np.float64)
    error = np.where(np.isfinite(found), found - own, 0.0)
    size = np.sqrt((own**2).mean()) or 1.0
    return np.flatnonzero(np.sqrt((error**2).mean(0)) > _OFF * size)


def _offsets(weights: Sequence[Weight]) -> list[int]:
    return [0, *np.cumsum([weight.rows for weight in weights]).tolist()]


def _rows_of(weights: Sequence[Weight], channels: Sequence[int]) -> Wide:
    """The rows `[channels, columns]` that channels of a product are computed with; fused ones have several weights."""
    starts = _offsets(weights)
    parts = np.searchsorted(starts, np.asarray(channels), side="right") - 1
    rows = [weights[part].dequantize([channel - starts[part]]) for part, channel in zip(parts, channels, strict=True)]
    return np.concatenate(rows).astype(np.float64)


def _some(places: Places, most: int) -> Places:
    return places[:: max(1, -(-len(places) // most))]


def _other_weights(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Weights of another product, of any layer, in place of each that is off."""
    if found is None:
        return
    weights, graph = call.model.params(call.node), call.model.graph
    starts, wrong, tokens = _offsets(weights), _wrong_channels(call, found), _some(np.arange(len(call.x)), _TOKENS)
    x = call.x[tokens].astype(np.float64)
    others = {
        (node, place): weight
        for node in graph.nodes
        if graph[node.stage].op in (Op.MATMUL, Op.EMBED)
        for place, weight in enumerate(call.model.params(node))
    }
    chosen: dict[int, tuple[Node, int, Weight]] = {}
    for place, weight in enumerate(weights):
        of_part = wrong[(wrong >= starts[place]) & (wrong < starts[place + 1])]
        if of_part.size < weight.rows / 2:
            continue
        rows = _some(of_part, _SAMPLED)
        seen, errors = found[tokens][:, rows], {}
        for (node, at), other in others.items():
            if (other.rows, other.columns) == (weight.rows, weight.columns) and (node, at) != (call.node, place):
                errors[node, at] = distance(x @ other.dequantize((rows - starts[place]).tolist()).T, seen)
        if errors:
            node, at = min(errors, key=lambda key: errors[key])
            chosen[place] = node, at, others[node, at]
    if chosen and all(weight.rows * weight.columns <= MOST_VALUES for _, _, weight in chosen.values()):
        words = _weight_words(call, {place: (node, at) for place, (node, at, _) in chosen.items()})
        own = dict(enumerate(weights)) | {place: weight for place, (_, _, weight) in chosen.items()}
        yield parametrised(f"computed with the weights of {words}", lambda c: list(own.values()))


_QKV = ("Q", "K", "V")


def _weight_words(call: StageCall, chosen: dict[int, tuple[Node, int]]) -> str:
    """Whose weights stand in place of which parts of a product."""
    count = len(call.model.params(call.node))
    nodes = {node for node, _ in chosen.values()}
    in_place = all(at == place for place, (_, at) in chosen.items())
    if count == 1 or (len(chosen) == count and len(nodes) == 1 and in_place):
        return layer_words(call.node, next(iter(nodes)))
    texts = []
    for place, (node, at) in chosen.items():
        part = _QKV[at] if len(call.model.params(node)) == len(_QKV) else ""
        of = "" if node == call.node else layer_words(call.node, node)
        texts.append(f"{part}{' of ' if part and of else ''}{of} in place of {_QKV[place]}")
    return " and ".join(texts)


def _left_out(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Inputs at an end of the rows that the wrong channels do not sum."""
    if found is None:
        return
    wrong = _wrong_channels(call, found)
    if not wrong.size:
        return
    sample, tokens = _some(wrong, _SAMPLED), _some(np.arange(len(call.x)), _TOKENS)
    rows, x = _rows_of(call.model.params(call.node), sample.tolist()), call.x[tokens].astype(np.float64)
    error = (found - call.honest())[tokens][:, sample].astype(np.float64)
    if not np.isfinite(error).all():
        return
    for end in End:
        count = (int(squares_without(x, rows, error, end).argmin()) + 1) * STEP
        if count >= call.x.shape[1]:
            continue
        of = _channels_words(wrong, found.shape[1])
        yield Attempt(
            f"the {end} {counted(count, 'input')} of {call.x.shape[1]} are not summed{of}",
            partial(_summed_without, count, end, wrong), 1,
        )  # fmt: skip


def _channels_words(wrong: Places, width: int) -> str:
    return "" if wrong.size > width / 2 else f" in channels {ranges(wrong.tolist())}"


def _summed_without(count: int, end: End, wrong: Places, call: StageCall) -> Array:
    x = call.x.copy()
    x[:, -count:] = 0 if end is End.LAST else x[:, -count:]
    if end is End.FIRST:
        x[:, :count] = 0
    return _in_channels(call, x, wrong)


def _in_channels(call: StageCall, x: Array, wrong: Places) -> Array:
    """The product of other inputs, where the wrong channels are few in these alone."""
    out, changed = call.honest().copy(), call.honest(x)
    if wrong.size > out.shape[1] / 2:
        return changed
    out[:, wrong] = changed[:, wrong]
    return out


def _block_factors(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Wrong channels in each of which the weights of one block of 32 are multiplied by a number: a scale, a sign."""
    if found is None or len(call.x) < 4 or call.x.shape[1] % _BLOCK:
        return
    wrong = _wrong_channels(call, found)
    if not 0 < wrong.size <= _MOST_ROWS or not np.isfinite(found).all():
        return
    rows = _rows_of(call.model.params(call.node), wrong.tolist()).reshape(wrong.size, -1, _BLOCK)
    x = call.x.astype(np.float64).reshape(len(call.x), -1, _BLOCK)
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
    columns = f"columns {blocks[0] * _BLOCK}–{blocks[0] * _BLOCK + _BLOCK - 1}" if one else "one block of 32"
    each = "" if one else " each"
    yield Attempt(
        f"the weights of {columns} in {counted(wrong.size, 'row')} ({ranges(wrong.tolist())}){each} are {by}",
        partial(_with_factors, wrong, blocks, factors), fitted,
    )  # fmt: skip


def _with_factors(wrong: Places, blocks: Places, factors: Wide, call: StageCall) -> Array:
    rows = _rows_of(call.model.params(call.node), wrong.tolist()).reshape(wrong.size, -1, _BLOCK)
    x = call.x.astype(np.float64).reshape(len(call.x), -1, _BLOCK)
    out = call.honest().copy()
    terms = np.stack([x[:, block] @ rows[at, block] for at, block in enumerate(blocks)], 1)
    out[:, wrong] += (terms * (factors - 1)).astype(np.float32)
    return out


def _input_types(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    raw = call.x
    for kind, name in _INPUTS.items():
        if not kind.startswith("q8") or raw.shape[1] % (256 if kind == "q8_k" else _BLOCK) == 0:
            yield Attempt(f"its input is rounded to {name}", lambda c, kind=kind: c.honest(ROUND[kind](raw)))  # type: ignore[misc]
    yield Attempt("its input is not rounded", lambda c: c.honest(raw))


def _input_limits(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Inputs that saturate: searched for on some channels."""
    if found is None:
        return
    sample = _some(np.arange(found.shape[1]), _SAMPLED)
    rows, seen = _rows_of(call.model.params(call.node), sample.tolist()), found[:, sample]
    largest = float(np.abs(call.x).max())

    def cost(logarithm: float) -> float:
        limit = np.float32(np.exp(logarithm))
        return distance(np.clip(call.x, -limit, limit).astype(np.float64) @ rows.T, seen)

    grid = np.linspace(np.log(largest / 100), np.log(largest), 40)
    at = int(np.argmin([cost(value) for value in grid]))
    if largest == 0 or at == len(grid) - 1:
        return
    limit = float(np.exp(least(cost, float(grid[max(at - 1, 0)]), float(grid[at + 1]))))
    limit = nicest(limit, lambda value: cost(np.log(value)) ** 2)
    yield Attempt(
        f"its input saturates at {limit:.6g}",
        lambda c: c.honest(np.clip(c.x, -np.float32(limit), np.float32(limit))), 1,
    )  # fmt: skip


def _terms(call: StageCall, found: Array, size: int) -> tuple[Wide, Wide, Places] | None:
    """What blocks of `size` inputs contribute to some wrong channels, `[tokens · channels, blocks]`; what these err by,
    `[tokens · channels]`; all wrong channels. None where these are too few to tell the blocks apart."""
    wrong, columns = _wrong_channels(call, found), call.x.shape[1]
    if not wrong.size or columns % size or not np.isfinite(found).all():
        return None
    tokens = _some(np.arange(len(call.x)), _TOKENS)
    sample = _some(wrong, -(-2 * columns // size // len(tokens)) + _SAMPLED)
    if len(tokens) * sample.size < _EQUATIONS * columns // size:
        return None
    rows = _rows_of(call.model.params(call.node), sample.tolist()).reshape(sample.size, -1, size)
    x = call.x[tokens].astype(np.float64).reshape(len(tokens), -1, size)
    error = (found - call.honest())[tokens][:, sample].astype(np.float64)
    return np.einsum("tbk,cbk->tcb", x, rows).reshape(-1, columns // size), error.ravel(), wrong


def _input_blocks(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Blocks of 32 inputs that are not summed, summed twice, or with another sign, as the errors add up."""
    terms = None if found is None else _terms(call, found, _BLOCK)
    if terms is None:
        return
    solved, *_ = np.linalg.lstsq(terms[0], terms[1], rcond=None)
    factors = 1 + np.where(np.abs(solved) < _SOLVED, 0.0, solved)
    off = np.flatnonzero(factors != 1)
    if not 0 < off.size < len(factors) or (off.size == 1 and terms[2].size <= call.honest().shape[1] / 2):
        return  # One block of a few rows is a matter of the weights.
    middle = nicest(float(np.median(factors[off])), lambda value: float(((factors[off] - value) ** 2).mean()))
    middle = 0.0 if abs(middle) < _SOLVED else middle
    if np.abs(factors[off] - middle).max() > _SOLVED:
        return
    how = {0.0: "not summed", 2.0: "summed twice"}.get(middle, f"multiplied by {middle:.6g}")
    inputs = np.flatnonzero(np.repeat(factors != 1, _BLOCK))
    of = _channels_words(terms[2], call.honest().shape[1])
    yield Attempt(
        f"inputs {ranges(inputs.tolist())} of {call.x.shape[1]} are {how}{of}",
        partial(_with_inputs, inputs, np.float32(middle), terms[2]), 1 + off.size,
    )  # fmt: skip


def _with_inputs(inputs: Places, factor: np.float32, wrong: Places, call: StageCall) -> Array:
    x = call.x.copy()
    x[:, inputs] *= factor
    return _in_channels(call, x, wrong)


def _head_orders(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Heads of the attention that a product reads in another order, twice or not at all: which head meets which columns
    of the weight is solved for, all at once."""
    dim = call.model.config.graph.head_dim
    (source,) = call.model.graph.inputs(call.node)
    if found is None or call.model.graph[source.stage].op is not Op.ATTEND or call.x.shape[1] % dim:
        return
    heads, wrong = call.x.shape[1] // dim, _wrong_channels(call, found)
    if heads < 2 or not wrong.size or not np.isfinite(found).all():
        return
    tokens = _some(np.arange(len(call.x)), 2 * _TOKENS)
    sample = _some(wrong, -(-_EQUATIONS * heads * heads // len(tokens)))
    if len(tokens) * sample.size < 2 * heads * heads:
        return
    rows = _rows_of(call.model.params(call.node), sample.tolist()).reshape(sample.size, heads, dim)
    x = call.x[tokens].astype(np.float64).reshape(len(tokens), heads, dim)
    terms = np.einsum("tpk,chk->tchp", x, rows).reshape(-1, heads * heads)
    solved, *_ = np.linalg.lstsq(terms, found[tokens][:, sample].astype(np.float64).ravel(), rcond=None)
    table = solved.reshape(heads, heads)
    order = table.argmax(1)
    if np.abs(table - np.eye(heads)[order]).max() < _SOLVED and (order != np.arange(heads)).any():
        joined = np.ascontiguousarray(call.heads(call.x)[:, order]).reshape(call.x.shape)
        yield reading(f"reads the heads of {source.stage} in the order {order.tolist()[:16]}", {0: joined})


def _input_orders(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Inputs that are read in another order: of those that come of other layouts, and of shifts, the nearest on some
    channels."""
    if found is None:
        return
    width, dim = call.x.shape[1], call.model.config.graph.head_dim
    orders = dict(_usual_orders(width, dim))
    orders |= {
        f"shifted by {counted(abs(step), 'channel')} {'up' if step > 0 else 'down'}": np.roll(np.arange(width), step)
        for step in (*range(-_SHIFTS, 0), *range(1, _SHIFTS + 1))
    }
    sample, tokens = _some(np.arange(found.shape[1]), _SAMPLED), _some(np.arange(len(call.x)), _TOKENS)
    rows, seen = _rows_of(call.model.params(call.node), sample.tolist()), found[tokens][:, sample]
    x = call.x[tokens].astype(np.float64)
    name = min(orders, key=lambda name: distance(x[:, orders[name]] @ rows.T, seen))
    yield reading(f"its input is {name}", {0: np.ascontiguousarray(call.x[:, orders[name]])})


def _usual_orders(width: int, dim: int) -> Iterator[tuple[str, Places]]:
    """Orders of channels that come of a wrong transpose, by what is read."""
    channels = np.arange(width)
    yield "in reverse", channels[::-1]
    if width % 2 == 0:
        yield "read with even and odd channels for halves", channels.reshape(-1, 2).T.ravel()
        yield "read with halves for even and odd channels", channels.reshape(2, -1).T.ravel()
        yield "read with its halves exchanged", np.roll(channels, width // 2)
    if dim and width % dim == 0 and width > dim:
        heads = channels.reshape(-1, dim)
        yield "read as [channels, heads] in place of [heads, channels]", heads.T.ravel()
        yield "[channels, heads] that is read as [heads, channels]", channels.reshape(dim, -1).T.ravel()
        yield (
            "read with even and odd channels of each head for halves",
            heads.reshape(len(heads), -1, 2).swapaxes(1, 2).ravel(),
        )
        yield (
            "read with halves of each head for even and odd channels",
            heads.reshape(len(heads), 2, -1).swapaxes(1, 2).ravel(),
        )


def _decodings(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Blocks that are decoded in another way, each weight of a fused product alike: another type of the same size,
    scales of another block, fewer bits of them, quants without their offset."""
    weights = call.model.params(call.node)
    for words, change in _DECODINGS.items():
        changed = [change(weight) for weight in weights]
        if any(other is not None for other in changed):
            params = [own if other is None else other for own, other in zip(weights, changed, strict=True)]
            yield parametrised(words, lambda c, params=params: params)  # type: ignore[misc]
    for kind in WeightType:
        taken = [as_type(weight, kind) for weight in weights]
        others = [weight for weight in taken if weight is not None]
        if len(others) == len(weights):
            names = " and ".join(dict.fromkeys(weight.type.name for weight in weights))
            yield parametrised(
                f"weights are decoded as {kind.name}, the model's are {names}",
                lambda c, others=others: others,  # type: ignore[misc]
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


_DECODINGS: Mapping[str, Callable[[Weight], Weight | None]] = {
    "each block of weights has the scale of the one before": of_block_before,
    "each block of weights has the sub-block scales of the one before": partial(
        of_block_before, part=BlockPart.SUB_BLOCK_SCALES
    ),
    "the upper bits of the later sub-blocks' scales are left out": without_upper_bits,
    "quants are not counted from the middle of their range": without_offset,
}


def _narrow_sums(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Sums that are kept in 16 bits, over as many terms at a time as some channels show."""
    if found is None:
        return
    sample, tokens = _some(np.arange(found.shape[1]), _SAMPLED), _some(np.arange(len(call.x)), _TOKENS)
    rows, x = _rows_of(call.model.params(call.node), sample.tolist()), call.x[tokens].astype(np.float64)
    seen = found[tokens][:, sample]
    ways = {
        (kind, terms): narrow_sums(x, rows, kind, terms)
        for kind in ("f16", "bf16")
        for terms in _TERMS
        if terms < x.shape[1]
    }
    kind, terms = min(ways, key=lambda way: distance(ways[way], seen))
    if distance(ways[kind, terms], seen) < 0.25 * distance(x @ rows.T, seen):
        each = "each term" if terms == 1 else f"every {terms} terms"
        yield Attempt(
            f"sums are rounded to {_INPUTS[kind]} after {each}", partial(summed_narrowly, kind=kind, terms=terms)
        )


def narrow_sums(x: Wide, rows: Wide, kind: str, terms: int) -> Array:
    """The product of `x` `[tokens, columns]` and `rows` `[channels, columns]`, rounded after so many terms."""
    sums = np.zeros((len(x), len(rows)), np.float32)
    for start in range(0, x.shape[1], terms):
        block = slice(start, start + terms)
        sums = ROUND[kind](sums + (x[:, block] @ rows[:, block].T).astype(np.float32))
    return sums


def summed_narrowly(call: StageCall, kind: str, terms: int) -> Array:
    """A product whose sums are kept in 16 bits."""
    x = call.x.astype(np.float64)
    return np.concatenate([narrow_sums(x, matrix, kind, terms) for matrix in call.matrices()], axis=1)


def _zero_scales(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Blocks of inputs that are zero throughout, so that a scale of theirs is, which is divided by."""
    for size, words in ((_BLOCK, "blocks of 32 inputs"), (call.x.shape[1], "rows of inputs")):
        if call.x.shape[1] % size:
            continue
        zero = (call.x.reshape(len(call.x), -1, size) == 0).all(-1).any(-1)
        if zero.any() and not zero.all():
            yield Attempt(
                f"{words} that are zero make NaN: their scale is divided by",
                lambda c, zero=zero: np.where(zero[:, None], np.float32(np.nan), c.honest()),  # type: ignore[misc]
            )  # fmt: skip


_PRODUCT = (Op.MATMUL,)
_DECODING = "decode the blocks of this type as ggml's reference does"


def _square(model: Model, node: Node) -> bool:
    return products.is_square(model, node) and _small(model, node)


def _with_minimums(model: Model, node: Node) -> bool:
    return products.has_minimums(model, node) and _small(model, node)


def _with_nibbles(model: Model, node: Node) -> bool:
    return products.has_nibbles(model, node) and _small(model, node)


MATRIX_ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative("weights", frozenset(_PRODUCT), _other_weights, "check which tensor is bound to this product"),
    plain(
        "transposed", _PRODUCT, products.transposed, "the matrix is transposed",
        "a GGUF row holds the weights of one output channel", _square,
    ),
    Alternative("inputs left out", frozenset(_PRODUCT), _left_out, "let the loop over columns end with the last one"),
    Alternative(
        "inputs in another order", frozenset(_PRODUCT), _input_orders,
        "check how what is read was laid out: the transpose, and how heads and halves are joined",
    ),
    Alternative("input heads", frozenset(_PRODUCT), _head_orders, "join heads in the order of the weight's columns"),
    Alternative(
        "blocks of inputs", frozenset(_PRODUCT), _input_blocks, "let the loop over columns take each block once"
    ),
    Alternative("decoding", frozenset(_PRODUCT), _decodings, _DECODING, _small),
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
        _DECODING, _small,
    ),
    plain(
        "tile transposed", _PRODUCT, products.tile_transposed, "the first tile of 32 × 32 weights is transposed",
        "load the tile along the other axis", _small,
    ),
    plain(
        "scale of inputs", _PRODUCT, products.scale_of_block_before,
        "blocks of the input are rounded by the scale of the block before", "scale each block of the input by its own",
        lambda model, node: all(weight.columns % _BLOCK == 0 for weight in model.params(node)),
    ),
    Alternative("zero scale", frozenset(_PRODUCT), _zero_scales, "take 0 for quants whose scale is 0", of_result=True),
    Alternative(
        "sums in 16 bits", frozenset(_PRODUCT), _narrow_sums, "sum in float32, or state it: --rounding sums=…", _small,
        may_be_meant=True,
    ),
    Alternative("input type", frozenset(_PRODUCT), _input_types, "state it: --rounding", may_be_meant=True),
    Alternative("input limit", frozenset(_PRODUCT), _input_limits, "keep inputs in a type of a wider range"),
)  # fmt: skip


# The embedding.

_MOST_TOKENS = 8


def _other_ids(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Rows of the table that belong to other ids."""
    if found is None:
        return
    (table,), scale = call.model.params(call.node), call.model.config.embedding_scale
    own = call.honest()
    wrong = [row for row in range(len(own)) if distance(own[row], found[row]) > _OFF]
    if not 0 < len(wrong) <= _MOST_TOKENS or not np.isfinite(found[wrong]).all():
        return
    rows = found[wrong].astype(np.float64) / scale
    best, nearest = np.full(len(wrong), np.inf), np.zeros(len(wrong), np.intp)
    for start in range(0, table.rows, 4096):
        part = table.dequantize(slice(start, min(start + 4096, table.rows))).astype(np.float64)
        squares = (part**2).sum(1) - 2 * rows @ part.T
        at = squares.argmin(1)
        nearer = squares[np.arange(len(wrong)), at] < best
        best = np.where(nearer, squares[np.arange(len(wrong)), at], best)
        nearest = np.where(nearer, at + start, nearest)
    ids = list(call.tokens)
    for row, token in zip(wrong, nearest.tolist(), strict=True):
        ids[row] = token
    texts = [f"token {row + call.position} is embedded as id {ids[row]}, not {call.tokens[row]}" for row in wrong]
    yield Attempt(
        "; ".join(texts[:3]),
        lambda c: c.engine.evaluate(c.node, c.inputs, tokens=ids, position=c.position), len(wrong),
    )  # fmt: skip


EMBEDDING_ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative("token ids", frozenset({Op.EMBED}), _other_ids, "check the ids that the engine was given"),
)
