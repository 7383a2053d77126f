"""What a quality gate is given, the model under test with its engines, and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from aprtui.engine.backends.registry import AUTO
from aprtui.engine.generation import Generation, generate
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Engine, Mode
from aprtui.engine.sampling import GREEDY, Sampling
from aprtui.model.model import Model

CONTEXT = 256
"""Positions that the gates need at most: a prompt and its completion."""

PROMPT = "def fib(n):\n    if n < 2:\n        return n\n"
"""What is run where only the run matters."""


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class GateFinding:
    """The outcome in words, and the number that it stands on with its threshold, where there is one: with `at_least`
    the number must reach the threshold, else it must not exceed it."""

    outcome: Outcome
    message: str
    value: float | None = None
    threshold: float | None = None
    at_least: bool = False

    @classmethod
    def passed(cls, message: str, value: float | None = None, threshold: float | None = None) -> GateFinding:
        return cls(Outcome.PASSED, message, value, threshold)

    @classmethod
    def failed(cls, message: str, value: float | None = None, threshold: float | None = None) -> GateFinding:
        return cls(Outcome.FAILED, message, value, threshold)

    @classmethod
    def skipped(cls, message: str) -> GateFinding:
        return cls(Outcome.SKIPPED, message)

    @classmethod
    def unknown(cls, message: str, value: float | None = None, threshold: float | None = None) -> GateFinding:
        """What was measured does not tell: its spread crosses the threshold."""
        return cls(Outcome.UNKNOWN, message, value, threshold)

    @classmethod
    def of(cls, holds: bool, message: str, value: float | None = None, threshold: float | None = None) -> GateFinding:
        return (cls.passed if holds else cls.failed)(message, value, threshold)

    @classmethod
    def reaching(cls, message: str, value: float, threshold: float) -> GateFinding:
        """Passed where `value` reaches `threshold`."""
        return cls.reaching_in_all([value], message, value, threshold)

    @classmethod
    def reaching_in_all(cls, values: Sequence[float], message: str, value: float, threshold: float) -> GateFinding:
        """Passed where each of `values` reaches `threshold`, failed where none does, else unknown: noise decides."""
        reached = sum(found >= threshold for found in values)
        outcome = Outcome.PASSED if reached == len(values) else Outcome.UNKNOWN if reached else Outcome.FAILED
        words = "" if outcome is not Outcome.UNKNOWN else f"; {threshold:g} lies within the spread"
        return cls(outcome, message + words, value, threshold, at_least=True)

    @classmethod
    def of_problems(cls, problems: list[str], fine: str, most: int = 3) -> GateFinding:
        """Passed without `problems`; else failed, with the first `most` of them."""
        if not problems:
            return cls.passed(fine, 0, 0)
        rest = f"; and {len(problems) - most} more" if len(problems) > most else ""
        return cls.failed("; ".join(problems[:most]) + rest, len(problems), 0)


@dataclass(frozen=True, slots=True)
class QualityOptions:
    """How gates are run: `golden` is a file of prompts (None: the one that comes with the program), `tokens_per_second`
    the least that passes, `baseline` where the speed of earlier runs is kept (None: nowhere). `against` is a model that
    is known to be good, `nll` a baseline of the text's likelihood, `likelihoods` the folder where such are kept."""

    backend: str = AUTO
    threads: int | None = None
    golden: Path | None = None
    tokens_per_second: float = 10.0
    baseline: Path | None = None
    save_baseline: bool = False
    against: Path | None = None
    nll: float | None = None
    likelihoods: Path | None = None


class ModelUnderTest:
    """A model, and one engine for each mode, opened when a gate first needs it."""

    def __init__(self, model: Model, options: QualityOptions) -> None:
        self.model = model
        self.options = options
        self.speeds: list[float] = []
        """Tokens a second in each run, once the throughput gate has measured them."""
        self._engines: dict[Mode, Engine] = {}

    def engine(self, mode: Mode) -> Engine:
        if mode not in self._engines:
            context = min(CONTEXT, self.model.config.context)
            self._engines[mode] = open_engine(
                self.model, backend=self.options.backend, mode=mode, threads=self.options.threads, context=context
            )
        return self._engines[mode]

    def prompt(self, text: str = PROMPT) -> list[int]:
        """Token ids of `text`, short enough to leave room for a completion."""
        return self.model.tokenizer.encode(text)[: CONTEXT // 2]

    def generate(self, ids: Sequence[int], tokens: int, *, mode: Mode = Mode.Q8, greedy: bool = True) -> Generation:
        """A generation as `aprtui run` makes it: greedy, or with the sampling that the model recommends."""
        sampling = GREEDY if greedy else Sampling(temperature=self.model.sampling_temperature or 0.0)
        return generate(
            self.engine(mode), self.model.tokenizer, ids,
            max_tokens=tokens, sampling=sampling, stop_ids=self.model.tokenizer.stop_ids,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self._engines.values():
            engine.close()
