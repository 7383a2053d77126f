"""The same values in another order: which legal layout of side B gives side A's values.

Engines write the same stage in different orders: heads outermost, RoPE pairs side by side or half a head apart, Q, K
and V joined by part or by group; or turned by a matrix that they undo only later, as llama.cpp's attention is with
quantised K/V. Element counts agree, values do not, and a metric on them is garbage. The legal orders
of a stage are tried on a few tokens; a wrong one is about √2 off, the right one exact or as far off as the engines are.

A layout is a property of a stage, not of one layer of it: it is taken only where most of several layers agree. What one
layer alone would need is a fault, and stays one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.hadamard import TURNED_CHANNELS, hadamard
from aprtui.compare.metrics.blocks import Values
from aprtui.compare.metrics.measure import rel_l2
from aprtui.trace.graph.config import GraphConfig, RopeLayout
from aprtui.trace.graph.ops import HEAD_ROWS, Op, Part
from aprtui.trace.graph.stage import Stage, TokenMixer

Order = NDArray[np.intp]

REORDERED = 0.1
"""An error that no rounding of float32 engines explains; below it no other order is tried."""
SAMPLE_TOKENS = 8
_IS_IT = 0.5
"""The most that the right order may leave: with 1, zeros would be as near."""
_CLEARLY = 0.5
"""The right order leaves less than this share of the error that the stated order has, and of any other's."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How B's values are laid out. `rows` says how tokens and channels lie in memory; `order` lists the channel of B
    that is A's channel 0, 1, … (of attention maps: the head), None where B has A's order; `turned` counts the channels
    that a Walsh-Hadamard matrix turned together, 0 where none did."""

    text: str
    rows: str = "token-major"
    dim: int = 0
    order: tuple[int, ...] | None = None
    turned: int = 0

    def apply(self, values: Values, rows: slice = slice(None)) -> Values:
        """`values` of B, in the shape of the stage, as A has them; of attention maps all `rows`, else those tokens."""
        if values.ndim == 3:
            maps = values.swapaxes(1, 2) if self.rows == "key-major" else values
            return np.ascontiguousarray(maps if self.order is None else maps[list(self.order)])
        tokens, width = values.shape
        if self.rows == "head-major":
            by_head = values.reshape(width // self.dim, tokens, self.dim)
            values = by_head.swapaxes(0, 1)[rows].reshape(-1, width)
        elif self.rows == "channel-major":
            values = values.reshape(width, tokens).T[rows]
        else:
            values = values[rows]
        if self.turned:
            values = hadamard(np.ascontiguousarray(values), self.turned)
        return np.ascontiguousarray(values if self.order is None else values[:, list(self.order)])


def solve_layout(a: Values, b: Values, candidates: Sequence[Layout]) -> Layout | None:
    """The one of `candidates` that makes `b` into `a`, both in the stage's shape; None where none clearly does."""
    rows = slice(0, SAMPLE_TOKENS)
    reference = np.ascontiguousarray(a if a.ndim == 3 else a[rows])
    stated = _error(reference, np.ascontiguousarray(b if b.ndim == 3 else b[rows]))
    if stated <= REORDERED or not np.isfinite(stated):
        return None
    errors = sorted(
        ((_error(reference, layout.apply(b, rows)), index) for index, layout in enumerate(candidates)),
        key=lambda entry: entry[0],
    )
    if not errors or errors[0][0] > min(_CLEARLY * stated, _IS_IT):
        return None
    best, index = errors[0]
    found = candidates[index]
    applied = found.apply(b, rows)
    rivals = (error for error, other in errors[1:] if not np.array_equal(candidates[other].apply(b, rows), applied))
    return found if best <= _CLEARLY * next(rivals, np.inf) else None


def inherited_layout(
    pairs: Sequence[tuple[Values, Values]], candidates: Sequence[Layout], texts: Collection[str]
) -> Layout | None:
    """The one of `candidates` with a layout of what the stage is computed from (`texts`), where it brings most of the
    `pairs` of A and B clearly nearer.

    A few heads may be most of a stage and have the same place in both orders, so that by itself it shows none.
    """
    for layout in (candidate for candidate in candidates if candidate.text in texts):
        nearer = [_error(a, layout.apply(b)) <= _CLEARLY * _error(a, np.ascontiguousarray(b)) for a, b in pairs]
        if 2 * sum(nearer) > len(nearer):
            return layout
    return None


def _error(a: Values, b: Values) -> float:
    error = rel_l2(a, b, causal=a.ndim == 3)
    return np.inf if error is None else error


def agreed(found: Sequence[Layout | None]) -> Layout | None:
    """The layout that most of the layers looked at have; None where most have the stated one, or none is most's."""
    if not found:
        return None
    layout, count = Counter(found).most_common(1)[0]
    return layout if 2 * count > len(found) else None


def legal_layouts(stage: Stage, parts: Mapping[str, frozenset[Part]], config: GraphConfig) -> tuple[Layout, ...]:
    """Every legal order of `stage` but the stated one; `parts` are the graph's `rope_parts`."""
    if stage.is_attention_map:
        by_head = (Layout(text, order=tuple(order.tolist())) for text, order in _head_orders(config.heads, config))
        return Layout("key-major [heads, key, query]", rows="key-major"), *by_head
    width = stage.width
    orders = {
        text: order for text, order in _orders(stage, parts, config) if not np.array_equal(order, np.arange(width))
    }
    found = [Layout(text, order=tuple(order.tolist())) for text, order in orders.items()]
    found.append(Layout("channel-major [channels, tokens]", rows="channel-major"))
    if stage.op is Op.ATTEND and _head_dim(stage, config) % TURNED_CHANNELS == 0:
        text = f"turned by a Walsh-Hadamard matrix, {TURNED_CHANNELS} channels at a time"
        found.append(Layout(text, turned=TURNED_CHANNELS))
    if _has_heads(stage, config):
        dim, text = _head_dim(stage, config), "head-major [heads, tokens, dim]"
        found.append(Layout(text, "head-major", dim))
        found += [
            Layout(f"{text}, then {name}", "head-major", dim, tuple(order.tolist())) for name, order in orders.items()
        ]
    return tuple(found)


def _has_heads(stage: Stage, config: GraphConfig) -> bool:
    """Whether the stage has several heads of the attention."""
    by_head = stage.op in HEAD_ROWS and stage.mixer is not TokenMixer.RECURRENCE
    return by_head and stage.width > _head_dim(stage, config)


def _head_dim(stage: Stage, config: GraphConfig) -> int:
    return stage.head_size or config.head_dim


def _head_orders(heads: int, config: GraphConfig) -> Iterator[tuple[str, Order]]:
    """Query heads counted through the groups instead of group by group, and back."""
    groups = config.kv_heads
    if heads == config.heads and 1 < groups < heads:
        order = np.arange(heads).reshape(groups, -1)
        yield "heads counted across the K/V groups", np.argsort(order.T.reshape(-1))
        yield "heads counted group by group", order.T.reshape(-1)


def _orders(stage: Stage, parts: Mapping[str, frozenset[Part]], config: GraphConfig) -> Iterator[tuple[str, Order]]:
    if stage.mixer is TokenMixer.RECURRENCE:
        yield from _recurrent_orders(stage, config)
        return
    rope = dict(_rope_orders(stage, parts, config))
    yield from rope.items()
    if _has_heads(stage, config):
        dim = _head_dim(stage, config)
        for text, heads in _head_orders(stage.width // dim, config):
            yield text, (heads[:, None] * dim + np.arange(dim)).reshape(-1)
    if stage.width == config.qkv_width and stage.op in (Op.MATMUL, Op.BIAS):
        for text, order in _fused_orders(config):
            yield text, order
            for name, turned in rope.items():
                # First the parts where A has them, then the pairs within each head.
                yield f"{text}, then {name}", order[turned]


def _recurrent_orders(stage: Stage, config: GraphConfig) -> Iterator[tuple[str, Order]]:
    """Value heads counted key head by key head, as transformers does, where the model counts across the key heads, and
    back; a state with its key channels outermost."""
    words = ("value heads counted key head by key head", "value heads counted across the key heads")
    found = list(zip(words, _value_head_orders(config), strict=False))
    # The other order than that of the file first: with two key heads of two values each, both are the same.
    across = dict(reversed(found) if config.grouped_value_heads else found)
    channels = np.arange(stage.width)
    if stage.op is Op.DELTA_STATE and stage.width == config.linear_state_width:
        heads = channels.reshape(config.linear_value_heads, config.linear_head_dim, -1)
        turned = heads.swapaxes(1, 2)
        yield "states turned: [heads, key channels, value channels]", turned.reshape(-1)
        for text, order in across.items():
            yield text, heads[order].reshape(-1)
            yield f"{text}, states turned", turned[order].reshape(-1)
        return
    first = 2 * config.linear_key_width if stage.width == config.linear_qkv_width else 0
    if stage.width - first in (config.linear_value_width, config.linear_value_heads):
        for text, order in across.items():
            values = channels[first:].reshape(config.linear_value_heads, -1)[order].reshape(-1)
            yield text, np.concatenate([channels[:first], values])


def _value_head_orders(config: GraphConfig) -> tuple[Order, ...]:
    """For each value head its number where they are counted key head by key head, and the other way round."""
    if not 1 < config.linear_key_heads < config.linear_value_heads:
        return ()
    order = np.array(config.value_heads_across)
    return order, np.argsort(order)


def _rope_orders(
    stage: Stage, parts: Mapping[str, frozenset[Part]], config: GraphConfig
) -> Iterator[tuple[str, Order]]:
    """B's channels in the other RoPE layout, whichever of the two A has."""
    if stage.name in parts:
        for layout in (RopeLayout.INTERLEAVED, RopeLayout.HALF_SPLIT):
            yield f"RoPE pairs {layout}", rope_order(parts[stage.name], stage.width, config, layout)


def rope_order(parts: Iterable[Part], width: int, config: GraphConfig, layout: RopeLayout) -> Order:
    """For each channel of `parts` in the other RoPE layout, the channel in `layout` that holds the same value.

    Half-split turns i with i + d/2, interleaved 2i with 2i + 1, in the first d channels of each head.
    """
    d = config.rotated
    pairs = np.concatenate([np.arange(0, d, 2), np.arange(1, d, 2)])
    turned = pairs if layout is RopeLayout.INTERLEAVED else np.argsort(pairs)
    order = np.arange(width)
    for part in parts:
        # Latent attention keeps apart what it turns.
        whole = config.head_dim if config.latent is None else d
        heads = order[config.part(part)].reshape(-1, config.q_head_width if part is Part.Q else whole)
        heads[:, :d] = heads[:, turned]
        order[config.part(part)] = heads.reshape(-1)
    return order


def _fused_orders(config: GraphConfig) -> Iterator[tuple[str, Order]]:
    """Q, K and V in another order, or group by group: the queries of a K/V head, its key, its value."""
    columns = {part: np.arange(config.qkv_width)[config.part(part)] for part in (Part.Q, Part.K, Part.V)}
    for chosen in permutations(columns):
        if chosen != tuple(columns):
            text = "‖".join(part.name for part in chosen)
            yield text, np.argsort(np.concatenate([columns[part] for part in chosen]))
    q, k, v = (columns[part].reshape(config.kv_heads, -1) for part in columns)
    yield "Q‖K‖V of each K/V head together", np.argsort(np.concatenate([q, k, v], axis=1).reshape(-1))
