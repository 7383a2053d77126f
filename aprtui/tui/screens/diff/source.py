"""What the diff screen asks of the headless command, and who answers: a child process, or a recorded one in tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aprtui.recordings.reading import is_recording
from aprtui.tui.frame.child import Event, path_word


@dataclass(frozen=True, slots=True)
class DiffRequest:
    """Two captures and what to judge them by; `tolerance` is one bound of the user's own, as `rel_l2=0.01`."""

    a: Path
    b: Path
    model: Path | None = None
    floor: Path | None = None
    replay: bool = False
    tolerance: str = ""

    def words(self) -> list[str]:
        """The command as it would be typed, without how it reports."""
        words = ["aprtui", "diff", path_word(self.a), path_word(self.b)]
        for name, path in (("--model", self.model), ("--floor", self.floor)):
            words += [] if path is None else [name, str(path)]
        words += ["--replay"] if self.replay else []
        words += ["--as-captures"] if is_recording(self.a) and is_recording(self.b) else []
        return words + (["--tolerance", self.tolerance] if self.tolerance else [])


class DiffSource(Protocol):
    """Makes comparisons, one at a time. Nothing here blocks; the screen polls."""

    def start(self, request: DiffRequest) -> None:
        """Begin a comparison, in place of one that is going on."""

    def poll(self) -> list[Event]:
        """What has happened since the last call."""

    def cancel(self) -> None:
        """End the comparison that is going on; nothing more comes of it."""
