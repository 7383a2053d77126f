"""Time travel: which token of a run is looked at, and which can be."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aprtui.engine.process.slots import RING


@dataclass(frozen=True, slots=True)
class Timeline:
    """The tokens of one run. `first_record` is the record number of the first; `at` is looked at, None: the newest."""

    first_record: int = 0
    tokens: int = 0
    at: int | None = None

    @property
    def live(self) -> bool:
        """Whether the newest token is looked at, whichever that is."""
        return self.at is None

    @property
    def shown(self) -> int:
        """Index of the token that is looked at; −1 before the first."""
        return self.tokens - 1 if self.at is None else self.at

    @property
    def record(self) -> int:
        """Record number of the token that is looked at."""
        return self.first_record + self.shown

    @property
    def oldest(self) -> int:
        """Index of the oldest token whose record is kept."""
        return max(0, self.tokens - RING)

    def grown(self, records: int) -> Timeline:
        """The same run when `records` have been written in all."""
        return replace(self, tokens=max(records - self.first_record, 0))

    def moved(self, by: int) -> Timeline:
        """Look at another token; beyond the newest one lies the present."""
        return self.at_token(self.shown + by) if self.tokens else self

    def at_token(self, index: int) -> Timeline:
        """Look at token `index`, or at the nearest one that is kept; the newest one means the present."""
        return replace(self, at=None if index >= self.tokens - 1 else max(index, self.oldest))

    def to_live(self) -> Timeline:
        """Look at the newest token."""
        return replace(self, at=None)

    @property
    def place(self) -> str:
        """Where in the run this is: `token 17 of 40`."""
        return f"token {self.shown + 1} of {self.tokens}" if self.tokens else "no token yet"

    def words(self) -> str:
        """The same, and in the past how much of it can be looked at."""
        kept = f", the last {RING} kept" if self.tokens > RING else ", all kept"
        return self.place if self.live else self.place + kept
