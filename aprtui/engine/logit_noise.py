"""The noise at the logits: how far apart the two modes of a backend are on one model, measured once and cached.

A token whose margin (largest logit less second largest) is within that noise may be another one in an engine that
rounds otherwise. The measurement compares `q8` with `exact` on the same tokens, at the likeliest tokens of every
position, without the shift that all of them share: a shift changes no probability. It is a figure of the model, not of
the position; a position whose margin is much larger may still flip where its own error happens to be large.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Logits, Mode
from aprtui.engine.result_cache import cached, python_digest
from aprtui.engine.sampling import top_tokens
from aprtui.errors import UsageError
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.resources import floor_cache

LIKELIEST = 10
"""Tokens of each position whose logits are compared: only they can become the first."""
FEWEST_TOKENS = 8
MOST_TOKENS = 32
_CHUNK = 4
"""Tokens between two reports of progress."""

SOURCES = ("engine/logit_noise.py", "engine/rounding.py", "engine/cpu", "engine/cuda", "engine/reference")
"""The code that determines the noise, in all backends."""


@dataclass(frozen=True, slots=True)
class LogitNoise:
    """`deviation` is the standard deviation of one logit's error, measured on `tokens` tokens."""

    deviation: float
    tokens: int


def logit_deviation(exact: NDArray[np.float32], rounded: NDArray[np.float32]) -> float:
    """Standard deviation of `rounded - exact`, logits `[T, V]`, at the likeliest tokens of `exact` in each row.

    The mean of a row's differences is taken off first, and paid for as one degree of freedom. NaN where a logit that
    is looked at is not finite.
    """
    best = np.stack([top_tokens(row, LIKELIEST) for row in exact])
    errors = np.take_along_axis(rounded, best, 1).astype(np.float64) - np.take_along_axis(exact, best, 1)
    return float(np.sqrt(np.mean(np.var(errors, axis=1, ddof=1))))


def measure_logit_noise(
    model: Model, tokens: Sequence[int], backend: str, threads: int | None, progress: Progress
) -> LogitNoise:
    """The noise of `model` in `backend`: from an earlier measurement, or measured on the first of `tokens`.

    Raises `UsageError` where it has to be measured and the tokens are too few.
    """
    key = ("logit noise", python_digest(*SOURCES), backend, model.sha256())
    return cached(
        floor_cache(), key, lambda: _measure(model, tokens, backend, threads, progress),
        encode=asdict, decode=lambda fields: LogitNoise(**fields),
    )  # fmt: skip


def _measure(model: Model, tokens: Sequence[int], backend: str, threads: int | None, progress: Progress) -> LogitNoise:
    if len(tokens) < FEWEST_TOKENS:
        raise UsageError(
            f"the noise at the logits is measured on {FEWEST_TOKENS} tokens or more, there are {len(tokens)}: "
            "ask again when there are more"
        )
    used = list(tokens[:MOST_TOKENS])
    logits = []
    for turn, mode in enumerate(Mode):
        parts = []
        with closing(open_engine(model, backend=backend, mode=mode, threads=threads, context=len(used))) as engine:
            for begin in range(0, len(used), _CHUNK):
                progress("measuring the noise at the logits", turn * len(used) + begin, len(Mode) * len(used))
                parts.append(engine.forward(used[begin : begin + _CHUNK], logits=Logits.ALL))
        logits.append(np.concatenate(parts))
    return LogitNoise(logit_deviation(*logits), len(used))
