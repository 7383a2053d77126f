"""Alternatives of what stands in a buffer: single values, channels of the token before, a number taken off a token."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.wording import counted, ranges
from aprtui.engine.alternatives.alternative import Alternative, Attempt, distance
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.alternatives.results import of_result
from aprtui.trace.graph.stage import ENTRY

Wide = NDArray[np.float64]
Places = NDArray[np.intp]

_OFF = 1e-4
_NEAR = 1e-5
_FEW = 4
_LARGEST = 65504
"""Of float16."""
_DIGITS = 5
_DOUBLED = 1.5
"""Of a logarithm to base 2: what is doubled or halved may be meant."""
_ALIKE = 1e-4


def _sizes(own: Wide) -> Wide:
    """The root mean square of each row."""
    return np.asarray(np.sqrt((own**2).mean(-1, keepdims=True)))


def _single_values(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A few values that are wrong among all: of the other sign, zero, no number where all that they are made of are
    numbers, or with one bit of theirs the other way."""
    own = call.honest()
    if found is None or own.ndim != 2:
        return
    with np.errstate(invalid="ignore"):
        off = np.abs(found.astype(np.float64) - own) > _OFF * _sizes(own.astype(np.float64))
    off |= ~np.isfinite(found) & np.isfinite(own)
    places = np.argwhere(off)
    if not 0 < len(places) <= _FEW:
        return
    kinds = [_kind(float(own[row, column]), float(found[row, column])) for row, column in places]
    if None in kinds:
        return
    texts = [
        f"channel {column} of token {row + call.position} {kind}"
        for (row, column), kind in zip(places.tolist(), kinds, strict=True)
    ]
    values = found[off]
    yield Attempt("; ".join(texts), partial(_with_values, off, values))


def _kind(own: float, found: float) -> str | None:
    """What happened to one value; None where it could be anything."""
    if own != 0 and abs(found / own + 1) < _NEAR:
        return "has the other sign: its sign bit is flipped"
    if found == 0:
        return "is zero"
    if not np.isfinite(found) and np.isfinite(own):
        return f"is {'NaN' if np.isnan(found) else 'Inf' if found > 0 else '−Inf'}, and nothing that it is made of is"
    ratio = found / own if own and np.isfinite(found) else 0.0
    if 0 < ratio < np.inf and abs(np.log2(ratio)) > _DOUBLED and abs(np.log2(ratio) - round(np.log2(ratio))) < _NEAR:
        bits = np.array([own, found], np.float32).view(np.uint32) >> 23
        if int(bits[0] ^ bits[1]).bit_count() == 1:
            return f"is multiplied by {ratio:.4g}: one bit of its exponent is flipped"
    return None


def _with_values(off: NDArray[np.bool_], values: Array, call: StageCall) -> Array:
    changed = call.honest().copy()
    changed[off] = values
    return changed


def _lost_lines(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Channels that are NaN or Inf at every token, or tokens that are so throughout, and nothing else that is."""
    own = call.honest()
    if found is None or own.ndim != 2 or min(own.shape) < 2 or not np.isfinite(own).all():
        return
    lost = ~np.isfinite(found)
    for axis, noun, first, where in ((0, "channel", 0, "at every token"), (1, "token", call.position, "throughout")):
        lines = np.flatnonzero(lost.all(axis))
        if 0 < lines.size < lost.shape[1 - axis] and lost.sum() == lines.size * lost.shape[axis]:
            places = ranges((lines + first).tolist())
            which = f"{noun}s {places} are" if lines.size > 1 else f"{noun} {places} is"
            kind = "NaN" if np.isnan(found[lost]).all() else "Inf" if np.isinf(found[lost]).all() else "NaN or Inf"
            yield Attempt(
                f"{which} {kind} {where}, and nothing that is read there is",
                partial(_with_values, lost, found[lost]),
            )  # fmt: skip


def _stale_channels(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Channels in which each token has the values of the one before: a work-group that did not write."""
    own = call.honest()
    if found is None or own.ndim != 2 or len(own) < 3:
        return
    wide, values = own.astype(np.float64), found.astype(np.float64)
    size = np.sqrt((wide**2).mean()) or 1.0
    is_own = np.abs(values - wide)[1:].max(0) <= _OFF * size
    is_before = np.abs(values[1:] - wide[:-1]).max(0) <= _OFF * size
    stale = np.flatnonzero(is_before & ~is_own)
    if stale.size and (is_own | is_before).all() and not is_before.all():
        which = ranges(stale.tolist()) if stale[-1] - stale[0] + 1 == stale.size else counted(stale.size, "channel")
        last = ", the last of them," if stale[-1] == own.shape[1] - 1 else ""
        yield Attempt(
            f"channels {which}{last} have the values of the token before", partial(_of_token_before, stale),
        )  # fmt: skip


def _of_token_before(channels: Places, call: StageCall) -> Array:
    own = call.honest()
    changed = own.copy()
    changed[1:, channels] = own[:-1, channels]
    return changed


def _written_over(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """A stage behind it that was written into its place before it was captured."""
    if found is None or found.ndim != 2:
        return
    graph = call.model.graph
    held = set(call.seen)
    for node in graph.nodes:
        is_behind = node.layer == call.node.layer and graph.order[node] > graph.order[call.node]
        if is_behind and node in held and not graph[node.stage].is_attention_map:
            values = call.seen[node]
            if values.shape == found.shape and distance(values, found) < _NEAR:
                yield Attempt(
                    f"the values are those of {node.stage}, which comes behind it: written over, or captured too late",
                    partial(_as_captured, values),
                )


def _as_captured(values: Array, call: StageCall) -> Array:
    return np.ascontiguousarray(values)


def _offsets(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """One number that is taken off all logits of a token."""
    own = call.honest()
    if found is None or own.ndim != 2:
        return
    wide = own.astype(np.float64)
    offsets, largest = np.median(wide - found, -1), wide.max(-1)
    if np.abs(offsets - largest).max() <= _ALIKE * float(_sizes(wide).max()):
        yield Attempt("the largest logit of each token is taken off", partial(_less, largest))


def _less(offsets: Wide, call: StageCall) -> Array:
    return np.asarray(call.honest() - offsets[:, None], np.float32)


def _scaled_float16(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Results that are float16 numbers times a scale, as of an accumulator in which weights are scaled; Inf beyond."""
    if found is None or not np.isinf(found).any() or not np.isfinite(found).any():
        return
    own = np.abs(call.honest().astype(np.float64))
    most, lost = float(np.abs(found[np.isfinite(found)]).max()), own[np.isinf(found)]
    if not lost.size or not np.isfinite(lost).all():
        return
    middle = (most + float(lost.min())) / 2
    for digits in range(1, _DIGITS):
        limit = float(f"{middle:.{digits - 1}e}")
        if most * (1 - 2**-10) <= limit <= float(lost.min()) * (1 + 2**-10):
            yield Attempt(
                f"results are float16 numbers at a scale: beyond {limit:.6g} they are Inf",
                partial(_in_scaled_float16, np.float32(_LARGEST / limit)), 1,
            )  # fmt: skip
            return


def _in_scaled_float16(gain: np.float32, call: StageCall) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray((call.honest() * gain).astype(np.float16).astype(np.float32) / gain, np.float32)


def _shifted_ids(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Rows of the table that are counted from another one on."""
    for shift, words in ((1, "behind"), (-1, "before")):
        yield Attempt(f"each token has the row {words} its own in the table", partial(_with_ids, shift))


def _with_ids(shift: int, call: StageCall) -> Array:
    ids = [(token + shift) % call.model.config.graph.vocabulary for token in call.tokens]
    return call.engine.evaluate(call.node, call.inputs, tokens=ids, position=call.position)


WRITTEN_ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative("row of the table", frozenset({ENTRY}), _shifted_ids, "count rows of the table from 0"),
    Alternative("logits less a number", frozenset({"lm_head", "logit_softcap"}), _offsets,
                "hand out logits as they are, or compare what is computed of them", of_result=True),
    of_result("written over", _written_over, "capture a copy, before anything is written into the same buffer"),
    of_result("stale channels", _stale_channels, "check that the last work-group writes its outputs"),
    of_result("float16 at a scale", _scaled_float16, "keep sums in float32, or scale them by less"),
    of_result("lost lines", _lost_lines, "look for weights that are NaN, and for a 0 that is divided by"),
    of_result("single values", _single_values, "check the memory: single values are wrong"),
)  # fmt: skip
