"""Recorded comparisons: small captures compared once, and a source that plays the records."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.context import state_context
from aprtui.compare.report.records import comparison_records
from aprtui.compare.verdict import parse_tolerance
from aprtui.trace.capture import Capture
from aprtui.trace.graph import Node
from aprtui.trace.json_value import json_value
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenState
from aprtui.tui.screens.diff.model import Fields
from aprtui.tui.screens.diff.screen import DiffScreen
from aprtui.tui.screens.diff.source import DiffRequest, Ended, Event, Progressed, Record, Remark
from tests.compare.synthetic import Edit, scaled, write_capture

FAULT = Node(1, "ffn_gate")

EDITS: dict[Node, Edit] = {
    FAULT: scaled(1.5),
    Node(1, "ffn_silu"): scaled(1.4),
    Node(1, "post_ffn_residual"): scaled(1.1),
    Node(2, "attn_norm"): scaled(1.1),
    Node(2, "qkv_matmul"): scaled(1.0001),
}


def two_captures(folder: Path, edits: dict[Node, Edit] | None = None, **options: object) -> tuple[Path, Path]:
    """A good capture and one whose layer 1 ffn_gate is wrong, and some of what follows from it."""
    a = write_capture(folder / "good")
    return a, write_capture(folder / "bad", edits=EDITS if edits is None else edits, **options)  # type: ignore[arg-type]


def records_of(a: Path, b: Path, *tolerances: str) -> list[Fields]:
    """What `diff --json` writes of two captures, as a reader gets it."""
    left, right = Capture.open(a), Capture.open(b)
    options = DiffOptions(tolerances=tuple(parse_tolerance(text) for text in tolerances))
    found = comparison_records(a, b, state_context(left, right), compare_captures(left, right, options))
    return [json.loads(json.dumps(json_value(record))) for record in found]


class RecordedDiff:
    """Plays records for each request, a poll later; `problem` instead of them where it is set."""

    def __init__(self, records: Callable[[DiffRequest], Sequence[Fields]]) -> None:
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

    def records(request: DiffRequest) -> list[Fields]:
        sides = (a, b) if request.a == a else (b, a)
        return records_of(*sides, *([request.tolerance] if request.tolerance else []))

    return RecordedDiff(records)


def screen_playing(source: RecordedDiff) -> type[DiffScreen]:
    """The diff screen on `source`."""

    class Recorded(DiffScreen):
        def __init__(self, session: Session, state: ScreenState) -> None:
            super().__init__(session, state, source)

    return Recorded
