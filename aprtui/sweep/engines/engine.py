"""What a sweep asks of an engine, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aprtui.model.model import Model
from aprtui.sweep.fields import PlanField


@dataclass(frozen=True, slots=True)
class CaptureJob:
    """Tokens to evaluate, the text that they are of (None where ids were given), and threads to do it with."""

    model: Model
    tokens: tuple[int, ...]
    text: str | None
    threads: int


class SweepEngine(Protocol):
    """An engine as a plan describes it: a plain value that is sent to workers."""

    @property
    def gpus(self) -> int:
        """GPUs that a capture takes."""

    def identity(self) -> str:
        """What beside these settings, the model and the tokens decides what is captured: versions, digests of programs.

        It is asked for where captures are made. Raises `EngineError` where the engine cannot run there.
        """

    def require_usable(self, model: Model, where: str) -> None:
        """Raise `UsageError`, saying `where` in the plan, for a setting that `model` cannot have."""

    def weight_bytes(self, model: Model) -> int:
        """Bytes of memory that the weights take while a capture is made."""

    def capture(self, job: CaptureJob, directory: Path) -> None:
        """Write a capture to `directory`, which is empty or not there. Raises `AprtuiError`."""

    def by_hand(self, model: Path, tokens: tuple[int, ...], directory: str) -> str:
        """The command that makes the same capture again."""


@dataclass(frozen=True, slots=True)
class EngineKind:
    """A row of the registry: the field that an engine of this kind has in a plan and no other has, all fields that it
    may have, and how they are read."""

    mark: str
    fields: tuple[str, ...]
    read: Callable[[Mapping[str, PlanField]], SweepEngine]


def token_text(tokens: tuple[int, ...]) -> str:
    """Token ids as `--tokens` takes them."""
    return ",".join(map(str, tokens))
