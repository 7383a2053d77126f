"""Logits as engines serve them: cut to the tokens in use or padded to a round number of them, masked where a token may
not be chosen, or as log-probabilities. None of that is a fault; of what is left out nothing can be said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.pairing import StagePair, Unpaired
from aprtui.compare.metrics.blocks import Values
from aprtui.compare.wording import counted, ranges

_MASK = -1e4
"""What no model gives a token: masks are this, the least number of a type, or −Inf."""
_MODERATE = 1e3
"""Logits are no larger, where masks are told from values that overflowed."""
_MOST = 0.25
"""Share of the vocabulary, less than that, which may be masked at a token: a sampler leaves little of it, and a part
that was lost where the vocabulary is split over devices is no mask."""
_SUMS_TO_ONE = 0.05
"""What the logarithm of the sum of probabilities may be off by, in 16 bits."""
_LOG_PROBABILITIES = "log-probabilities"
_CAPTURE = "capture logits (transformers: output_logits=True)"

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ServedLogits:
    """Logits `[rows, vocabulary]`, zero where they were `left_out`; `words` say what else than logits they are."""

    values: Values
    left_out: Mask
    is_log_probability: bool
    words: str

    def alike(self, logits: Values) -> Values:
        """The last of the rows, as plain `logits`, served in the same way."""
        first = len(self.left_out) - len(logits)
        left_out = self.left_out[first:]
        if self.is_log_probability:
            sums, own = _log_sums(logits, left_out), _log_sums(self.values[first:], left_out)
            if _is_normalised(own, sums):
                # Powers of a whole vocabulary are often summed in float32: what that is off by is no fault.
                logits = _less(logits, sums - own)
        return np.where(left_out, np.float32(0), logits)


def served_logits(values: Values, vocabulary: int, rows: Iterable[int], unused: range) -> ServedLogits | str | None:
    """`values` in the vocabulary's width, where they are of one of the numbers of `rows` and not plain logits; why they
    cannot be compared; None for plain logits, or where they do not fit. `unused` are the last tokens of the vocabulary,
    which no text has."""
    fitted = _in_width(values, vocabulary, rows, unused)
    if fitted is None:
        return None
    table, absent, words = fitted
    if not words and _is_plain(table) and (not unused or table[:, unused.start :].any()):
        return None
    masked = _masked_logits(table) & ~absent
    if lost := _lost(table, masked):
        return f"holds {lost}"
    zero = np.zeros(table.shape, np.bool_)
    zero[:, unused.start :] = not table[:, unused.start :].any()
    zero &= ~absent
    left_out = absent | masked | zero
    is_log_probability = _are_log_probabilities(table, left_out)
    said = [
        words,
        f"{_tokens(masked)} masked ({table[masked].max():.6g})" if masked.any() else "",
        f"{_tokens(zero)} zero, of tokens that are not in use" if zero.any() else "",
        _LOG_PROBABILITIES if is_log_probability else "",
    ]
    if not any(said):
        return None
    return ServedLogits(
        np.where(left_out, np.float32(0), table), left_out, is_log_probability, ", ".join(filter(None, said))
    )


def _masked_logits(table: Values) -> Mask:
    """Where logits are as low as masks are, and all others are as they should be."""
    low = table <= _MASK
    others = table.min(where=~low, initial=0), table.max(where=~low, initial=0)
    is_mask = low.any() and others[0] >= -_MODERATE and others[1] <= _MODERATE
    return low if is_mask else np.zeros(table.shape, np.bool_)


def served_alike(pair: StagePair) -> StagePair | Unpaired:
    """`pair` of logits, zero on both sides where one of them is masked, and as log-probabilities where only one side
    holds those. Logits of unknown shape count as one row."""
    if _is_plain(pair.a) and _is_plain(pair.b):
        return pair
    sides = {"A": np.atleast_2d(pair.a), "B": np.atleast_2d(pair.b)}
    low_a, low_b = (_masked_logits(side) for side in sides.values())
    for (name, side), low in zip(sides.items(), (low_a, low_b), strict=True):
        if lost := _lost(side, low & (low_a ^ low_b)):
            return Unpaired(pair.node, None, f"{name} holds {lost}")
    left_out, matched = low_a | low_b, pair.matched
    if left_out.any():
        sides = {name: np.where(left_out, np.float32(0), side) for name, side in sides.items()}
        logits = _tokens(left_out) if pair.axes else counted(int(left_out.sum()), "logit")
        matched = f"{matched}; {logits} masked, left out"
    name = _normalised_side(sides, left_out)
    if name:
        other = "B" if name == "A" else "A"
        sums = _log_sums(sides[other], left_out) - _log_sums(sides[name], left_out)
        sides[other] = np.where(left_out, np.float32(0), _less(sides[other], sums))
        matched = f"{matched}; {name} holds {_LOG_PROBABILITIES}"
    shape = pair.a.shape
    return replace(pair, a=sides["A"].reshape(shape), b=sides["B"].reshape(shape), matched=matched)


def _normalised_side(sides: Mapping[str, Values], left_out: Mask) -> str:
    """The side that holds log-probabilities where the other one does not; empty where neither or both do."""
    if not any(_are_log_probabilities(side, left_out) for side in sides.values()):
        return ""
    a, b = (_log_sums(side, left_out) for side in sides.values())
    normalised = [name for name, sums, others in (("A", a, b), ("B", b, a)) if _is_normalised(sums, others)]
    return normalised[0] if len(normalised) == 1 else ""


def _is_plain(table: Values) -> bool:
    """Whether logits are as a model gives them: some above and some below 0, none as low as masks are."""
    return bool(_MASK < table.min(initial=0) < 0 and table.max(initial=0) > _SUMS_TO_ONE)


def _lost(table: Values, masked: Mask) -> str:
    """What logits cannot be told from: those that a sampler left, or probabilities, of which small ones say little."""
    if masked.mean(1).max(initial=0) >= _MOST:
        return f"{int(masked.sum())} of {counted(masked.size, 'logit')} masked, as a sampler does: {_CAPTURE}"
    if table.min() >= 0 and (np.abs(table.sum(1, dtype=np.float64) - 1) < _SUMS_TO_ONE).all():
        return f"probabilities: {_CAPTURE}"
    return ""


def _are_log_probabilities(table: Values, left_out: Mask) -> bool:
    return bool(table.max(where=~left_out, initial=-np.inf) < _SUMS_TO_ONE) and bool(
        (np.abs(_log_sums(table, left_out)) < _SUMS_TO_ONE).all()
    )


def _is_normalised(sums: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    """Whether rows with these logarithms of their sums are log-probabilities, and the other side's the logits of the
    same tokens: training may bring those of a model near 0 as well."""
    return bool((np.abs(sums) < np.minimum(np.abs(sums - others), _SUMS_TO_ONE)).all())


def _less(logits: Values, sums: NDArray[np.float64]) -> Values:
    """Log-probabilities, without a copy of all logits in 64 bits."""
    return np.subtract(logits, sums, out=np.empty(logits.shape, np.float32), casting="same_kind")


def _log_sums(logits: Values, left_out: Mask) -> NDArray[np.float64]:
    """The logarithm of the sum of the powers of each row, of those that are not left out `[rows, 1]`."""
    return np.array([[_log_sum(row[~out])] for row, out in zip(logits, left_out, strict=True)])


def _log_sum(logits: Values) -> float:
    wide = logits.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        largest = wide.max(initial=-np.inf)
        return float(largest + np.log(np.exp(wide - largest).sum()))


def _in_width(
    values: Values, vocabulary: int, rows: Iterable[int], unused: range
) -> tuple[Values, Mask, str] | None:  # fmt: skip
    """`values` `[rows, vocabulary]`, which of them they lack, and in words what is left out for its width."""
    for count in sorted(set(rows), reverse=True):
        width, rest = divmod(values.size, count) if count else (0, 1)
        if rest or not width:
            continue
        table = values.reshape(count, width)
        absent = np.zeros((count, vocabulary), np.bool_)
        if width >= vocabulary and _is_constant(table[:, vocabulary:]):
            words = f"{width - vocabulary} logits behind the vocabulary left out" if width > vocabulary else ""
            return table[:, :vocabulary], absent, words
        if unused.start <= width < vocabulary:
            absent[:, width:] = True
            wide = np.zeros((count, vocabulary), np.float32)
            wide[:, :width] = table
            return wide, absent, f"{vocabulary - width} logits of tokens that are not in use left out"
    return None


def _is_constant(columns: Values) -> bool:
    return not columns.size or bool((columns == columns.flat[0]).all())


def _tokens(which: Mask) -> str:
    ids = np.flatnonzero(which.any(0)).tolist()
    listed = ranges(ids) if ids[-1] - ids[0] == len(ids) - 1 else f"{ids[0]} … {ids[-1]}"
    return f"{counted(int(which.sum()), 'logit')} ({'tokens' if len(ids) > 1 else 'token'} {listed})"
