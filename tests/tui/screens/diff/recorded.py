"""The diff screen on recorded comparisons: a source that plays their records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from aprtui.tui.frame.child import Ended, Event, Progressed, Record, Remark
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenState
from aprtui.tui.screens.diff.screen import DiffScreen
from aprtui.tui.screens.diff.source import DiffRequest
from tests.compare import recorded
from tests.compare.recorded import records_of


class RecordedDiff:
    """Plays records for each request, a poll later; `problem` instead of them where it is set."""

    def __init__(self, records: Callable[[DiffRequest], Sequence[recorded.Record]]) -> None:
        self.requests: list[DiffRequest] = []
        self.cancelled = 0
        self.problem = ""
        self.remarks: list[str] = []
        self.held = False
        self._records = records
        self._events: list[Event] = []

    def start(self, request: DiffRequest) -> None:
        self.requests.append(request)
        self._events = [Progressed("comparing layer 0 attn_norm, 1/54 …")]

    def poll(self) -> list[Event]:
        events = self._events
        if any(isinstance(event, Progressed) for event in events):
            self._events = [*map(Remark, self.remarks), Ended(self.problem)] if self.problem else self._played()
        elif self.held:
            return []
        else:
            self._events = []
        return events

    def _played(self) -> list[Event]:
        return [*map(Remark, self.remarks), *map(Record, self._records(self.requests[-1])), Ended()]

    def cancel(self) -> None:
        self.cancelled += 1
        self._events = []


def playing(a: Path, b: Path) -> RecordedDiff:
    """A source that compares as asked, by `--tolerance` and by nothing else."""

    def records(request: DiffRequest) -> list[recorded.Record]:
        sides = (a, b) if request.a == a else (b, a)
        return records_of(*sides, *([request.tolerance] if request.tolerance else []))

    return RecordedDiff(records)


def screen_playing(source: RecordedDiff) -> type[DiffScreen]:
    """The diff screen on `source`."""

    class Recorded(DiffScreen):
        def __init__(self, session: Session, state: ScreenState) -> None:
            super().__init__(session, state, source)

    return Recorded
