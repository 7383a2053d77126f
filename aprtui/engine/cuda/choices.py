"""Reading, on the host, what `kernels/sample.cu` has written about a choice made on the device."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.sampling import Candidate, Choice, no_distribution

CHOSEN = np.dtype(
    [
        ("total", "<f8"),
        ("weighted", "<f8"),
        ("largest", "<f4"),
        ("second", "<f4"),
        ("id", "<i4"),
        ("position", "<i4"),
        ("ordinal", "<i4"),
        ("nan", "<i4"),
    ]
)
"""`Chosen` of sample.cu, an entry of the ring that `greedy` writes."""
DRAWN = np.dtype([("probability", "<f8"), ("logit", "<f4"), ("id", "<i4")])
"""`Drawn` of sample.cu, an entry of the ring that `draw` writes."""
CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4")])
"""`Candidate` of sample.cu; the ring that `top_candidates` writes is `[ring_size, count]` of them."""


def greedy_choice(chosen: np.void, candidates: NDArray[np.void], vocabulary: int) -> Choice:
    """The choice that `chosen` (of type `CHOSEN`) describes, with `candidates` `[count]` (of type `CANDIDATE`).

    What `Sampler(GREEDY, count).choose` says of the same logits; raises its `EngineError` for logits that are no
    distribution.
    """
    largest, total = float(chosen["largest"]), float(chosen["total"])
    if not math.isfinite(largest):
        raise no_distribution(largest, int(chosen["id"]), int(chosen["nan"]), vocabulary)
    logprob = -math.log(total)
    entropy = max(float(chosen["weighted"]) / -total - logprob, 0.0)
    real = candidates[candidates["id"] >= 0]
    probabilities = np.exp(real["logit"].astype(np.float64) - largest) / total
    found = tuple(map(Candidate, real["id"].tolist(), probabilities.tolist()))
    return Choice(int(chosen["id"]), logprob, 1.0, entropy, largest - float(chosen["second"]), found)


def drawn_choice(drawn: np.void, chosen: np.void, candidates: NDArray[np.void], vocabulary: int) -> Choice:
    """The choice that `drawn` (of type `DRAWN`) describes, with the rest as in `greedy_choice`.

    What `Sampler.choose` says of the same logits at the same temperature.
    """
    likeliest = greedy_choice(chosen, candidates, vocabulary)
    logprob = float(drawn["logit"]) - float(chosen["largest"]) + likeliest.logprob
    return replace(likeliest, id=int(drawn["id"]), logprob=logprob, probability=float(drawn["probability"]))
