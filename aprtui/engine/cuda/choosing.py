"""Choosing the next token on the device: the host gets the figures of the choice and needs no logits.

Choices are written to rings, so that several passes can be queued before the host reads them; the random numbers come
from a ring as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cuda.arguments import Draw, Greedy, TopCandidates
from aprtui.engine.cuda.driver import Driver, Launch
from aprtui.engine.cuda.launches import Launches, blocks_of_choice
from aprtui.engine.cuda.storage import DeviceStorage
from aprtui.engine.sampling import Candidate, Choice, no_distribution

RING = 16
"""Choices that a ring holds: two batches, both of them queued. The host has its copy of the one before them."""

MOST_CANDIDATES = 64

CHOSEN = np.dtype(
    [
        ("total", "<f8"), ("weighted", "<f8"), ("largest", "<f4"), ("second", "<f4"),
        ("id", "<i4"), ("position", "<i4"), ("ordinal", "<i4"), ("nan", "<i4"),
    ]
)  # fmt: skip
"""`Chosen` of sample.cu, an entry of the ring that `greedy` writes."""
DRAWN = np.dtype([("probability", "<f8"), ("logit", "<f4"), ("id", "<i4")])
"""`Drawn` of sample.cu, an entry of the ring that `draw` writes."""
CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4")])
"""`Candidate` of sample.cu; the ring that `top_candidates` writes is `[ring_size, count]` of them."""

_PART = 40  # bytes of `Part` in sample.cu


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


@dataclass(frozen=True, slots=True)
class ChoiceRule:
    """How the device chooses, and how many candidates it names; the same for all passes of a generation."""

    candidates: int = 0
    temperature: float = 0.0
    """0 takes the most probable token and draws nothing."""
    min_p: float = 0.0

    @property
    def draws(self) -> bool:
        """Whether each choice takes a random number."""
        return self.temperature > 0


@dataclass(frozen=True, slots=True)
class Rings:
    """The device's last choices: most probable tokens and draws `[RING]`, candidates `[RING · candidates]`."""

    rule: ChoiceRule
    chosen: NDArray[np.void]
    drawn: NDArray[np.void]
    candidates: NDArray[np.void]
    vocabulary: int

    def __getitem__(self, ordinal: int) -> Choice:
        """Choice number `ordinal` since `begin`.

        Raises `EngineError` where the logits were no distribution.
        """
        place, count = ordinal % RING, self.rule.candidates
        chosen, candidates = self.chosen[place], self.candidates[place * count : (place + 1) * count]
        if self.rule.draws:
            return drawn_choice(self.drawn[place], chosen, candidates, self.vocabulary)
        return greedy_choice(chosen, candidates, self.vocabulary)


class Choosing:
    """Rings of choices on the device and on the host, with the launches and copies that fill them."""

    def __init__(self, driver: Driver, launches: Launches, storage: DeviceStorage, vocabulary: int) -> None:
        self._driver, self._launches, self._storage, self._vocabulary = driver, launches, storage, vocabulary
        of_greedy, of_candidates = blocks_of_choice(vocabulary)
        self._parts = driver.allocate(_PART * of_greedy)
        self._keys = driver.allocate(8 * MOST_CANDIDATES * of_candidates)
        self._chosen = driver.allocate(RING * CHOSEN.itemsize)
        self._drawn = driver.allocate(RING * DRAWN.itemsize)
        self._candidates = driver.allocate(RING * MOST_CANDIDATES * CANDIDATE.itemsize)
        self._uniforms = driver.allocate(RING * 8)
        self._host_chosen: NDArray[np.void] = driver.pinned(RING, CHOSEN)
        self._host_drawn: NDArray[np.void] = driver.pinned(RING, DRAWN)
        self._host_candidates: NDArray[np.void] = driver.pinned(RING * MOST_CANDIDATES, CANDIDATE)
        self._host_uniforms: NDArray[np.float64] = driver.pinned(RING, np.float64)
        self._sent = 0

    def launches(self, rule: ChoiceRule) -> list[Launch]:
        """The end of a pass: name candidates, choose, and make the choice the token of the next pass."""
        storage, counter, named = self._storage, self._storage.counters, list[Launch]()
        if rule.candidates:
            top = TopCandidates(
                storage.logits, self._vocabulary, rule.candidates, storage.step, self._candidates, RING, self._keys,
                counter,
            )  # fmt: skip
            named = [self._launches.top_candidates(top)]
        greedy = Greedy(
            storage.logits, self._vocabulary, storage.step, 0 if rule.draws else storage.tokens, self._chosen, RING,
            self._parts, counter,
        )  # fmt: skip
        named.append(self._launches.greedy(greedy))
        if rule.draws:
            draw = Draw(
                storage.logits, self._vocabulary, rule.temperature, rule.min_p, self._uniforms, self._chosen,
                storage.step, storage.tokens, self._drawn, RING, self._parts, counter,
            )  # fmt: skip
            named.append(self._launches.draw(draw))
        return named

    def begin(self) -> None:
        """The next choice has the ordinal 0."""
        self._sent = 0

    def send_uniforms(self, uniforms: NDArray[np.float64]) -> None:
        """Queue the copy of the next choices' random numbers; those of choices not made yet stay in place."""
        if uniforms.size:
            self._host_uniforms[(self._sent + np.arange(uniforms.size)) % RING] = uniforms
            self._sent += uniforms.size
            self._driver.copy_in(self._uniforms, self._host_uniforms)

    def fetch(self, rule: ChoiceRule) -> None:
        """Queue the copies of the rings to the host."""
        self._driver.copy_out(self._host_chosen, self._chosen)
        if rule.draws:
            self._driver.copy_out(self._host_drawn, self._drawn)
        if rule.candidates:
            self._driver.copy_out(self._host_candidates[: RING * rule.candidates], self._candidates)

    def found(self, rule: ChoiceRule) -> Rings:
        """A copy of the rings that were fetched."""
        candidates = self._host_candidates[: RING * rule.candidates].copy()
        return Rings(rule, self._host_chosen.copy(), self._host_drawn.copy(), candidates, self._vocabulary)
