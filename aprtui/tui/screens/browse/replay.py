"""The replay of the capture under the cursor: which command answers, and what it has said so far."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprtui.compare.verdict import Verdict
from aprtui.tui.frame.child import ChildSource, Ended, Progressed, Record, path_word
from aprtui.tui.frame.session import RecordedVerdict


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """A capture and its model; a recording needs none."""

    capture: Path
    model: Path | None

    def words(self) -> list[str]:
        """The command as it would be typed."""
        model = [] if self.model is None else ["--model", str(self.model)]
        return ["aprtui", "replay", path_word(self.capture), *model]


class Replay:
    """One replay at a time: `capture` is the one that is being replayed, `progress` says how far it is."""

    def __init__(self) -> None:
        self._child = ChildSource()
        self.capture: Path | None = None
        self.progress = ""
        self._summary: Mapping[str, Any] = {}
        self._request: ReplayRequest | None = None

    def start(self, request: ReplayRequest) -> None:
        """Begin, in place of one that is going on."""
        self._child.start(request)
        self.capture, self._request = request.capture, request
        self.progress, self._summary = "opening the model", {}

    def cancel(self) -> None:
        self._child.cancel()
        self.capture = None

    def poll(self) -> RecordedVerdict | None:
        """Take in what has come; how the replay ended, once it has."""
        for event in self._child.poll():
            match event:
                case Progressed(text=text):
                    self.progress = text
                case Record(fields=fields) if fields.get("record") == "summary":
                    self._summary = fields
                case Ended(problem=problem):
                    self.capture = None
                    assert self._request is not None
                    return judgement(self._summary, problem, self._request)
        return None


def judgement(summary: Mapping[str, Any], problem: str, request: ReplayRequest) -> RecordedVerdict:
    """What the summary of a replay says, in words; or why there is no verdict."""
    words = tuple(request.words())
    if problem or not summary:
        return RecordedVerdict(None, problem or "no verdict", words, time.time())
    verdict = Verdict(summary["verdict"])
    if request.model is None:
        return RecordedVerdict(verdict, summary["reason"], words, time.time())
    compared = f"{summary['compared']} of {summary['expected']} stages replayed"
    return RecordedVerdict(verdict, f"{summary['headline']} ({compared})", words, time.time())
