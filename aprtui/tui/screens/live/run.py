"""A run as the live screen knows it: its turns with the tokens of each answer, and which token is looked at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from aprtui.engine.logit_noise import LogitNoise
from aprtui.engine.process.messages import Started, TokenText
from aprtui.model.prompt import ChatPrompt, Exchange
from aprtui.tui.draw.signals import TintSignal, TokenFigures, tint


@dataclass(frozen=True, slots=True)
class Timeline:
    """Which token of a run is looked at, and which can be: those of all answers, in order.

    `answers` are the records of the answers that are over, `first_record` is the number of the first record of the
    answer that goes on (None before there is one), and `written` records exist in all, kept from number `first_kept`
    on. `at` is the index of the token looked at; None is the newest.
    """

    first_record: int | None = None
    written: int = 0
    at: int | None = None
    answers: tuple[range, ...] = ()
    first_kept: int = 0

    @property
    def live(self) -> bool:
        """Whether the newest token is looked at, whichever that is."""
        return self.at is None

    @property
    def tokens(self) -> int:
        return sum(map(len, self._records))

    @property
    def index(self) -> int:
        """Index of the token that is looked at; −1 before the first."""
        return self.tokens - 1 if self.at is None else self.at

    @property
    def record(self) -> int:
        """Number of the record of the token looked at; −1 where there is none."""
        index = self.index
        for records in self._records:
            if index < len(records):
                return records[index] if index >= 0 else -1
            index -= len(records)
        return -1

    @property
    def oldest(self) -> int:
        """Index of the oldest token whose record is kept."""
        return sum(min(max(self.first_kept - records.start, 0), len(records)) for records in self._records)

    @property
    def _records(self) -> tuple[range, ...]:
        first = self.written if self.first_record is None else self.first_record
        return (*self.answers, range(first, max(self.written, first)))

    def grown(self, records: int, first_kept: int = 0) -> Timeline:
        """The same run once `records` have been written in all, and are kept from number `first_kept` on."""
        return replace(self, written=records, first_kept=first_kept)

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
        available = f", the last {self.tokens - self.oldest} kept" if self.oldest else ", all kept"
        return self.place if self.live else self.place + available


@dataclass(slots=True)
class Turn:
    """What the user said, and what the model answers.

    `request` is what the engine was asked for: the turn of a conversation, or a text to continue. `prompt` is all that
    the model was given, special tokens and earlier turns included, and `ids` the same as tokens. `pieces` are the text
    of the answer, one for each token.
    """

    request: str | ChatPrompt
    prompt: str
    ids: tuple[int, ...]
    first_record: int
    tokens: list[TokenFigures] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    @property
    def said(self) -> str:
        return self.request.user if isinstance(self.request, ChatPrompt) else self.request

    @property
    def answer(self) -> str:
        return "".join(self.pieces)

    @property
    def records(self) -> range:
        return range(self.first_record, self.first_record + len(self.tokens))


def earlier_turns(prompt: ChatPrompt | None) -> list[Turn]:
    """What was said before `prompt`, as far as it is known: texts without tokens."""
    earlier = () if prompt is None else prompt.earlier
    system = "" if prompt is None else prompt.system
    return [Turn(ChatPrompt(said.user, system), "", (), 0, pieces=[said.answer]) for said in earlier]


@dataclass(slots=True)
class LiveRun:
    """The run on the screen: a conversation, or a text that is continued. Names and noise outlive it: they belong to
    the model."""

    names: dict[int, str] = field(default_factory=dict)
    special: set[int] = field(default_factory=set)
    noise: LogitNoise | None = None
    turns: list[Turn] = field(default_factory=list)
    timeline: Timeline = field(default_factory=Timeline)

    @property
    def is_chat(self) -> bool:
        return bool(self.turns) and isinstance(self.turns[-1].request, ChatPrompt)

    def following(self, said: str, system: str) -> ChatPrompt:
        """The next turn of the conversation, or the first one of another."""
        turns = self.turns if self.is_chat else []
        exchanges = tuple(Exchange(turn.said, turn.answer) for turn in turns)
        return ChatPrompt(said, system, exchanges, tuple(self.ids) if turns else ())

    def begin(self, event: Started, request: str | ChatPrompt) -> None:
        """A generation has begun; a turn that is asked for again takes the place of the first one."""
        self.turns = self.turns[: len(request.earlier)] if isinstance(request, ChatPrompt) else []
        self.timeline = Timeline(
            event.first_record, event.first_record, None, tuple(turn.records for turn in self.turns)
        )
        self.turns.append(Turn(request, event.prompt, event.tokens, event.first_record))

    def forget(self) -> None:
        """Begin anew; a conversation as well."""
        self.turns, self.timeline = [], Timeline()

    def lose_records(self) -> None:
        """The engine starts again: what was said stays, the records of it are gone."""
        for turn in self.turns:
            turn.first_record = -len(turn.tokens)
        self.timeline = Timeline(answers=tuple(turn.records for turn in self.turns))

    def add(self, event: TokenText) -> None:
        name = self.names.get(event.id, event.text)
        self.turns[-1].tokens.append(TokenFigures(name, event.id, event.logprob, event.entropy, event.margin))
        self.turns[-1].pieces.append(event.text)

    def finish(self, tail: str) -> None:
        """Add the stand-in for an unfinished character."""
        if tail and self.turns and self.turns[-1].pieces:
            self.turns[-1].pieces[-1] += tail

    @property
    def tokens(self) -> list[TokenFigures]:
        """The tokens of all answers."""
        return [token for turn in self.turns for token in turn.tokens]

    @property
    def token(self) -> TokenFigures | None:
        """The token that is looked at; None where there is none, or the pass gave none."""
        turn, index = self.place
        return turn.tokens[index] if turn is not None and 0 <= index < len(turn.tokens) else None

    @property
    def place(self) -> tuple[Turn | None, int]:
        """The turn that is looked at, and the index of the token in its answer, −1 before the first."""
        index = self.timeline.index
        for turn in self.turns[:-1]:
            if index < len(turn.tokens) and not self.timeline.live:
                return turn, index
            index -= len(turn.tokens)
        return (self.turns[-1], index) if self.turns else (None, -1)

    @property
    def ids(self) -> list[int]:
        """Every token so far: what was said and what was answered."""
        return [*self.turns[-1].ids, *(token.id for token in self.turns[-1].tokens)] if self.turns else []

    def tints(self, signal: TintSignal) -> list[int | None]:
        return [tint(signal, token, self.noise) for token in self.tokens]
