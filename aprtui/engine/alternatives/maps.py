"""Alternatives of attention: scores, softmax, and which keys and values a query meets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.alternatives import attention
from aprtui.engine.alternatives.alternative import Alternative, Attempt, distance, least, nicest, plain, reading
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.reference import ops
from aprtui.model.model import Model
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

_FEW_KEYS = 32
"""Keys up to which every window is tried at the attention, of which no probability shows it."""
_TILES = (4, 8, 16, 32, 64)
"""Keys that kernels take together."""
_OFF = 1e-5
"""What a row is off by that was computed otherwise, at least."""
_MOST_CAP = 50
"""A softcap so many times the largest value changes nothing that can be seen."""
_SEEN = 1e-6
"""Probabilities from which their ratios tell of the scores."""


def _grouped(model: Model, node: Node) -> bool:
    graph = model.config.graph
    return 1 < graph.kv_heads < graph.heads


def _several_kv_heads(model: Model, node: Node) -> bool:
    return model.config.graph.kv_heads > 1


def _without_sinks(model: Model, node: Node) -> bool:
    return not model.config.graph.sinks


def _uncapped(model: Model, node: Node) -> bool:
    """Whether nothing caps the scores, or the logits."""
    graph = model.config.graph
    return not (graph.attn_softcap if model.graph[node.stage].op is Op.SCORES else graph.logit_softcap)


def _has_sinks(model: Model, node: Node) -> bool:
    return model.config.graph.sinks


def _has_window(model: Model, node: Node) -> bool:
    return model.config.graph.window(node.layer) > 0


def _windows(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A window as the probabilities show it: how many keys a query sees at most."""
    own = call.model.config.graph.window(call.node.layer)
    total = call.x.shape[2]
    says = f"one of {own}" if own else "none"
    widths = range(1, total) if total <= _FEW_KEYS else [2**power for power in range(total.bit_length())]
    if call.op is Op.SOFTMAX:
        widths = [] if found is None else [int((found != 0).any(0).sum(-1).max())]
    for width in widths:
        if width != own and 0 < width < total:
            yield Attempt(
                f"a window of {width} positions is masked, the model says {says}",
                lambda call, width=width: attention.within(call, width), 1,  # type: ignore[misc]
            )  # fmt: skip


def _temperatures(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Scores times a number on their way into the softmax, from how powers go along with them."""
    if found is None:
        return
    own, probabilities = call.x.astype(np.float64), found.astype(np.float64)
    seen = (probabilities > _SEEN) & attention.causal(*own.shape[1:])
    logs = np.where(seen, np.log(np.where(seen, probabilities, 1.0)), 0.0)
    counts = np.maximum(seen.sum(-1, keepdims=True), 1)
    x = np.where(seen, own - (own * seen).sum(-1, keepdims=True) / counts, 0.0)
    y = np.where(seen, logs - logs.sum(-1, keepdims=True) / counts, 0.0)
    square = float((x * x * probabilities).sum())
    if not square:
        return
    factor = float((x * y * probabilities).sum()) / square

    def cost(value: float) -> float:
        return float((((y - value * x) ** 2) * probabilities).sum()) / square

    factor = nicest(factor, cost)
    if abs(factor - np.log(2)) < 1e-4:
        factor = float(np.log(2))
    if abs(factor - 1) > 1e-6:
        power = " (2ˣ in place of eˣ)" if abs(factor - np.log(2)) < 1e-6 else ""
        scores = np.asarray(call.x * np.float32(factor), np.float32)
        yield reading(f"scores are multiplied by {factor:.6g} on their way in{power}", {0: scores}, 1)


def _softcaps(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    own = call.model.config.softcap(call.model.graph[call.node.stage])
    yield Attempt("the softcap is left out", lambda call: call.x)
    if found is None:
        return
    cap = _solved_cap(call.x, found)
    if abs(cap / own - 1) > 1e-6:
        yield Attempt(f"a softcap of {cap:.6g}, the model says {own:.6g}", lambda call: ops.softcap(call.x, cap), 1)


def _added_softcaps(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    own = call.honest()
    caps = [50.0] if found is None else [_solved_cap(own, found)]
    for cap in caps:
        if cap < _MOST_CAP * float(np.abs(own[np.isfinite(own)]).max(initial=0)):
            yield Attempt(
                f"a softcap of {cap:.6g}, the model says none",
                lambda call, cap=cap: ops.softcap(call.honest(), cap), 1,  # type: ignore[misc]
            )  # fmt: skip


def _solved_cap(own: Array, found: Array) -> float:
    x, values = own.astype(np.float64), found.astype(np.float64)

    def cost(logarithm: float) -> float:
        cap = np.exp(logarithm)
        return float(((cap * np.tanh(x / cap) - values) ** 2).sum() / ((values**2).sum() or 1))

    return nicest(float(np.exp(least(cost, np.log(0.1), np.log(1e4)))), lambda value: cost(np.log(value)))


def _unseen_own_keys(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    words = "a query does not see its own key"
    yield Attempt(words, attention.own_key_unseen)
    total = call.x.shape[2]
    if call.position == 0:
        first = f"{words}, and the first query, which sees none,"
        yield Attempt(f"{first} is NaN", partial(attention.own_key_unseen_by_all, first=np.nan))
        yield Attempt(f"{first} weighs all keys alike", partial(attention.own_key_unseen_by_all, first=1 / total))


def _rows_late(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """By the first token that is off; where the stage was not captured, any of the last ones may be it. Of the last
    alone, it is that its row is not written yet."""
    last = len(call.inputs[1]) - 1
    begins: Iterable[int] = range(max(call.position, 1, last - _FEW_KEYS), last)
    if found is not None:
        own = call.honest()
        off = (row for row in range(found.shape[-2]) if distance(own[..., row, :], found[..., row, :]) > _OFF)
        begins = [call.position + row for row in islice(off, 1) if 0 < call.position + row < last]
    for first in begins:
        yield Attempt(
            f"from token {first} on, as where decoding begins, keys and values are written a row late in the cache: "
            f"row {first} stays zero, and the newest row is not seen",
            partial(attention.a_row_late_from, first), 1,
        )  # fmt: skip


def _by_remainder(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    graph = call.model.config.graph
    words = f"query head h meets K/V head h mod {graph.kv_heads}, in place of h div {graph.heads // graph.kv_heads}"
    yield Attempt(f"{words} ({graph.heads} query heads, {graph.kv_heads} K/V heads)", attention.group_by_remainder)


def _last_keys(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    for tile in _TILES:
        if tile <= call.x.shape[2]:
            yield Attempt(
                f"keys behind the last full tile of {tile} are left out",
                partial(attention.last_tile_left_out, tile=tile),
            )


def _shorter_sums(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Sums of powers that not all keys join which have one."""
    summed = {
        "its own key": lambda query, key: (key < query) | (query == 0),
        "the first key": lambda query, key: (key > 0) | (query == 0),
        **{
            f"those behind the last full tile of {tile}": partial(_in_full_tiles, tile)
            for tile in _TILES
            if tile <= call.x.shape[2]
        },
    }
    for words, sees in summed.items():
        yield Attempt(
            f"the sum that a row is divided by lacks {words}",
            lambda call, sees=sees: attention.summed_over(call, sees),  # type: ignore[misc]
        )  # fmt: skip


def _in_full_tiles(tile: int, query: NDArray[np.int64], key: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray((key < (query + 1) // tile * tile) | (query + 1 < tile))


def _masked(name: str, compute: Callable[[StageCall], Array], words: str, advice: str) -> Alternative:
    return plain(name, (Op.SOFTMAX, Op.ATTEND), compute, words, advice)


def _meeting(
    name: str, cached: Callable[[StageCall], Array], words: str, advice: str,
    applies: Callable[[Model, Node], bool] = lambda model, node: True,
) -> Alternative:  # fmt: skip
    """Queries, or probabilities, meet other keys or values than those that were cached."""

    def changed(call: StageCall) -> StageCall:
        return replace(call, inputs=(call.x, np.ascontiguousarray(cached(call)).reshape(call.inputs[1].shape)))

    attempt = Attempt(words, lambda call: changed(call).honest(), changed=changed)
    return Alternative(name, frozenset(_BOTH), lambda call, found: [attempt], advice, applies)


_BOTH = (Op.SCORES, Op.ATTEND)
_MAPS = (Op.SOFTMAX, Op.ATTEND)
_OF_GROUPS = "query head h meets K/V head h · (K/V heads) div heads"
_OF_CACHE = "write keys and values at the token's own position, before they are read"

ATTENTION_ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative("K/V heads by remainder", frozenset(_BOTH), _by_remainder, _OF_GROUPS, _grouped),
    _meeting(
        "one K/V head", attention.of_first_head, "every query head meets the first K/V head", _OF_GROUPS,
        _several_kv_heads,
    ),
    _meeting(
        "neighbouring K/V head", attention.of_next_head, "each group meets the K/V head of the next", _OF_GROUPS,
        _several_kv_heads,
    ),
    _meeting(
        "cache a position late", attention.of_token_before, "each token meets what the one before it cached", _OF_CACHE
    ),
    Alternative("cache a row late in decoding", frozenset(_BOTH), _rows_late, _OF_CACHE),
    _meeting(
        "newest not cached", attention.without_newest, "the last token's row of the cache is still zero", _OF_CACHE
    ),
    plain(
        "values turned", (Op.ATTEND,), attention.turned_values, "values are turned, too", "turn queries and keys only",
        lambda model, node: model.config.graph.has_rope(node.layer) and model.config.graph.latent is None,
    ),
    _masked("mask left out", attention.no_mask, "no mask: every query sees every key", "mask keys behind the query"),
    Alternative(
        "mask without the own key", frozenset(_MAPS), _unseen_own_keys, "mask key > query, not key ≥ query"
    ),
    _masked(
        "mask with the next key", attention.next_key_seen, "a query sees the next key, one ahead of its own",
        "mask key > query",
    ),
    _masked(
        "first key masked", attention.first_key_unseen, "the first key is masked, as padding is",
        "mask no token of the prompt",
    ),
    _masked(
        "last token alone", attention.only_itself, "the last token sees itself only",
        "give the last position the keys that were cached before it",
    ),
    Alternative(
        "last keys left out", frozenset(_MAPS), _last_keys, "let the loop over keys end with the last key"
    ),
    _masked("mask of −10", attention.finite_mask, "−10 is added to what is masked", "add −∞, or leave the keys out"),
    _masked(
        "mask behind the softmax", attention.masked_after, "the mask multiplies what a softmax of all keys gives",
        "mask scores, before the softmax",
    ),
    Alternative(
        "window", frozenset({Op.SOFTMAX, Op.ATTEND}), _windows,
        "read attention.sliding_window, and which layers have one",
    ),
    plain(
        "window left out", _MAPS, attention.window_left_out, "the window is left out",
        "read attention.sliding_window, and which layers have one", _has_window,
    ),
    Alternative(
        "softmax temperature", frozenset({Op.SOFTMAX}), _temperatures, "scale scores once, where they are made"
    ),
    plain(
        "softmax in float16", (Op.SOFTMAX,), attention.f16_without_maximum,
        "powers in float16, without the maximum taken off before", "subtract the row's maximum, and sum in float32",
        _without_sinks,
    ),
    plain(
        "softmax without maximum", (Op.SOFTMAX,), attention.f32_without_maximum,
        "the maximum is not taken off before: powers of scores beyond 88.7 are Inf, and Inf / Inf is NaN",
        "subtract the row's maximum before the powers", _without_sinks,
    ),
    Alternative(
        "sum of the softmax", frozenset({Op.SOFTMAX}), _shorter_sums, "sum over exactly the keys that have a power",
        of_result=True,
    ),
    plain(
        "1 in the sum", (Op.SOFTMAX,), attention.one_added_to_sum,
        "1 is added to the sum of a row: a sink of 0, which the model does not have", "leave the sink out",
        _without_sinks,
    ),
    plain(
        "softmax not normalised", (Op.SOFTMAX,), attention.not_normalised, "powers are not divided by their sum",
        "divide by the sum over the keys",
    ),
    plain(
        "sinks left out", (Op.SOFTMAX,), attention.sinks_left_out, "the sinks are left out",
        "add each head's sink to the sum that its row is divided by", _has_sinks,
    ),
    plain(
        "sinks reversed", (Op.SOFTMAX,), attention.sinks_reversed, "each head has the sink of another, in reverse",
        "bind sink h to query head h", _has_sinks,
    ),
    Alternative("softcap", frozenset({Op.SOFTCAP}), _softcaps, "read the softcaps of the model's metadata"),
    Alternative(
        "softcap added", frozenset({Op.SCORES, "lm_head"}), _added_softcaps,
        "cap nothing where the model's metadata has no softcap", _uncapped, of_result=True,
    ),
    plain(
        "heads not transposed", (Op.ATTEND,), attention.heads_not_transposed,
        "heads come one after the other, in place of one beside the other", "transpose [heads, tokens, dim] before",
    ),
)  # fmt: skip
