"""Alternatives of matrix products: which weights are read, how, and what of them is summed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.wording import counted, ranges
from aprtui.engine.alternatives import products
from aprtui.engine.alternatives.alternative import MOST_VALUES, Alternative, Attempt, distance, least, nicest, plain
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.alternatives.left_out import STEP, End, squares_without
from aprtui.engine.alternatives.places import layer_words
from aprtui.engine.rounding import ROUND
from aprtui.model.model import Model
from aprtui.model.weights import Weight
from aprtui.trace.graph import Node, Op

Wide = NDArray[np.float64]
Places = NDArray[np.intp]

_SAMPLED = 24
_TOKENS = 16
_OFF = 1e-4
"""Of a channel's size: what a channel must err by to be one of the wrong ones; less is looked at where none does."""
_BLOCK = 32
_MOST_ROWS = 512
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
        if graph[node.stage].op is Op.MATMUL
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
        replacing = {place: weight for place, (_, _, weight) in chosen.items()}
        yield Attempt(f"computed with the weights of {words}", partial(_with_weights, replacing))


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


def _with_weights(others: dict[int, Weight], call: StageCall) -> Array:
    weights = call.model.params(call.node)
    out, starts = call.honest().copy(), _offsets(weights)
    for place, other in others.items():
        product = call.x.astype(np.float64) @ other.dequantize().astype(np.float64).T
        out[:, starts[place] : starts[place + 1]] = product
    return out


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
