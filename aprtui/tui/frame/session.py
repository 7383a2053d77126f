"""What the screens of one run of the app share, among it the source of the live screen's data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from aprtui.compare.verdict import Verdict
from aprtui.engine.process.engine_process import EngineState
from aprtui.engine.process.messages import EngineDescription, EngineSettings, Event
from aprtui.engine.process.slots import TokenRecord
from aprtui.engine.sampling import Sampling
from aprtui.engine.sessions.format import PlayedSession
from aprtui.model.prompt import ChatPrompt


class LiveSource(Protocol):
    """What `EngineProcess`, which describes its methods, and `SessionPlayer` offer to a screen. No call blocks."""

    @property
    def info(self) -> EngineDescription | None: ...
    @property
    def state(self) -> EngineState: ...
    @property
    def written(self) -> int: ...
    @property
    def first_kept(self) -> int: ...
    @property
    def recording(self) -> PlayedSession | None: ...
    @property
    def settings(self) -> EngineSettings: ...
    def start(self, settings: EngineSettings | None = None) -> None: ...
    def reopen(self, settings: EngineSettings) -> None: ...
    def restart(self) -> None: ...
    def close(self) -> None: ...
    def poll(self) -> list[Event]: ...
    def latest(self) -> TokenRecord | None: ...
    def record(self, number: int) -> TokenRecord | None: ...
    def generate(self, prompt: str | ChatPrompt, sampling: Sampling, max_tokens: int) -> int: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def step(self) -> None: ...
    def cancel(self) -> None: ...
    def set_pace(self, tokens_per_second: float | None) -> None: ...
    def set_lens(self, on: bool) -> None: ...
    def measure_noise(self) -> None: ...
    def write_capture(self, directory: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class RecordedVerdict:
    """How a capture, or a pair of them, was judged: the verdict (None: it could not be) in words, by which command."""

    verdict: Verdict | None
    words: str
    command: tuple[str, ...]
    time: float
    """In seconds, as times of files are: what was changed since is not what was judged."""


@dataclass(frozen=True, slots=True)
class Session:
    """Where the live screen gets its data, the paths given to look in, and what this run of the app has judged.

    `model` is the file that `source` runs (None: none), `open_model` makes the source of another one.
    """

    source: LiveSource
    paths: tuple[Path, ...] = ()
    model: Path | None = None
    open_model: Callable[[Path], LiveSource] | None = None
    remembers: bool = True
    """Whether what is opened counts among what was opened lately."""
    judgements: dict[tuple[Path, ...], RecordedVerdict] = field(default_factory=dict)
    """By the absolute paths of the captures."""
