"""The next token, chosen on the device: its figures come to the host, the logits need not.

Choices are written to rings, so that several passes can be queued before the host reads them; the random numbers come
from a ring as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cuda.arguments import Draw, Greedy, TopCandidates
from aprtui.engine.cuda.choices import CANDIDATE, CHOSEN, DRAWN, drawn_choice, greedy_choice
from aprtui.engine.cuda.driver import Driver, Launch
from aprtui.engine.cuda.launches import Launches, blocks_of_choice
from aprtui.engine.cuda.storage import DeviceStorage
from aprtui.engine.sampling import Choice

RING = 16
"""Choices that a ring holds: two batches, one that is read while the other is made."""

MOST_CANDIDATES = 64

_PART = 40  # bytes of `Part` in sample.cu


@dataclass(frozen=True, slots=True)
class ChoiceRule:
    """How the device chooses, and how many candidates it names: what is the same for all passes of a generation."""

    candidates: int = 0
    temperature: float = 0.0
    """0 takes the most probable token and draws nothing."""
    min_p: float = 0.0

    @property
    def draws(self) -> bool:
        """Whether each choice takes a number."""
        return self.temperature > 0


@dataclass(frozen=True, slots=True)
class Rings:
    """What the device left of its last choices: most probable tokens and draws `[RING]`, `[RING · candidates]`."""

    rule: ChoiceRule
    chosen: NDArray[np.void]
    drawn: NDArray[np.void]
    candidates: NDArray[np.void]
    vocabulary: int

    def __getitem__(self, ordinal: int) -> Choice:
        """Choice number `ordinal` since the host told the device where to begin.

        Raises `EngineError` where the logits were no distribution.
        """
        place, count = ordinal % RING, self.rule.candidates
        chosen, candidates = self.chosen[place], self.candidates[place * count : (place + 1) * count]
        if self.rule.draws:
            return drawn_choice(self.drawn[place], chosen, candidates, self.vocabulary)
        return greedy_choice(chosen, candidates, self.vocabulary)


class Choosing:
    """Rings of choices on the device and on the host, and what fills them."""

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
        """Queue the copy of what the next choices draw with; numbers of choices that are not made yet stay in place."""
        if uniforms.size:
            self._host_uniforms[(self._sent + np.arange(uniforms.size)) % RING] = uniforms
            self._sent += uniforms.size
            self._driver.copy_in(self._uniforms, self._host_uniforms)

    def fetch(self, rule: ChoiceRule) -> None:
        """Queue the copies of what choices leave."""
        self._driver.copy_out(self._host_chosen, self._chosen)
        if rule.draws:
            self._driver.copy_out(self._host_drawn, self._drawn)
        if rule.candidates:
            self._driver.copy_out(self._host_candidates[: RING * rule.candidates], self._candidates)

    def found(self, rule: ChoiceRule) -> Rings:
        """A copy of what was fetched."""
        candidates = self._host_candidates[: RING * rule.candidates].copy()
        return Rings(rule, self._host_chosen.copy(), self._host_drawn.copy(), candidates, self._vocabulary)
