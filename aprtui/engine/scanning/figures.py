"""What is kept of each token of a walk: a few numbers of its logits, alone and against those of a reference.

| figure | definition, with p the softmax of a row of logits, in float64 |
|---|---|
| entropy | −Σ p·ln p, in nats |
| margin | the largest logit less the second |
| surprise | −ln p of the token that follows |
| error | standard deviation of the difference to the reference, at the reference's likeliest tokens |
| kl | Σ p·ln(p/q) with p of the reference, in nats |
| lead | by how much the reference's first token is ahead, there, of the one that comes first here; 0 where it does |
| scale | standard deviation of the reference's logits |

The error is the noise of one logit: shifts that all share change no probability and are no part of it. From token to
token it varies by a third of itself, where the divergence varies by orders of magnitude with how sure the model is. A
row that is no distribution has NaN in all of its figures; −Inf is a token ruled out, and such tokens are left out of
errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.logit_noise import LIKELIEST
from aprtui.engine.sampling import top_tokens
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]
Wide = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PositionFigures:
    """The figures of the logits at one position, behind `token`; `origin` is the first stage there whose values are
    not all finite. What needs a reference, or a token behind it, is None without."""

    position: int
    token: int
    entropy: float
    margin: float
    first: int
    surprise: float | None = None
    origin: Node | None = None
    error: float | None = None
    kl: float | None = None
    lead: float | None = None
    scale: float | None = None


@dataclass(frozen=True, slots=True)
class RowFigures:
    """The figures of rows of logits `[n]`, and the log-probabilities that they are of `[n, V]`."""

    entropy: Wide
    margin: Wide
    first: NDArray[np.intp]
    log_p: Wide


@dataclass(frozen=True, slots=True)
class ErrorFigures:
    """The figures of rows of logits against a reference `[n]`."""

    error: Wide
    kl: Wide
    lead: Wide
    scale: Wide


def row_figures(logits: Array) -> RowFigures:
    """Figures of `logits` `[n, V]` by themselves."""
    log_p = log_softmax(logits)
    terms = np.exp(log_p) * np.where(np.isneginf(log_p), 0.0, log_p)
    pairs = np.partition(logits, logits.shape[1] - 2, axis=1)[:, -2:].astype(np.float64)
    with np.errstate(invalid="ignore"):
        margin = pairs[:, 1] - pairs[:, 0]
    return RowFigures(-terms.sum(axis=1), np.where(np.isnan(log_p[:, 0]), np.nan, margin), logits.argmax(axis=1), log_p)


def error_figures(logits: Array, log_p: Wide, reference: Array) -> ErrorFigures:
    """Figures of `logits` `[n, V]`, whose log-probabilities are `log_p`, against those of a `reference`."""
    wanted = log_softmax(reference)
    with np.errstate(invalid="ignore", divide="ignore"):
        terms = np.where(np.isneginf(wanted), 0.0, np.exp(wanted) * (wanted - log_p))
        kl = np.maximum(terms.sum(axis=1), 0.0)
    rows = np.arange(len(logits))
    best = np.stack([top_tokens(row, min(LIKELIEST, row.size)) for row in np.nan_to_num(reference, nan=-np.inf)])
    with np.errstate(invalid="ignore"):
        errors = np.take_along_axis(logits, best, 1).astype(np.float64) - np.take_along_axis(reference, best, 1)
        lead = reference.max(axis=1) - reference[rows, np.nan_to_num(logits, nan=-np.inf).argmax(axis=1)]
        scale = np.array([row[np.isfinite(row)].std() if np.isfinite(row).any() else np.nan for row in reference])
    return ErrorFigures(_deviation(errors), np.where(np.isnan(log_p[:, 0]), np.nan, kl), lead.astype(np.float64), scale)


def log_softmax(logits: Array) -> Wide:
    """Log-probabilities `[n, V]`; NaN in rows that are no distribution."""
    wide = logits.astype(np.float64)
    largest = wide.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        shifted = wide - largest
        found = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.where(np.isfinite(largest), found, np.nan)


def _deviation(errors: Wide) -> Wide:
    """Standard deviation of each row over what is finite in it; NaN where that is fewer than two numbers."""
    found = np.full(len(errors), np.nan)
    for row, values in enumerate(errors):
        if np.isnan(values).any():
            continue
        finite = values[np.isfinite(values)]
        if finite.size > 1:
            found[row] = finite.std(ddof=1)
    return found


def token_figures(
    positions: Sequence[int], tokens: Sequence[int], following: Sequence[int | None], origins: Sequence[Node | None],
    logits: Array, reference: Array | None,
) -> list[PositionFigures]:  # fmt: skip
    """The figures of rows of logits `[n, V]`: behind `tokens` at `positions`, each with the token that follows it."""
    own = row_figures(logits)
    against = None if reference is None else error_figures(logits, own.log_p, reference)
    found = []
    for row, (position, token, after, origin) in enumerate(zip(positions, tokens, following, origins, strict=True)):
        errors: tuple[float | None, ...] = (None,) * 4
        if against is not None:
            errors = tuple(float(figure[row]) for figure in (against.error, against.kl, against.lead, against.scale))
        surprise = None if after is None else -float(own.log_p[row, after])
        found.append(
            PositionFigures(
                position, token, float(own.entropy[row]), float(own.margin[row]), int(own.first[row]), surprise, origin,
                *errors,
            )
        )  # fmt: skip
    return found
