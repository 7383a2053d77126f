"""Alternatives of attention that the maps themselves show: which keys a query sees, which head and which row of the
cache it meets, and how a softmax in blocks adds up."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.wording import counted, ranges
from aprtui.engine.alternatives import attention
from aprtui.engine.alternatives.alternative import Alternative, Attempt, distance, least, nicest
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.rounding import ROUND, round_f16
from aprtui.model.model import Model
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

Wide = NDArray[np.float64]
Mask = NDArray[np.bool_]
Places = NDArray[np.intp]

_SEEN = 1e-6
"""Probabilities from which their ratios tell of the scores."""
_ALIKE = 1e-3
_OFF = 1e-5
_SHOWN = 0.1
"""Of the largest share of hidden keys: those that show it best."""
_LEFT = 0.05
_BLOCKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_MOST_KEYS = 1024
"""Of a map that is looked through key by key for each query."""
_MOST_LISTED = 6
_FEW_ROWS = 32
"""Queries by which a number is searched for."""
_TYPES = {"f16": "float16", "bf16": "bfloat16", "q8_0": "Q8_0", "q4_0": "Q4_0", "e4m3": "FP8 (e4m3) without a scale",
          "int8_row": "int8, a scale a row"}  # fmt: skip


def _plain(model: Model, node: Node) -> bool:
    """Neither softcap nor sinks stand between scores and probabilities."""
    return not model.config.graph.attn_softcap and not model.config.graph.sinks


def _visible(call: StageCall) -> Mask:
    count, total = call.x.shape[1:]
    query, key = np.arange(total - count, total)[:, None], np.arange(total)
    window = call.model.config.graph.window(call.node.layer)
    return np.asarray((key <= query) & ((query - key < window) if window else np.True_))


def _softmax(scores: Wide, visible: Mask) -> Array:
    """Where a query sees no key, NaN."""
    wide = np.where(visible, scores, -np.inf)
    powers = np.exp(wide - wide.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True), np.float32)


# Which keys.


def _hidden(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Keys whose probability is zero though the model's is not: chunks that see nothing before them, hidden keys."""
    if found is None:
        return
    visible, own = _visible(call), call.honest()
    seen = visible & (found > 0).any(0)
    lost = visible & ~seen & (own > _SEEN).any(0)
    if not lost.any() or not (visible & ~lost).any(1).all():
        return
    kept = visible & ~lost
    words, numbers = _hidden_words(call, kept, lost)
    yield Attempt(words, lambda c: _softmax(c.x.astype(np.float64), kept), numbers)


def _hidden_words(call: StageCall, kept: Mask, lost: Mask) -> tuple[str, int]:
    count, total = kept.shape
    first = total - count
    starts = kept.argmax(1)
    begun = starts == np.maximum.accumulate(starts)
    whole = all(kept[row, start : first + row + 1].all() for row, start in enumerate(starts))
    chunks = sorted({int(start) for start in starts if start > 0})
    if whole and begun.all() and len(chunks) < count / 2:
        return f"queries see no key before their chunk, which begins at token {ranges(chunks)}", len(chunks)
    keys = np.flatnonzero(lost.any(0))
    rows = np.flatnonzero(lost.any(1)) + first
    if all(lost[row - first, keys[keys <= row]].all() for row in rows):
        return f"keys {ranges(keys.tolist())} are hidden from tokens {ranges(rows.tolist())}", 2
    return f"{counted(int(lost.sum()), 'key')} that a query should see are hidden", int(lost.sum())


def _blind(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Queries of which every head has NaN for every key that it should see."""
    if found is None:
        return
    visible = _visible(call)
    blind = np.asarray((np.isnan(found) | ~visible).all((0, 2)))
    if not blind.any() or blind.all():
        return
    tokens = (np.flatnonzero(blind) + call.position).tolist()
    which = f"tokens {ranges(tokens)} see" if len(tokens) > 1 else f"token {tokens[0]} sees"
    yield Attempt(f"{which} no key, not even its own: a row of the softmax that is 0 divided by 0",
                  partial(_with_blind, blind))  # fmt: skip


def _with_blind(blind: NDArray[np.bool_], call: StageCall) -> Array:
    return np.where(blind[:, None] & _visible(call), np.float32(np.nan), call.honest())


def _prefixes(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Tokens at the beginning that see one another, as in a prefix language model."""
    count, total = call.x.shape[1:]
    if found is None or count != total or call.op is not Op.SOFTMAX:
        return
    own = call.honest()
    off = np.flatnonzero([distance(own[:, row], found[:, row]) > _OFF for row in range(count)])
    if not off.size or off[-1] + 2 > total:
        return
    last = int(off[-1]) + 2
    yield Attempt(
        f"the first {last} tokens see one another, the model's see none behind them", partial(_with_prefix, last), 1
    )


def _with_prefix(last: int, call: StageCall) -> Array:
    return attention.seeing(call, lambda query, key: (key <= query) | ((key < last) & (query < last)))


def _masks(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A number that is added to the scores of hidden keys, or that stands in their place."""
    if found is None or call.op is not Op.SOFTMAX or call.x.shape[1] < 2:
        return
    scores, visible = attention.all_scores(call).astype(np.float64), _visible(call)
    rows = ~visible.all(1)
    kept, hidden = (np.where(part, found, 0).astype(np.float64).sum(-1)[:, rows] for part in (visible, ~visible))
    hidden = hidden if hidden.any() else 1 - kept
    shown = (kept > _SEEN) & (hidden > max(_SEEN, _SHOWN * float(hidden.max(initial=0))))
    if not shown.any():
        return
    counts = np.broadcast_to(np.log(np.maximum((~visible).sum(-1), 1)), scores.shape[:2])
    odds = np.log(hidden[shown] / kept[shown]) + _logarithm(scores, visible)[:, rows][shown]
    for words, of_hidden, value_of in (
        ("{:.6g} is added to the scores of hidden keys, in place of −∞", _logarithm(scores, ~visible), _added),
        ("hidden keys have the score {:.6g}, in place of −∞", counts, _replaced),
    ):
        values = odds - of_hidden[:, rows][shown]
        middle = float(np.median(values))
        left = float(np.abs(values - middle).max())
        if left < _LEFT:
            value = nicest(middle, lambda x, left=left, middle=middle: max(abs(x - middle) - left, 0.0))  # type: ignore[misc]
            yield Attempt(words.format(0.0 if abs(value) <= left else value),
                          partial(value_of, 0.0 if abs(value) <= left else value), 1)  # fmt: skip


def _logarithm(scores: Wide, over: Mask) -> Wide:
    """Of the sum of the powers of some scores of each row; −∞ where there are none."""
    wide = np.where(over, scores, -np.inf)
    largest = np.where(over.any(-1, keepdims=True), wide.max(-1, keepdims=True), 0.0)
    return np.asarray(np.log(np.exp(wide - largest).sum(-1)) + largest[..., 0])


def _added(value: float, call: StageCall) -> Array:
    visible = _visible(call)
    scores = np.where(visible, 0.0, value) + attention.all_scores(call).astype(np.float64)
    return _softmax(scores, np.ones_like(visible))


def _replaced(value: float, call: StageCall) -> Array:
    visible = _visible(call)
    return _softmax(np.where(visible, call.x.astype(np.float64), value), np.ones_like(visible))


def _slopes(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A bias that grows with the distance, a slope for each head: ALiBi (Press et al. 2022, arXiv:2108.12409)."""
    if found is None or call.op is not Op.SOFTMAX:
        return
    visible = _visible(call)
    seen = visible & (found > _SEEN)
    with np.errstate(divide="ignore", invalid="ignore"):
        extra = np.where(seen, np.log(found.astype(np.float64)) - call.x, 0.0)
    counts = np.maximum(seen.sum(-1, keepdims=True), 1)
    keys = np.broadcast_to(np.arange(call.x.shape[2], dtype=np.float64), call.x.shape)
    x = np.where(seen, keys - np.where(seen, keys, 0).sum(-1, keepdims=True) / counts, 0.0)
    y = np.where(seen, extra - extra.sum(-1, keepdims=True) / counts, 0.0)
    squares = (x * x * found).sum((1, 2))
    if not squares.all():
        return
    slopes = (x * y * found).sum((1, 2)) / squares
    usual = 2.0 ** (-8 * np.arange(1, len(slopes) + 1) / len(slopes))
    if np.abs(slopes / usual - 1).max() < _ALIKE:
        slopes, name = usual, "ALiBi's slopes, which the model does not have"
    else:
        name = f"slopes of {slopes.min():.4g} … {slopes.max():.4g}, a head each"
    yield Attempt(
        f"scores fall with the distance of the key: {name}",
        lambda c: _softmax(c.x + slopes[:, None, None] * np.arange(c.x.shape[2]), _visible(c)), len(slopes),
    )  # fmt: skip


def _not_rescaled(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A softmax over blocks of keys whose former sums keep the maximum that they were made with."""
    for size in _BLOCKS:
        if size < call.x.shape[2]:
            yield Attempt(
                f"sums of former blocks of {counted(size, 'key')} are not rescaled to a new maximum",
                partial(_in_blocks, size),
            )


def _in_blocks(size: int, call: StageCall) -> Array:
    scores = call.x if call.op is Op.SOFTMAX else call.before("attn_scores")
    count, total = scores.shape[1:]
    visible = np.arange(total) <= np.arange(total - count, total)[:, None]
    wide = np.where(visible, scores.astype(np.float64), -np.inf)
    ends = np.arange(0, total, size)
    largest = np.maximum.accumulate(np.maximum.reduceat(wide, ends, axis=-1), axis=-1)
    powers = np.exp(wide - np.repeat(largest, size, -1)[..., :total])
    return attention.weighted(call, np.asarray(powers / powers.sum(-1, keepdims=True), np.float32))


def _caps(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A softcap between scores and probabilities, which the model does not have."""
    if found is None:
        return

    rows = np.unique(np.linspace(0, found.shape[1] - 1, _FEW_ROWS).astype(np.intp))
    scores, visible, seen = call.x[:, rows].astype(np.float64), _visible(call)[rows], found[:, rows]

    def cost(logarithm: float) -> float:
        cap = float(np.exp(logarithm))
        return distance(seen, _softmax(cap * np.tanh(scores / cap), visible)) ** 2

    grid = np.linspace(np.log(1), np.log(1e3), 40)
    at = int(np.argmin([cost(value) for value in grid]))
    solved = float(np.exp(least(cost, float(grid[max(at - 1, 0)]), float(grid[min(at + 1, len(grid) - 1)]))))
    cap = nicest(solved, lambda value: cost(np.log(value)))
    yield Attempt(f"scores are softcapped at {cap:.6g}, the model has no softcap", partial(_capped, cap), 1)


def _capped(cap: float, call: StageCall) -> Array:
    return _softmax(cap * np.tanh(call.x.astype(np.float64) / cap), _visible(call))


# Which head, and which row of the cache.


def _heads(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """The K/V head that each query head meets, of all that there are."""
    graph = call.model.config.graph
    if found is None:
        return
    cached = call.heads(call.inputs[1])
    seen = found if call.op is Op.SCORES else call.heads(found).swapaxes(0, 1)
    seen = np.tril(seen, seen.shape[2] - seen.shape[1]) if call.op is Op.SCORES else seen
    ways = [_of_one_head(call, cached[:, head]) for head in range(graph.kv_heads)]
    errors = np.array([[distance(way[head], seen[head]) for way in ways] for head in range(graph.heads)])
    own = np.arange(graph.heads) // (graph.heads // graph.kv_heads)
    better = errors.min(1) < _ALIKE * errors[np.arange(graph.heads), own]
    chosen = np.where(better, errors.argmin(1), own)
    moved = np.flatnonzero(chosen != own)
    if not moved.size:
        return
    runs = [(head, int(chosen[head])) for head in moved]
    texts = [
        f"query head{'s' if len(of) > 1 else ''} {ranges(of)} meet{'' if len(of) > 1 else 's'} K/V head {kv}"
        for kv in dict.fromkeys(kv for _, kv in runs)
        for of in [[int(head) for head, other in runs if other == kv]]
    ]
    yield Attempt(f"{'; '.join(texts[:_MOST_LISTED])}, of {graph.kv_heads}", partial(_with_heads, chosen), moved.size)


def _of_one_head(call: StageCall, cached: Array) -> Array:
    """What every query head gives with one head of keys or values `[keys, channels]`, as `_by_head` has it."""
    if call.op is Op.ATTEND:
        return np.asarray(call.x @ cached)
    scores = np.einsum("nhd,td->hnt", call.heads(call.x), cached) * np.float32(call.model.config.score_scale)
    return np.asarray(np.tril(scores, scores.shape[2] - scores.shape[1]), np.float32)


def _by_head(call: StageCall, cached: Array) -> Array:
    """Maps, or what each query head gives `[heads, tokens, channels]`, with other keys or values."""
    result = call.honest(call.x, np.ascontiguousarray(cached).reshape(call.inputs[1].shape))
    return result if call.op is Op.SCORES else np.ascontiguousarray(call.heads(result).swapaxes(0, 1))


def _with_heads(chosen: Places, call: StageCall) -> Array:
    cached, kv_heads = call.heads(call.inputs[1]), call.model.config.graph.kv_heads
    own = np.arange(len(chosen)) // (len(chosen) // kv_heads)
    out = _by_head(call, cached).copy()
    for kv in set(chosen[chosen != own].tolist()):
        way = _by_head(call, np.repeat(cached[:, kv : kv + 1], kv_heads, 1))
        at = (chosen == kv) & (own != kv)
        out[at] = way[at]
    return out if call.op is Op.SCORES else np.ascontiguousarray(out.swapaxes(0, 1)).reshape(len(out[0]), -1)


def _slots(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Rows of the cache that hold another token's keys, as the scores of each query show it; values along with them."""
    if found is None or call.op is not Op.SCORES or found.shape[2] > _MOST_KEYS:
        return
    own, (count, total) = call.honest(), found.shape[1:]
    first, source = total - count, np.tile(np.arange(total), (count, 1))
    for row in np.flatnonzero([distance(own[:, r], found[:, r]) > _OFF for r in range(count)]):
        keys = np.arange(first + row + 1)
        theirs, ours = found[:, row, keys].astype(np.float64), own[:, row, keys].astype(np.float64)
        squares = (theirs**2).sum(0)[:, None] + (ours**2).sum(0) - 2 * theirs.T @ ours
        nearest = squares.argmin(1)
        if not (squares[keys, nearest] <= (_ALIKE * np.abs(ours).max()) ** 2 * len(ours)).all():
            return
        alike = squares[keys, keys] <= squares[keys, nearest] + 1e-12
        source[row, keys] = np.where(alike, keys, nearest)
    moved = source != np.arange(total)
    if moved.any():
        yield Attempt(_slot_words(source, moved, first), partial(_from_slots, source), int(moved.any(1).sum()))


def _slot_words(source: Places, moved: Mask, first: int) -> str:
    rows, slots = np.flatnonzero(moved.any(1)) + first, np.flatnonzero(moved.any(0))
    steps = np.unique((source - np.arange(source.shape[1]))[moved])
    by = "other tokens"
    if steps.size == 1:
        by = f"the token {counted(abs(int(steps[0])), 'position')} {'behind' if steps[0] > 0 else 'before'}"
    return f"tokens {ranges(rows.tolist())} find in slots {ranges(slots.tolist())} of the cache the rows of {by}"


def _from_slots(source: Places, call: StageCall) -> Array:
    if call.op is Op.SCORES:
        return np.take_along_axis(call.honest(), np.broadcast_to(source, call.honest().shape), 2)
    graph = call.model.config.graph
    values = np.repeat(call.heads(call.inputs[1]).astype(np.float64), graph.heads // graph.kv_heads, 1)
    out = np.einsum("hnt,nthd->nhd", call.x, values[source])
    return np.asarray(out.reshape(len(source), -1), np.float32)


# In fewer bits.


def _cached_types(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    what = "keys" if call.op is Op.SCORES else "values"
    for kind, name in _TYPES.items():
        yield Attempt(f"{what} are kept in {name}", partial(_with_type, kind))


def _with_type(kind: str, call: StageCall) -> Array:
    heads = call.heads(call.inputs[1])
    rows = np.ascontiguousarray(heads.reshape(-1, heads.shape[-1]))
    rounded = _e4m3(rows) if kind == "e4m3" else ROUND[kind](rows)
    return call.honest(call.x, rounded.reshape(call.inputs[1].shape))


def _e4m3(x: Array) -> Array:
    _, exponent = np.frexp(x)
    step = np.ldexp(np.float32(1), np.maximum(exponent - 1, -6) - 3)
    return np.asarray(np.clip(np.rint(x / step) * step, -448, 448), np.float32)


def _raw_scores(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Products of queries and keys that are float16 numbers before they are scaled."""
    for inputs, words in ((True, "queries, keys and their products"), (False, "products of queries and keys")):
        yield Attempt(
            f"{words} are float16 before they are scaled: beyond 65504 they are Inf", partial(_in_float16, inputs)
        )


def _in_float16(inputs: bool, call: StageCall) -> Array:
    scale = np.float32(call.model.config.score_scale)
    own = call.honest(*(round_f16(x) for x in call.inputs)) if inputs else call.honest()
    return np.asarray(round_f16(own / scale) * scale, np.float32)


def _several(model: Model, node: Node) -> bool:
    return model.config.graph.kv_heads > 1


_CACHE = "write keys and values at the token's own position, and read them there"

KEY_ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative("K/V head map", frozenset({Op.SCORES, Op.ATTEND}), _heads,
                "query head h meets K/V head h · (K/V heads) div heads", _several),
    Alternative("slots of the cache", frozenset({Op.SCORES, Op.ATTEND}), _slots, _CACHE),
    Alternative("hidden keys", frozenset({Op.SOFTMAX}), _hidden,
                "let a query see every key up to its own, those of earlier chunks too", _plain),
    Alternative("no key", frozenset({Op.SOFTMAX}), _blind, "let each query see its own key, padding or not", _plain),
    Alternative("prefix", frozenset({Op.SOFTMAX}), _prefixes, "mask keys behind the query in the prompt as well",
                _plain),
    Alternative("finite mask", frozenset({Op.SOFTMAX}), _masks, "add −∞, or leave the keys out", _plain),
    Alternative(
        "softcap before the softmax", frozenset({Op.SOFTMAX}), _caps,
        "cap nothing where the model's metadata has no softcap", _plain,
    ),
    Alternative("slopes", frozenset({Op.SOFTMAX}), _slopes, "add no bias to the scores of a model with RoPE", _plain),
    Alternative("blocks not rescaled", frozenset({Op.SOFTMAX, Op.ATTEND}), _not_rescaled,
                "multiply former sums by e^(old maximum − new maximum), and the values that were added up", _plain),
    Alternative("type of the cache", frozenset({Op.SCORES, Op.ATTEND}), _cached_types,
                "state it: --rounding kv_cache=…", may_be_meant=True),
    Alternative("scores in float16", frozenset({Op.SCORES}), _raw_scores, "multiply queries and keys in float32"),
)  # fmt: skip
