"""A run as the live screen knows it: its tokens with their figures, their names, and which of them is looked at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from aprtui.engine.logit_noise import LogitNoise
from aprtui.engine.process.messages import Started, TokenText
from aprtui.engine.process.slots import RING
from aprtui.tui.draw.signals import TintSignal, TokenFigures, tint


@dataclass(frozen=True, slots=True)
class Timeline:
    """Which token of a run is looked at, and which can be.

    `first_record` is the record number of the first token, `at` the index of the token looked at; None is the newest.
    """

    first_record: int = 0
    tokens: int = 0
    at: int | None = None

    @property
    def live(self) -> bool:
        """Whether the newest token is looked at, whichever that is."""
        return self.at is None

    @property
    def index(self) -> int:
        """Index of the token that is looked at; −1 before the first."""
        return self.tokens - 1 if self.at is None else self.at

    @property
    def record(self) -> int:
        return self.first_record + self.index

    @property
    def oldest(self) -> int:
        """Index of the oldest token whose record is kept."""
        return max(0, self.tokens - RING)

    def grown(self, records: int) -> Timeline:
        """The same run once `records` have been written in all."""
        return replace(self, tokens=max(records - self.first_record, 0))

    def moved(self, by: int) -> Timeline:
        """Look at another token; beyond the newest one lies the present."""
        return self.at_token(self.index + by) if self.tokens else self

    def at_token(self, index: int) -> Timeline:
        """Look at token `index`, or at the nearest one that is kept; the newest one means the present."""
        return replace(self, at=None if index >= self.tokens - 1 else max(index, self.oldest))

    def to_live(self) -> Timeline:
        return replace(self, at=None)

    @property
    def place(self) -> str:
        """Where in the run this is: `token 17 of 40`."""
        return f"token {self.index + 1} of {self.tokens}" if self.tokens else "no token yet"

    def words(self) -> str:
        """The same, and in the past how much of it can be looked at."""
        available = f", the last {RING} kept" if self.tokens > RING else ", all kept"
        return self.place if self.live else self.place + available


@dataclass(slots=True)
class LiveRun:
    """The run on the screen. Names and noise outlive it: they belong to the model."""

    names: dict[int, str] = field(default_factory=dict)
    noise: LogitNoise | None = None
    prompt: tuple[int, ...] = ()
    tokens: list[TokenFigures] = field(default_factory=list)
    timeline: Timeline = field(default_factory=Timeline)

    def begin(self, event: Started) -> None:
        self.prompt, self.tokens = event.tokens, []
        self.timeline = Timeline(event.first_record)

    def forget(self) -> None:
        self.prompt, self.tokens, self.timeline = (), [], Timeline()

    def add(self, event: TokenText) -> None:
        name = self.names.get(event.id, event.text)
        self.tokens.append(TokenFigures(name, event.id, event.logprob, event.entropy, event.margin))

    @property
    def token(self) -> TokenFigures | None:
        """The token that is looked at; None where there is none, or the pass gave none."""
        index = self.timeline.index
        return self.tokens[index] if 0 <= index < len(self.tokens) else None

    @property
    def ids(self) -> list[int]:
        return [*self.prompt, *(token.id for token in self.tokens)]

    def tints(self, signal: TintSignal) -> list[int | None]:
        return [tint(signal, token, self.noise) for token in self.tokens]
