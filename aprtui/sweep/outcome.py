"""How a task ended: what is sent back to the program that drives a sweep, and kept as the head of a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from aprtui.compare.verdict import Verdict
from aprtui.trace.json_value import json_number


@dataclass(frozen=True, slots=True)
class Made:
    """A capture is there. `bytes` and `seconds` are 0 where it was there before; `peak` is the most memory, in bytes,
    that the worker's process has had so far."""

    bytes: int
    seconds: float
    peak: int


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """A task could not be done, and why, in one line."""

    problem: str


@dataclass(frozen=True, slots=True)
class PairOutcome:
    """A verdict in short. The fields from `layer` to `bound` are those of the first divergence, None without one;
    `problem` says why there is no verdict where there is none: then nothing was compared, and it is UNKNOWN."""

    verdict: Verdict
    headline: str
    layer: int | None = None
    stage: str | None = None
    metric: str | None = None
    error: float | None = None
    floor: float | None = None
    bound: float | None = None
    compared: int = 0
    expected: int = 0
    seconds: float = 0.0
    peak: int = 0
    problem: str = ""

    def record(self) -> dict[str, Any]:
        return {"record": "outcome", **asdict(self), "verdict": self.verdict.value}


def unjudged(problem: str) -> PairOutcome:
    """No verdict, because of `problem`."""
    return PairOutcome(Verdict.UNKNOWN, problem, problem=problem)


def read_outcome(record: Mapping[str, Any]) -> PairOutcome:
    """The outcome that `record` holds. Raises `KeyError` or `ValueError` for another record."""
    values = {field.name: json_number(record[field.name]) for field in fields(PairOutcome)}
    return PairOutcome(**{**values, "verdict": Verdict(record["verdict"])})
