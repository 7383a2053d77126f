"""What a live screen knows of the run it shows: its tokens with their figures, their names, and where one looks."""

from __future__ import annotations

from dataclasses import dataclass, field

from aprtui.engine.logit_noise import LogitNoise
from aprtui.engine.process.messages import Started, TokenText
from aprtui.tui.draw.signals import Signal, TokenFigures, tint
from aprtui.tui.screens.live.timeline import Timeline


@dataclass(slots=True)
class LiveRun:
    """One run. Names and noise outlive it: they belong to the model."""

    names: dict[int, str] = field(default_factory=dict)
    noise: LogitNoise | None = None
    prompt: tuple[int, ...] = ()
    tokens: list[TokenFigures] = field(default_factory=list)
    timeline: Timeline = field(default_factory=Timeline)

    def begin(self, event: Started) -> None:
        """Forget the run before."""
        self.prompt, self.tokens = event.tokens, []
        self.timeline = Timeline(event.first_record)

    def forget(self) -> None:
        """No run any more: the process that made it is gone."""
        self.prompt, self.tokens, self.timeline = (), [], Timeline()

    def add(self, event: TokenText) -> None:
        """One more token."""
        name = self.names.get(event.id, event.text)
        self.tokens.append(TokenFigures(name, event.id, event.logprob, event.entropy, event.margin))

    @property
    def shown(self) -> TokenFigures | None:
        """The token that is looked at; None where there is none, or the pass gave none."""
        index = self.timeline.shown
        return self.tokens[index] if 0 <= index < len(self.tokens) else None

    @property
    def ids(self) -> list[int]:
        """All token ids of the run so far."""
        return [*self.prompt, *(token.id for token in self.tokens)]

    def tint(self, signal: Signal, index: int = -1) -> int | None:
        """The tint of a token, of the newest by default."""
        return tint(signal, self.tokens[index], self.noise)

    def tints(self, signal: Signal) -> list[int | None]:
        """The tints of all tokens."""
        return [tint(signal, token, self.noise) for token in self.tokens]
