"""Choosing the next token from logits: greedy, temperature, top-k, top-p, min-p, repeat penalty, seed.

The order is fixed: repeat penalty, temperature, top-k, top-p, min-p, then one draw. Each filter sees the renormalised
distribution that the filter before it left. Ties go to the lower token id everywhere, so that a seed gives the same
tokens on every machine whose logits agree.

Shape letter: V = vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import EngineError, UsageError


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling settings; the defaults take the most probable token. Raises `UsageError` for a value out of range."""

    temperature: float = 0.0
    """Divides the logits; 0 takes the most probable token and draws nothing."""
    top_k: int = 0
    """Keep the k most probable tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the fewest most probable tokens that together reach this probability; 1 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this many times as probable as the most probable one; 0 keeps all."""
    repeat_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens seen lately (Keskar et al. 2019, arXiv:1909.05858)."""
    repeat_last_n: int = 64
    """How many of the latest tokens the penalty looks at."""
    seed: int = 0

    def __post_init__(self) -> None:
        _expect("temperature", self.temperature, 0 <= self.temperature < math.inf, "a finite number ≥ 0")
        _expect("top-k", self.top_k, self.top_k >= 0, "a whole number ≥ 0 (0 keeps all tokens)")
        _expect("top-p", self.top_p, 0 < self.top_p <= 1, "0 < p ≤ 1 (1 keeps all tokens)")
        _expect("min-p", self.min_p, 0 <= self.min_p <= 1, "0 ≤ p ≤ 1 (0 keeps all tokens)")
        _expect(
            "repeat penalty", self.repeat_penalty, 1e-3 <= self.repeat_penalty <= 1e3, "a number from 0.001 to 1000"
        )
        _expect("repeat-last-n", self.repeat_last_n, self.repeat_last_n >= 0, "a whole number ≥ 0")
        _expect("seed", self.seed, self.seed >= 0, "a whole number ≥ 0")


def _expect(name: str, value: float, holds: bool, wanted: str) -> None:
    if not holds:
        raise UsageError(f"sampling: {name} is {value:g}, expected {wanted}")


GREEDY = Sampling()

NO_TOKEN = -1
"""Stands for a token where none could be chosen."""

_BLOCK = 128
"""Values whose maximum stands for them all at first: the k largest lie in the k blocks of the largest maxima."""


class Candidate(NamedTuple):
    """A token that the model thought likely, and its probability in the model's own distribution."""

    id: int
    probability: float


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen token, and what the model thought of it.

    `probability` is the one it was drawn with, after penalty, temperature and filters (1 where greedy). The other
    figures are of the model's own distribution, softmax of the raw logits: `logprob` of the chosen token and `entropy`
    in nats, `margin` between the two largest logits (infinite where only one token is possible), `candidates` the
    likeliest tokens, as many as the sampler was asked for.
    """

    id: int
    logprob: float
    probability: float
    entropy: float
    margin: float
    candidates: tuple[Candidate, ...] = ()


class Sampler:
    """Draws tokens with one random stream, which starts at the seed of `sampling`; names as many `candidates`."""

    def __init__(self, sampling: Sampling, candidates: int = 0) -> None:
        self.sampling = sampling
        self.candidates = candidates
        self._random = np.random.Generator(np.random.PCG64(sampling.seed))
        self._ahead: list[float] = []  # looked at by `uniforms`, not used yet
        # Kept from token to token: page faults of fresh arrays make a choice among 150,000 cost 5 ms instead of 1.5.
        self._scratch = np.empty((3, 0))

    def choose(self, logits: NDArray[np.float32], history: Sequence[int]) -> Choice:
        """Choose the token that follows `history` (prompt and generated ids) from `logits` `[V]`.

        Draws one number from PCG64 and takes the first token, in id order, at which the cumulative probability of the
        kept tokens exceeds it; softmax is in float64. Raises `EngineError` where the logits are no distribution.
        """
        if self._scratch.shape[1] != logits.size:
            self._scratch = np.empty((3, logits.size))
        raw, work, sums = self._scratch
        raw[:] = logits.reshape(-1)
        if not math.isfinite(largest := float(raw.max())):
            raise no_distribution(largest, int(np.argmax(raw)), int(np.isnan(raw).sum()), raw.size)
        work[:] = raw
        penalize(work, history, self.sampling)
        if self.sampling.temperature == 0:
            chosen, probability = int(np.argmax(work)), 1.0
        else:
            kept, probabilities = candidates(work, self.sampling)
            cumulative = np.cumsum(probabilities, out=sums[: probabilities.size])
            at = int(np.searchsorted(cumulative, self._next_uniform() * cumulative[-1], side="right"))
            at = min(at, probabilities.size - 1)
            chosen, probability = at if kept is None else int(kept[at]), float(probabilities[at])
        best = top_tokens(raw, self.candidates) if self.candidates else np.zeros(0, np.int64)
        return _describe(raw, chosen, probability, work, best)

    def uniforms(self, begin: int, count: int) -> NDArray[np.float64]:
        """The numbers that choices `begin` to `begin + count - 1` from now on draw with; none where nothing is drawn.

        For an engine that chooses by itself. Looking at them uses none of them up.
        """
        if self.sampling.temperature == 0:
            return np.empty(0)
        self._ahead += self._random.random(max(begin + count - len(self._ahead), 0)).tolist()
        return np.array(self._ahead[begin : begin + count])

    def chosen_elsewhere(self) -> None:
        """Use up what the next choice draws with: an engine has made it by itself."""
        if self.sampling.temperature > 0:
            self._next_uniform()

    def _next_uniform(self) -> float:
        return self._ahead.pop(0) if self._ahead else self._random.random()


def top_tokens(logits: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """Ids of the k largest of `logits` `[V]`, the largest first, of equals the lower id first; all V where k ≥ V.

    The logits hold no NaN. Takes 0.1 ms of 150,000 logits, where a partition of them takes 1.5 ms.
    """
    whole = logits.size // _BLOCK * _BLOCK
    blocks = _at_least_largest(logits[:whole].reshape(-1, _BLOCK).max(1), k)
    inside = (blocks[:, None] * _BLOCK + np.arange(_BLOCK)).reshape(-1)
    pool = np.concatenate([inside, np.arange(whole, logits.size)])
    pool = pool[_at_least_largest(logits[pool], k)]
    return pool[np.argsort(-logits[pool], kind="stable")[:k]]


def _at_least_largest(values: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """Indices of the k largest of `values`, ascending, with all that equal the last of them; all where there are no
    more than k."""
    if values.size <= k:
        return np.arange(values.size)
    return np.flatnonzero(values >= np.partition(values, -k)[-k])


def penalize(logits: NDArray[np.float64], history: Sequence[int], sampling: Sampling) -> None:
    """Apply the repeat penalty to `logits` `[V]` in place, once to each token in the last `repeat_last_n`."""
    if sampling.repeat_penalty == 1 or sampling.repeat_last_n == 0 or not history:
        return
    seen = np.unique(np.asarray(history[-sampling.repeat_last_n :], np.int64))
    values = logits[seen]
    logits[seen] = np.where(values > 0, values / sampling.repeat_penalty, values * sampling.repeat_penalty)


def candidates(logits: NDArray[np.float64], sampling: Sampling) -> tuple[NDArray[np.int64] | None, NDArray[np.float64]]:
    """The token ids that may be drawn, ascending (None for all), and their probabilities, at a temperature above 0.

    Overwrites `logits` `[V]`.
    """
    ids: NDArray[np.int64] | None = None
    logits -= logits.max()
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the largest to -Inf, as it should
        logits /= sampling.temperature
    softmax(logits)
    probabilities = logits
    for keep in _filters(sampling):
        which = keep(probabilities)
        probabilities = probabilities[which]
        probabilities /= probabilities.sum()
        ids = which if ids is None else ids[which]
    return ids, probabilities


def softmax(logits: NDArray[np.float64]) -> None:
    """Turn `logits` `[V]` into probabilities in place; -Inf gives 0."""
    logits -= logits.max()
    np.exp(logits, out=logits)
    logits /= logits.sum()


def _filters(sampling: Sampling) -> Iterator[Callable[[NDArray[np.float64]], NDArray[np.int64]]]:
    """The filters that are on, each from probabilities to the ascending indices it keeps."""
    if sampling.top_k:
        yield lambda probabilities: _largest(probabilities, min(sampling.top_k, probabilities.size))
    if sampling.top_p < 1:
        yield lambda probabilities: np.sort(_nucleus(probabilities, sampling.top_p))
    if sampling.min_p > 0:
        yield lambda probabilities: np.flatnonzero(probabilities >= sampling.min_p * probabilities.max())


def _largest(probabilities: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Indices of the k largest, ascending; of equals the first ones."""
    bound = np.partition(probabilities, -k)[-k]
    above = np.flatnonzero(probabilities > bound)
    equal = np.flatnonzero(probabilities == bound)
    return np.sort(np.concatenate([above, equal[: k - above.size]]))


def _nucleus(probabilities: NDArray[np.float64], top_p: float) -> NDArray[np.int64]:
    """Indices of the fewest largest that together reach `top_p` (Holtzman et al. 2020, arXiv:1904.09751)."""
    # Sorting a vocabulary of 150,000 costs as much as half a token of a small model; the nucleus is rarely this large.
    for size in (min(1024, probabilities.size), probabilities.size):
        largest = np.arange(size) if size == probabilities.size else _largest(probabilities, size)
        order = largest[np.argsort(-probabilities[largest], kind="stable")]
        reached = int(np.searchsorted(np.cumsum(probabilities[order]), top_p)) + 1
        if reached <= size:
            break
    return order[:reached]


def no_distribution(largest: float, at: int, nan: int, vocabulary: int) -> EngineError:
    """The error of logits whose `largest`, at token id `at`, is not finite; `nan` of them are NaN, the first `at`."""
    if nan:
        what = f"{nan} of {vocabulary} logits are NaN (first: token id {at})"
    elif largest == math.inf:
        what = f"the logit of token id {at} is +Inf"
    else:
        what = "all logits are -Inf"
    return EngineError(f"no token can be chosen: {what}; `aprtui trace` shows the stage where it starts")


def _describe(
    logits: NDArray[np.float64], chosen: int, probability: float, weights: NDArray[np.float64], best: NDArray[np.int64]
) -> Choice:
    """The choice with the figures of `logits`, and the tokens `best`; overwrites `logits` and `weights`, both `[V]`."""
    first = int(np.argmax(logits))
    logits -= logits[first]
    np.exp(logits, out=weights)
    total = float(weights.sum())
    logprob = float(logits[chosen]) - math.log(total)
    found = tuple(map(Candidate, best.tolist(), (weights[best] / total).tolist()))
    logits[first] = -math.inf
    margin = -float(logits.max())
    # The first has weight 1 and difference 0; -Inf logits have weight 0 and must not turn the sum into NaN.
    weights[first] = 0
    np.maximum(logits, -1e300, out=logits)
    # Not a dot product: BLAS would share it among threads, which costs 8 ms beside a busy engine.
    logits *= weights
    entropy = math.log(total) - float(logits.sum()) / total
    return Choice(chosen, logprob, probability, max(entropy, 0.0), margin, found)
