"""The next token, chosen on the device: its figures come to the host, the logits need not.

Choices go into a ring, so that passes can follow one another while nobody looks at each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.cuda.arguments import Greedy, TopCandidates
from aprtui.engine.cuda.choices import CANDIDATE, CHOSEN, greedy_choice
from aprtui.engine.cuda.driver import Driver, Launch
from aprtui.engine.cuda.launches import Launches, blocks_of_choice
from aprtui.engine.cuda.storage import Storage
from aprtui.engine.sampling import Choice

RING = 16
"""Choices that are kept: two batches, one that is read while the other one is made."""

MOST_CANDIDATES = 64

_PART = 40  # bytes of `Part` in sample.cu


@dataclass(frozen=True, slots=True)
class Rings:
    """The last choices `[RING]`, and the likeliest tokens at each, `[RING · candidates]`."""

    chosen: NDArray[np.void]
    candidates: NDArray[np.void]
    vocabulary: int

    def __getitem__(self, ordinal: int) -> Choice:
        """Choice number `ordinal` since the host told the device where to begin.

        Raises `EngineError` where the logits were no distribution.
        """
        place, count = ordinal % RING, self.candidates.size // RING
        return greedy_choice(self.chosen[place], self.candidates[place * count : (place + 1) * count], self.vocabulary)


class Choosing:
    """Rings of choices on the device and on the host, and what fills them."""

    def __init__(self, driver: Driver, launches: Launches, storage: Storage, vocabulary: int) -> None:
        self._driver, self._launches, self._storage, self._vocabulary = driver, launches, storage, vocabulary
        of_greedy, of_candidates = blocks_of_choice(vocabulary)
        self._parts = driver.allocate(_PART * of_greedy)
        self._keys = driver.allocate(8 * MOST_CANDIDATES * of_candidates)
        self._chosen = driver.allocate(RING * CHOSEN.itemsize)
        self._candidates = driver.allocate(RING * MOST_CANDIDATES * CANDIDATE.itemsize)
        self._host_chosen: NDArray[np.void] = driver.pinned(RING, CHOSEN)
        self._host_candidates: NDArray[np.void] = driver.pinned(RING * MOST_CANDIDATES, CANDIDATE)

    def launches(self, candidates: int) -> list[Launch]:
        """The end of a pass: name that many `candidates`, choose, and make the choice the token of the next pass."""
        storage, counter = self._storage, self._storage.counters
        greedy = Greedy(
            storage.logits, self._vocabulary, storage.step, storage.tokens, self._chosen, RING, self._parts, counter
        )  # fmt: skip
        named = []
        if candidates:
            top = TopCandidates(
                storage.logits, self._vocabulary, candidates, storage.step, self._candidates, RING, self._keys, counter
            )  # fmt: skip
            named = [self._launches.top_candidates(top)]
        return [*named, self._launches.greedy(greedy)]

    def fetch(self, candidates: int) -> None:
        """Queue the copies of both rings."""
        self._driver.copy_out(self._host_chosen, self._chosen)
        if candidates:
            self._driver.copy_out(self._host_candidates[: RING * candidates], self._candidates)

    def found(self, candidates: int) -> Rings:
        """A copy of what was fetched."""
        return Rings(self._host_chosen.copy(), self._host_candidates[: RING * candidates].copy(), self._vocabulary)
