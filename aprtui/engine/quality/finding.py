"""What a quality gate finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a gate ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome in words, and the number that it stands on with its threshold, where there is one."""

    outcome: Outcome
    message: str
    value: float | None = None
    threshold: float | None = None

    @classmethod
    def passed(cls, message: str, value: float | None = None, threshold: float | None = None) -> Finding:
        """A gate that holds."""
        return cls(Outcome.PASSED, message, value, threshold)

    @classmethod
    def failed(cls, message: str, value: float | None = None, threshold: float | None = None) -> Finding:
        """A gate that does not hold."""
        return cls(Outcome.FAILED, message, value, threshold)

    @classmethod
    def skipped(cls, message: str) -> Finding:
        """A gate that was not run, and why."""
        return cls(Outcome.SKIPPED, message)

    @classmethod
    def of(cls, holds: bool, message: str, value: float | None = None, threshold: float | None = None) -> Finding:
        """Passed where `holds`."""
        return (cls.passed if holds else cls.failed)(message, value, threshold)

    @classmethod
    def of_problems(cls, problems: list[str], fine: str, most: int = 3) -> Finding:
        """Passed without `problems`; else failed, with the first `most` of them."""
        if not problems:
            return cls.passed(fine, 0, 0)
        rest = f"; and {len(problems) - most} more" if len(problems) > most else ""
        return cls.failed("; ".join(problems[:most]) + rest, len(problems), 0)
