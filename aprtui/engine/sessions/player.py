"""A recorded session in place of an engine: the live screen watches it as it watches an engine process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from aprtui.engine.generation import StopReason
from aprtui.engine.process import messages
from aprtui.engine.process.engine_process import EngineState
from aprtui.engine.process.slots import TokenRecord
from aprtui.engine.sampling import Sampling
from aprtui.engine.sessions.format import PlayedSession, SessionEnd, SessionToken
from aprtui.engine.sessions.session_file import SessionFile
from aprtui.errors import UnreadableError
from aprtui.model.prompt import ChatPrompt

NO_ENGINE = "this is a recording, which no engine runs: open the model for that"

MOST_SECONDS = 0.03
"""That a poll without a pace may read tokens: the screen draws a frame after each."""


class SessionPlayer:
    """Offers what `EngineProcess` does, which describes it, and plays the session in `path`; all its tokens are kept.

    `generate` plays it from the beginning, whatever the prompt, and pauses behind token `pause_at`. What only an engine
    can do is declined in words. Raises `UnreadableError` for a file that cannot be played.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic, *, pause_at: int | None = None) -> None:
        with SessionFile(path) as file:
            self.recording = PlayedSession(path, file.start)
        self.settings = file.start.settings
        self.info: messages.EngineDescription | None = None
        self.state = EngineState.CLOSED
        self.written = 0
        self._clock = clock
        self._pause_at = pause_at
        self._file: SessionFile | None = None
        self._events: list[messages.Event] = []
        self._latest: TokenRecord | None = None
        self._run = 0
        self._pace: float | None = None
        self._due = 0.0
        self._steps = 0

    @property
    def first_kept(self) -> int:
        return 0

    def start(self, settings: messages.EngineSettings | None = None) -> None:
        self.close()
        self.state = EngineState.LOADING
        self._events = [messages.Loaded(self.recording.start.engine)]

    def restart(self) -> None:
        self.start()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._latest, self._events = None, None, []
        self.written, self.info, self.state = 0, None, EngineState.CLOSED

    def reopen(self, settings: messages.EngineSettings) -> None:
        self._decline()

    def measure_noise(self) -> None:
        self._decline()

    def write_capture(self, directory: Path) -> None:
        self._decline()

    def set_lens(self, on: bool) -> None:
        """Nothing: a record has the lens, or it has none."""

    def generate(self, prompt: str | Sequence[int] | ChatPrompt, sampling: Sampling, max_tokens: int) -> int:
        self._run += 1
        self._rewind()
        if self._file is not None:
            start = self.recording.start
            self._events.append(messages.Started(self._run, start.prompt, start.tokens, 0))
            self.state, self._due, self._steps = EngineState.RUNNING, self._clock(), 0
        return self._run

    def pause(self) -> None:
        if self.state is EngineState.RUNNING:
            self.state = EngineState.PAUSED
            self._events.append(messages.Paused(self._run))

    def resume(self) -> None:
        if self.state is EngineState.PAUSED:
            self.state, self._due = EngineState.RUNNING, self._clock()
            self._events.append(messages.Resumed(self._run))

    def step(self) -> None:
        self._steps += self.state is EngineState.PAUSED

    def cancel(self) -> None:
        if self.state in (EngineState.RUNNING, EngineState.PAUSED):
            self._finish(StopReason.CANCELLED, "")

    def set_pace(self, tokens_per_second: float | None) -> None:
        self._pace, self._due = tokens_per_second, self._clock()

    def poll(self) -> list[messages.Event]:
        if self.state is EngineState.LOADING:
            self.info, self.state = self.recording.start.engine, EngineState.READY
        self._play()
        events, self._events = self._events, []
        return events

    def latest(self) -> TokenRecord | None:
        return self._latest

    def record(self, number: int) -> TokenRecord | None:
        if self._file is None or not 0 <= number < self.written:
            return None
        try:
            return replace(self._file.token(number).record, run=self._run)
        except UnreadableError:
            return None  # changed since it was read

    def _play(self) -> None:
        """Take the tokens that are due by now."""
        begun = self._clock()
        while self._steps and self.state is EngineState.PAUSED:
            self._steps -= 1
            self._take_token()
        while self.state is EngineState.RUNNING and self._clock() >= self._due and self._clock() - begun < MOST_SECONDS:
            self._due += 1 / self._pace if self._pace else 0.0
            self._take_token()

    def _take_token(self) -> None:
        """Read on up to the next token, or to the end."""
        assert self._file is not None
        try:
            for line in self._file.rest():
                match line:
                    case SessionToken():
                        token = replace(line, record=replace(line.record, run=self._run))
                        self._latest, self.written = token.record, self._file.tokens
                        self._events.append(token.event)
                        if self.written == self._pause_at:
                            self.pause()
                        return
                    case SessionEnd():
                        self._finish(line.reason, line.tail)
                        return
                    case names:
                        self._events.append(names)
        except UnreadableError as error:
            self._events.append(messages.Failed(str(error), fatal=False))
            self.state = EngineState.READY
            return
        self._finish(StopReason.CANCELLED, "")
        self._events.append(
            messages.Declined("the recording ends before the run does: its writer was ended, or still writes")
        )

    def _finish(self, reason: StopReason, tail: str) -> None:
        self.state = EngineState.READY
        self._events.append(messages.Finished(self._run, reason, tail))

    def _rewind(self) -> None:
        if self._file is not None:
            self._file.close()
        self.written, self._latest = 0, None
        try:
            self._file = SessionFile(self.recording.path)
        except UnreadableError as error:
            self._file, self.state = None, EngineState.READY
            self._events.append(messages.Failed(str(error), fatal=False))

    def _decline(self) -> None:
        self._events.append(messages.Declined(NO_ENGINE))
