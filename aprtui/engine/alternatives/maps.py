"""Alternatives of attention: scores, softmax, and which keys and values a query meets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from aprtui.engine.alternatives import attention
from aprtui.engine.alternatives.alternative import Alternative, Attempt, least, nicest, plain
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.reference import ops
from aprtui.model.model import Model
from aprtui.trace.graph import Node, Op

_FEW_KEYS = 32
"""Keys up to which every window is tried at the attention, of which no probability shows it."""
_SEEN = 1e-6
"""Probabilities from which their ratios tell of the scores."""


def _grouped(model: Model, node: Node) -> bool:
    graph = model.config.graph
    return 1 < graph.kv_heads < graph.heads


def _several_kv_heads(model: Model, node: Node) -> bool:
    return model.config.graph.kv_heads > 1


def _plain_maps(model: Model, node: Node) -> bool:
    """No softcap between scores and softmax, no window and no sinks."""
    graph = model.config.graph
    return not graph.attn_softcap and not graph.window(node.layer) and not graph.sinks


def _has_sinks(model: Model, node: Node) -> bool:
    return model.config.graph.sinks


def _has_window(model: Model, node: Node) -> bool:
    return model.config.graph.window(node.layer) > 0


def _windows(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A window as the probabilities show it: how many keys a query sees at most."""
    own = call.model.config.graph.window(call.node.layer)
    total = call.x.shape[2]
    if call.op is Op.ATTEND:
        if not _plain_maps(call.model, call.node):
            return
        widths = range(1, total) if total <= _FEW_KEYS else [2**power for power in range(total.bit_length())]
        for width in widths:
            yield Attempt(
                f"a window of {width} positions is masked, the model says none",
                lambda call, width=width: attention.within(call, width), 1,  # type: ignore[misc]
            )  # fmt: skip
        return
    if found is None:
        return
    seen = int((found != 0).any(0).sum(-1).max())
    if seen != own and 0 < seen < total:
        says = f"one of {own}" if own else "none"
        yield Attempt(
            f"a window of {seen} positions is masked, the model says {says}",
            lambda call: ops.softmax(call.x, seen, *call.model.params(call.node)), 1,
        )  # fmt: skip


def _temperatures(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Scores times a number on their way into the softmax, from how powers go along with them."""
    if found is None:
        return
    window, params = call.model.config.graph.window(call.node.layer), call.model.params(call.node)
    own, probabilities = call.x.astype(np.float64), found.astype(np.float64)
    seen = probabilities > _SEEN
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
        yield Attempt(
            f"scores are multiplied by {factor:.6g} on their way in{power}",
            lambda call: ops.softmax(call.x * np.float32(factor), window, *params), 1,
        )  # fmt: skip


def _softcaps(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    own = call.model.config.softcap(call.model.graph[call.node.stage])
    yield Attempt("the softcap is left out", lambda call: call.x)
    if found is None:
        return
    x, values = call.x.astype(np.float64), found.astype(np.float64)

    def cost(logarithm: float) -> float:
        cap = np.exp(logarithm)
        return float(((cap * np.tanh(x / cap) - values) ** 2).sum() / ((values**2).sum() or 1))

    cap = nicest(float(np.exp(least(cost, np.log(0.1), np.log(1e4)))), lambda value: cost(np.log(value)))
    if abs(cap / own - 1) > 1e-6:
        yield Attempt(f"a softcap of {cap:.6g}, the model says {own:.6g}", lambda call: ops.softcap(call.x, cap), 1)


def _no_window(call: StageCall) -> Array:
    return ops.softmax(call.x, 0, *call.model.params(call.node))


def _masked(name: str, compute: Callable[[StageCall], Array], words: str, advice: str) -> Alternative:
    return plain(name, (Op.SOFTMAX, Op.ATTEND), compute, words, advice, _plain_maps)


_BOTH = (Op.SCORES, Op.ATTEND)
_OF_GROUPS = "query head h meets K/V head h · (K/V heads) div heads"
_OF_CACHE = "write keys and values at the token's own position, before they are read"

ATTENTION_ALTERNATIVES: tuple[Alternative, ...] = (
    plain(
        "K/V heads by remainder", _BOTH, attention.group_by_remainder,
        "query head h meets K/V head h mod n, in place of h div (heads / n)", _OF_GROUPS, _grouped,
    ),
    plain(
        "one K/V head", _BOTH, attention.first_head_for_all, "every query head meets the first K/V head", _OF_GROUPS,
        _several_kv_heads,
    ),
    plain(
        "neighbouring K/V head", _BOTH, attention.neighbouring_head, "each group meets the K/V head of the next",
        _OF_GROUPS, _several_kv_heads,
    ),
    plain(
        "cache a position late", _BOTH, attention.a_slot_late, "each token meets what the one before it cached",
        _OF_CACHE,
    ),
    plain(
        "newest not cached", _BOTH, attention.newest_not_written, "the last token's row of the cache is still zero",
        _OF_CACHE,
    ),
    plain(
        "values turned", (Op.ATTEND,), attention.turned_values, "values are turned, too", "turn queries and keys only",
        lambda model, node: model.config.graph.has_rope(node.layer),
    ),
    _masked("mask left out", attention.no_mask, "no mask: every query sees every key", "mask keys behind the query"),
    _masked(
        "mask without the own key", attention.own_key_unseen, "a query does not see its own key",
        "mask key > query, not key ≥ query",
    ),
    _masked("mask with the next key", attention.next_key_seen, "a query sees the key behind it", "mask key > query"),
    _masked(
        "first key masked", attention.first_key_unseen, "the first key is masked, as padding is",
        "mask no token of the prompt",
    ),
    _masked(
        "last token alone", attention.only_itself, "the last token sees itself only",
        "give the last position the keys that were cached before it",
    ),
    _masked(
        "last keys left out", attention.last_tile_left_out, "keys behind the last full tile of 8 are left out",
        "let the loop over keys end with the last key",
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
        "window left out", (Op.SOFTMAX,), _no_window, "the window is left out",
        "read attention.sliding_window, and which layers have one", _has_window,
    ),
    Alternative(
        "softmax temperature", frozenset({Op.SOFTMAX}), _temperatures, "scale scores once, where they are made"
    ),
    plain(
        "softmax in float16", (Op.SOFTMAX,), attention.f16_without_maximum,
        "powers in float16, without the maximum taken off before", "subtract the row's maximum, and sum in float32",
        _plain_maps,
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
    plain(
        "heads not transposed", (Op.ATTEND,), attention.heads_not_transposed,
        "heads come one after the other, in place of one beside the other", "transpose [heads, tokens, dim] before",
    ),
)  # fmt: skip
