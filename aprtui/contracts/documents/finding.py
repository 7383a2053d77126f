"""What is wrong with a contract, and where."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Severity(StrEnum):
    """Errors make a contract invalid; warnings do not; what is only good to know is no fault at all."""

    ERROR = "ERROR"
    WARN = "WARN"
    INFO = "INFO"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: `code` names the rule, `line` counts from 1."""

    code: str
    severity: Severity
    message: str
    path: Path
    line: int

    def __str__(self) -> str:
        return f"[{self.severity}] {self.code}: {self.message} ({self.path}:{self.line})"
