"""Where the live screen gets its data: an engine process, or a recording of one."""

from __future__ import annotations

from typing import Protocol

from aprtui.engine.process import EngineState
from aprtui.engine.process_messages import EngineInfo, Event
from aprtui.engine.process_slots import TokenRecord
from aprtui.engine.sampling import Sampling


class LiveSource(Protocol):
    """What `EngineProcess` offers to a screen. No call blocks."""

    @property
    def info(self) -> EngineInfo | None:
        """What is loaded; None before that."""

    @property
    def state(self) -> EngineState:
        """What the engine is doing, as of the last `poll`."""

    @property
    def written(self) -> int:
        """Token records written so far; it grows with every token."""

    def start(self) -> None:
        """Begin loading."""

    def restart(self) -> None:
        """Begin again, after a crash or in the middle of anything."""

    def close(self) -> None:
        """End the engine."""

    def poll(self) -> list[Event]:
        """Events since the last call."""

    def latest(self) -> TokenRecord | None:
        """The newest token record."""

    def record(self, number: int) -> TokenRecord | None:
        """Token record `number`, where it is still kept."""

    def generate(self, prompt: str, sampling: Sampling, max_tokens: int) -> int:
        """Start a generation, in place of one that is going on."""

    def pause(self) -> None:
        """Rest after the token at hand."""

    def resume(self) -> None:
        """End a pause."""

    def set_pace(self, tokens_per_second: float | None) -> None:
        """Make no more tokens a second than this; None lifts the limit."""

    def step(self) -> None:
        """Make one more token while paused."""

    def cancel(self) -> None:
        """End the generation after the token at hand."""
