"""What the screens of one run of the app share, among it the source of the live screen's data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aprtui.engine.process.engine_process import EngineState
from aprtui.engine.process.messages import EngineDescription, EngineSettings, Event
from aprtui.engine.process.slots import TokenRecord
from aprtui.engine.sampling import Sampling


class LiveSource(Protocol):
    """What `EngineProcess` offers to a screen. No call blocks."""

    @property
    def info(self) -> EngineDescription | None:
        """What is loaded; None before that."""

    @property
    def state(self) -> EngineState:
        """What the engine is doing, as of the last `poll`."""

    @property
    def written(self) -> int:
        """Token records written so far; it grows with every token."""

    @property
    def settings(self) -> EngineSettings:
        """Which engine was asked for."""

    def start(self, settings: EngineSettings | None = None) -> None:
        """Begin to load, with other settings if some are given."""

    def reopen(self, settings: EngineSettings) -> None:
        """Open the model again with other settings."""

    def set_lens(self, on: bool) -> None:
        """Compute the logit lens of every token from now on, or stop computing it."""

    def measure_noise(self) -> None:
        """Ask how far apart the two modes are at the logits."""

    def write_capture(self, directory: Path) -> None:
        """Write the run so far as a capture."""

    def restart(self) -> None:
        """Restart the engine, after a crash or in the middle of anything."""

    def close(self) -> None:
        """End the engine."""

    def poll(self) -> list[Event]:
        """Events since the last call."""

    def latest(self) -> TokenRecord | None:
        """The newest token record."""

    def record(self, number: int) -> TokenRecord | None:
        """Token record `number`; None if it has been overwritten."""

    def generate(self, prompt: str, sampling: Sampling, max_tokens: int) -> int:
        """Start a generation, in place of a running one; returns its number."""

    def pause(self) -> None:
        """Pause after the current token."""

    def resume(self) -> None:
        """End a pause."""

    def set_pace(self, tokens_per_second: float | None) -> None:
        """Generate at most so many tokens a second; None lifts the limit."""

    def step(self) -> None:
        """Generate one more token while paused."""

    def cancel(self) -> None:
        """End a running capture or measurement, else the generation after the current token."""


@dataclass(frozen=True, slots=True)
class Session:
    """Where the live screen gets its data, how it begins, and the paths given to look in."""

    source: LiveSource
    prompt: str = ""
    sampling: Sampling | None = None
    paths: tuple[Path, ...] = ()
