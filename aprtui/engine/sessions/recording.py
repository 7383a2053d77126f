"""Recording a run to a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from aprtui.engine.generation import GeneratedToken, Generation
from aprtui.engine.process.loading import LoadedEngine
from aprtui.engine.process.messages import Event, Finished, TokenNames, TokenText
from aprtui.engine.process.records import Recorder
from aprtui.engine.process.slots import TokenRecord
from aprtui.engine.protocol import Engine
from aprtui.engine.sessions.format import (
    RUN,
    SessionEnd,
    SessionStart,
    SessionToken,
    end_line,
    names_line,
    start_line,
    token_line,
)
from aprtui.engine.sessions.session_file import is_session
from aprtui.errors import EngineError, UsageError
from aprtui.model.model import Model


class SessionWriter:
    """Writes what an engine process tells: events by `send`, token records by `write`, in the same order.

    Each line goes to the system at once, so that it outlives this process. Raises `UsageError` for a file of another
    kind, `EngineError` where the file cannot be written.
    """

    def __init__(self, path: Path, start: SessionStart) -> None:
        self.written = 0
        self.start = start
        self._path = path
        self._record: TokenRecord | None = None
        try:
            if path.is_file() and path.stat().st_size and not is_session(path):
                raise UsageError(f"{path}: exists and is no recorded session: choose another file")
            self._file = open(path, "wb")  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise self._error(error) from error
        self._put(start_line(start))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, record: TokenRecord) -> None:
        """Keep the record of a token until its text is sent."""
        self._record = record
        self.written += 1

    def send(self, event: Event) -> None:
        """Write an event that belongs to a session; others are left out."""
        match event:
            case TokenNames():
                self._put(names_line(event))
            case TokenText(text=text) if self._record is not None:
                self._put(token_line(SessionToken(text, self._record)))
            case Finished(reason=reason, tail=tail):
                self._put(end_line(SessionEnd(reason, tail)))

    def _put(self, line: bytes) -> None:
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> EngineError:
        return EngineError(
            f"{self._path}: cannot be written: {error.strerror or error}: choose another file or free space"
        )


def recorded(generation: Generation, engine: Engine, model: Model, writer: SessionWriter) -> Iterator[GeneratedToken]:
    """The tokens of `generation`, by `engine`, a run of `model`, each written as it comes.

    The generation must name `CANDIDATES` of them.
    """
    loaded = LoadedEngine(engine, model, model.tokenizer, writer.start.engine, writer.start.settings)
    recorder = Recorder(loaded, writer, writer.send)
    recorder.begin()
    recorder.name(writer.start.tokens)
    generation.taps = recorder.taps(lens=False)
    for index, token in enumerate(generation):
        recorder.write(RUN, index, token.choice, token.position, token.seconds, generation)
        choice = token.choice
        writer.send(TokenText(RUN, index, token.id, token.text, choice.logprob, choice.entropy, choice.margin))
        yield token
    assert generation.stop_reason is not None
    writer.send(Finished(RUN, generation.stop_reason, generation.tail))
