"""The generation loop: prefill, choose, decode, until something ends it; and teacher-forced evaluation.

The loop is an iterator that does one forward pass for each token taken from it: a caller that takes no more pauses it,
at no cost.
Shape letters: T = tokens, V = vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.protocol import NO_TAPS, ChoosingEngine, Engine, Logits, Taps
from aprtui.engine.sampling import GREEDY, Choice, Sampler, Sampling
from aprtui.errors import UsageError
from aprtui.model.tokenizer import StreamDecoder, Tokenizer

PREFILL_CHUNK = 512
"""Most prompt tokens evaluated between two looks at `cancelled`."""

WATCHED_CHUNK = 256
"""The same where taps watch the pass, which may end it between two layers: 0.13 s each of a 0.5B model on one core."""


class PassCancelled(Exception):  # noqa: N818 - nothing is wrong
    """What a tap sink raises to end the pass that it is given; the generation then ends as cancelled."""


class StopReason(StrEnum):
    STOP_TOKEN = "stop token"
    LENGTH = "length"
    CONTEXT_FULL = "context full"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One generated token.

    `text` is what has become certain with it: empty while a character is still incomplete. `position` is the token's
    own index in the sequence; the pass that chose it evaluated the positions before. `seconds` is the time that pass
    and the choice took (for the first token: the whole prefill).
    """

    id: int
    text: str
    position: int
    seconds: float
    choice: Choice


@dataclass(slots=True)
class Timing:
    """Seconds of evaluation, pauses excluded."""

    prompt_tokens: int = 0
    """Those that were evaluated: without what the engine held already."""
    prefill_seconds: float = 0.0
    """Until the first token was chosen."""
    decoded_tokens: int = 0
    decode_seconds: float = 0.0

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens evaluated in a second; 0 before the prefill has ended."""
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens decoded in a second, the first (which the prefill gives) not counted; 0 before the second token."""
        return self.decoded_tokens / self.decode_seconds if self.decode_seconds else 0.0


class Generation(Iterator[GeneratedToken]):
    """A running generation: iterate for tokens; `stop_reason`, `tail` and `timing` are final once it is exhausted."""

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer | None, prompt: list[int], sampler: Sampler, max_tokens: int,
        taps: Taps, logits: Logits, stop_ids: Collection[int], cancelled: Callable[[], bool], kept: int,
    ) -> None:  # fmt: skip
        self.stop_reason: StopReason | None = None
        self.timing = Timing()
        self.tail = ""
        """Text of an incomplete character at the end, as U+FFFD; to be printed after the last token."""
        self.kept = kept
        """Positions of the prompt that the engine had evaluated before, and that were not evaluated again."""
        self.taps = taps
        """Of the passes from the next one on; may be changed between two tokens."""
        self._engine, self._sampler, self._logits, self._cancelled = engine, sampler, logits, cancelled
        # Asked once: `isinstance` with a protocol takes 40 µs.
        self._choosing = engine if isinstance(engine, ChoosingEngine) else None
        self._history = prompt
        self._pending = -1
        """History entries from here on are not evaluated yet; -1 before the first pass."""
        self._choices: Iterator[Choice] | None = None
        """Of an engine that chooses by itself, with the taps `_tapped`."""
        self._tapped = NO_TAPS
        self._tokens = self._run(tokenizer, max_tokens, stop_ids)

    def __next__(self) -> GeneratedToken:
        return next(self._tokens)

    def _run(self, tokenizer: Tokenizer | None, max_tokens: int, stop_ids: Collection[int]) -> Iterator[GeneratedToken]:
        decoder = None if tokenizer is None else StreamDecoder(tokenizer)
        engine = self._engine
        self.stop_reason = StopReason.LENGTH
        for made in range(max_tokens):
            if made and engine.position >= engine.context:
                self.stop_reason = StopReason.CONTEXT_FULL
                break
            choice, seconds = self._step()
            if choice is None or choice.id in stop_ids:
                self.stop_reason = StopReason.CANCELLED if choice is None else StopReason.STOP_TOKEN
                break
            text = "" if decoder is None else decoder.push(choice.id)
            yield GeneratedToken(choice.id, text, engine.position, seconds, choice)
        self.tail = "" if decoder is None else decoder.finish()

    def _step(self) -> tuple[Choice | None, float]:
        """The next choice and the seconds it took; no choice where the generation was cancelled."""
        started = time.perf_counter()
        prefill = self._pending < 0
        choice = self._prefill() if prefill else self._decode()
        if choice is None:
            return None, 0.0
        self._pending = len(self._history)
        self._history.append(choice.id)
        seconds, timing = time.perf_counter() - started, self.timing
        if prefill:
            timing.prompt_tokens, timing.prefill_seconds = self._pending - self.kept, seconds
        else:
            timing.decoded_tokens += 1
            timing.decode_seconds += seconds
        return choice, seconds

    def _prefill(self) -> Choice | None:
        self._engine.reset(self.kept)
        tokens, logits = self._history[self.kept :], None
        most = PREFILL_CHUNK if self.taps is NO_TAPS else WATCHED_CHUNK
        for chunk in np.array_split(tokens, -(-len(tokens) // most)):
            if self._cancelled():
                return None
            try:
                logits = self._forward(chunk.tolist())
            except PassCancelled:
                return None
        assert logits is not None
        return self._sampler.choose(logits[-1], self._history)

    def _decode(self) -> Choice | None:
        if self._cancelled():
            return None
        if self._choosing is not None and self._choosing.can_choose(self._sampler.sampling):
            return self._chosen_by(self._choosing)
        return self._sampler.choose(self._forward(self._history[self._pending :])[-1], self._history)

    def _chosen_by(self, engine: ChoosingEngine) -> Choice:
        """The engine's own choice; it starts again where the taps have changed."""
        taps = self.taps
        if self._choices is None or self._tapped != taps:
            self._choices, self._tapped = engine.choose(self._history[-1], self._sampler, taps), taps
        return next(self._choices)

    def _forward(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        return self._engine.forward(tokens, self.taps, self._logits)


def generate(
    engine: Engine,
    tokenizer: Tokenizer | None,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    sampling: Sampling = GREEDY,
    taps: Taps = NO_TAPS,
    logits: Logits = Logits.LAST,
    stop_ids: Collection[int] = frozenset(),
    candidates: int = 0,
    cancelled: Callable[[], bool] = lambda: False,
    held: Sequence[int] = (),
) -> Generation:
    """Evaluate `prompt` from an empty context and generate up to `max_tokens` tokens after it.

    Where `held` names the first tokens that `engine` has evaluated since its last reset, those that the prompt begins
    with are kept and only the others are evaluated, at least the last one.

    A token in `stop_ids` ends the generation and is not given out. The last token given out is not evaluated.
    `logits` says for which positions of a pass they are computed (a tap may want all). Each choice names that many
    `candidates`. `cancelled` is asked before every pass. Without a `tokenizer` the tokens have no text. Raises
    `UsageError` before anything is evaluated where the prompt is empty or longer than the context, or `max_tokens` is
    below 1.
    """
    prompt = list(prompt)
    _check_length(engine, prompt)
    if max_tokens < 1:
        raise UsageError(f"{max_tokens} tokens were asked for, expected at least 1")
    kept = min(common_prefix(held, prompt), len(prompt) - 1)
    return Generation(
        engine, tokenizer, prompt, Sampler(sampling, candidates), max_tokens, taps, logits, stop_ids, cancelled, kept
    )


def evaluate(
    engine: Engine, tokens: Sequence[int], *, prefill: int, taps: Taps = NO_TAPS, logits: Logits = Logits.LAST
) -> NDArray[np.float32]:
    """Reset `engine`, prefill the first `prefill` of `tokens` at once and decode the rest one by one.

    Teacher forcing: the tokens are given, none is chosen. Returns logits `[1, V]` (LAST) or `[T, V]` (ALL). Raises
    `UsageError` where the tokens do not fit the context or `prefill` is not in 1 … T.
    """
    _check_length(engine, tokens)
    if not 1 <= prefill <= len(tokens):
        raise UsageError(f"prefill of {prefill} tokens was asked for, expected 1 … {len(tokens)} (the tokens given)")
    engine.reset()
    passes = [engine.forward(tokens[:prefill], taps, logits)]
    for token in tokens[prefill:]:
        made = engine.forward([token], taps, logits)
        if logits is Logits.LAST:
            passes.clear()
        passes.append(made)
    return np.concatenate(passes)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both sequences begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _check_length(engine: Engine, tokens: Sequence[int]) -> None:
    if not tokens:
        raise UsageError("the prompt has no tokens, and this model adds none of its own; expected at least one")
    if len(tokens) > engine.context:
        raise UsageError(
            f"the prompt has {len(tokens)} tokens, the context has room for {engine.context}; "
            "shorten the prompt or raise --context"
        )
