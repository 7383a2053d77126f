"""Alternatives of a part of a result: some channels, heads or tokens that are scaled, or hold what belongs elsewhere.
And what was added to all of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.wording import counted, ranges
from aprtui.engine.alternatives.alternative import Alternative, Attempt, distance, nicest
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.alternatives.results import captured_like, channel_words, named_number, of_result, source_words
from aprtui.trace.graph.ops import Op, Part

Wide = NDArray[np.float64]
Places = NDArray[np.intp]

_OFF = 1e-4
"""Of a channel's or token's size: what it must err by to be one of the wrong ones."""
_NEAR = 1e-3
_FACTOR_LEFT = 0.05
_MOST_RUNS = 8
"""Runs of neighbours that a part may be made of; more are no part."""
_FEWEST_TOKENS = 4


def _wrong(own: Wide, found: Wide, axes: tuple[int, ...]) -> Places:
    """Where along the other axis values are off."""
    with np.errstate(invalid="ignore"):
        error = np.nan_to_num(found - own, nan=1.0, posinf=1.0, neginf=-1.0)
        size = np.sqrt(np.nanmean(own**2)) or 1.0
        return np.flatnonzero(np.sqrt((error**2).mean(axes)) > _OFF * size)


def _parts(call: StageCall, found: Array) -> Iterator[tuple[str, int, Places]]:
    """The wrong channels (of maps: heads) and the wrong tokens, where these are some and not all; with their axis."""
    own, values = call.honest().astype(np.float64), found.astype(np.float64)
    is_map = own.ndim == 3
    channels = _wrong(own, values, (1, 2) if is_map else (0,))
    if 0 < channels.size < own.shape[0 if is_map else 1] and _runs(channels) <= _MOST_RUNS:
        yield channel_words(call, channels.tolist(), own.shape, is_map), 0 if is_map else 1, channels
    tokens = _wrong(own, values, (0, 2) if is_map else (1,))
    if 0 < tokens.size < own.shape[-2] and _runs(tokens) <= _MOST_RUNS:
        many = "s" if tokens.size > 1 else ""
        places = ranges((tokens + call.position).tolist())
        yield f"token{many} {places} {'are' if many else 'is'}", 1 if is_map else 0, tokens


def _runs(places: Places) -> int:
    return 1 + int((np.diff(places) > 1).sum())


def _factors(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A part that is multiplied by one number."""
    if found is None:
        return
    for words, axis, places in _parts(call, found):
        own, values = (np.take(x, places, axis).astype(np.float64) for x in (call.honest(), found))
        finite = np.isfinite(own) & np.isfinite(values)
        own, values = own[finite], values[finite]
        square = float((own * own).sum())
        if not square:
            continue
        factor = float((own * values).sum()) / square

        def cost(value: float, own: Wide = own, values: Wide = values, square: float = square) -> float:
            return float(((values - value * own) ** 2).sum()) / square

        if cost(factor) > _FACTOR_LEFT:
            continue
        factor = nicest(factor, cost)
        if factor and abs(factor - 1) > 1e-6:
            by = "of the other sign" if factor == -1 else f"multiplied by {factor:.8g}"
            yield Attempt(
                f"{words} {by}{named_number(factor, call.model.config)}",
                partial(_scaled, axis, places, np.float32(factor)), 1 + 2 * _runs(places),
            )  # fmt: skip


def _scaled(axis: int, places: Places, factor: np.float32, call: StageCall) -> Array:
    factors = np.ones(call.honest().shape[axis], np.float32)
    factors[places] = factor
    return np.asarray(call.honest() * np.expand_dims(factors, tuple(range(1, call.honest().ndim - axis))), np.float32)


def _elsewhere(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A part that holds what another captured stage has at the same place: a buffer that was not written again."""
    if found is None or found.ndim != 2:
        return
    others = captured_like(call, found.shape[1], found.shape[0])
    for words, axis, places in _parts(call, found):
        seen = np.take(found, places, axis)
        errors = {key: distance(np.take(values, places, axis), seen) for key, values in others.items()}
        nearest = min(errors, key=lambda key: errors[key], default=None)
        if nearest is not None and errors[nearest] < _NEAR:
            node, part = nearest
            yield Attempt(
                f"{words} what {source_words(call.node, node, part)} holds there: not written, or written over",
                partial(_replaced, axis, places, others[nearest]), 2 * _runs(places),
            )  # fmt: skip


def _replaced(axis: int, places: Places, other: Array, call: StageCall) -> Array:
    own = call.honest().copy()
    at = (slice(None),) * axis + (places,)
    own[at] = other[at]
    return own


def _token_orders(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Tokens that have the values of others."""
    own = call.honest()
    if found is None or own.ndim != 2 or len(own) < 3:
        return
    source = np.arange(len(own))
    for row in np.flatnonzero([distance(a, b) > _NEAR for a, b in zip(own, found, strict=True)]):
        errors = [distance(other, found[row]) for other in own]
        if min(errors) > _NEAR:
            return
        source[row] = int(np.argmin(errors))
    moved = np.flatnonzero(source != np.arange(len(own)))
    if not moved.size:
        return
    places = (source + call.position).tolist()
    if len(set(places)) == len(places) and moved.size > 2:
        text = f"tokens are in the order {places[:16]}{' …' if len(places) > 16 else ''}"
    else:
        text = "; ".join(f"token {row + call.position} has the values of token {places[row]}" for row in moved[:4])
        text += f"; and {counted(moved.size - 4, 'more token')} others'" if moved.size > 4 else ""
    yield Attempt(text, lambda c: np.ascontiguousarray(c.honest()[source]), moved.size)


def _added(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A captured stage that is added to it, or taken off."""
    own = call.honest()
    if found is None or own.ndim != 2 or not np.isfinite(found).all():
        return
    error = found.astype(np.float64) - own
    size = float((error**2).sum())
    best: tuple[float, str, float, Array] | None = None
    terms = call.model.graph.inputs(call.node) if call.op is Op.ADD else ()
    for (node, part), values in captured_like(call, own.shape[1], own.shape[0]).items():
        if node in terms:
            continue
        other = values.astype(np.float64)
        square = float((other**2).sum())
        factor = float((other * error).sum()) / square if square else 0.0
        left = float(((error - factor * other) ** 2).sum()) / size if size else 1.0
        if factor and left < _FACTOR_LEFT and (best is None or left < best[0]):
            best = left, source_words(call.node, node, part), factor, values
    if best is None:
        return
    _, name, factor, values = best
    wide, scale = values.astype(np.float64), size

    def cost(value: float) -> float:
        return float(((error - value * wide) ** 2).sum()) / scale

    factor = nicest(factor, cost)
    how = {1.0: "is added to it", -1.0: "is taken off it"}.get(factor, f"times {factor:.6g} is added to it")
    yield Attempt(f"{name} {how}", lambda c: np.asarray(c.honest() + np.float32(factor) * values, np.float32), 1)


def _vectors(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """One vector that is added at every token, and a factor for each channel at every token."""
    own = call.honest()
    if found is None or own.ndim != 2 or len(own) < _FEWEST_TOKENS or not np.isfinite(found).all():
        return
    wide, values = own.astype(np.float64), found.astype(np.float64)
    vector = (values - wide).mean(0)
    yield Attempt(
        f"one vector is added at every token, absolute values up to {np.abs(vector).max():.4g}{_known(call, vector)}",
        lambda c: np.asarray(c.honest() + vector, np.float32), own.shape[1],
    )  # fmt: skip
    squares = (wide**2).sum(0)
    gains = np.where(squares > 0, (values * wide).sum(0) / np.where(squares > 0, squares, 1.0), 1.0)
    yield Attempt(
        f"each channel has a factor of its own at every token, {gains.min():.4g} … {gains.max():.4g}: weights that are "
        "none of the model's, or scales by channel",
        lambda c: np.asarray(c.honest() * gains, np.float32), own.shape[1],
    )  # fmt: skip


def _known(call: StageCall, vector: Wide) -> str:
    """Which vector of the model it is, if it is one."""
    graph = call.model.graph
    for node in graph.nodes:
        for weight in call.model.params(node):
            if weight.rows == 1 and weight.columns == vector.size:
                values = weight.dequantize().reshape(-1)
                if distance(values, vector) < _NEAR:
                    return f": what {source_words(call.node, node, Part.WHOLE)} is made with"
    return ""


_WRITTEN = "check the buffer that the stage is written to, and that all of it is"

PART_ALTERNATIVES: tuple[Alternative, ...] = (
    of_result("factor of a part", _factors, "look for a scale that is missing, or applied twice, there"),
    of_result("stale part", _elsewhere, _WRITTEN),
    of_result("tokens in another order", _token_orders, "check the row that each token reads and writes"),
    of_result("stage added", _added, "check what is accumulated into the buffer that it is written to"),
)

VECTOR_ALTERNATIVES: tuple[Alternative, ...] = (
    of_result("vector of channels", _vectors, "check the bias or weight of this stage"),
)
"""Those that solve for one number a channel, which many others are a case of."""
