"""Reading a recorded session, line by line as it is needed: sessions may be large, and may still be growing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from aprtui.engine.sessions.format import (
    FORMAT,
    BadLine,
    SessionEnd,
    SessionLine,
    SessionStart,
    SessionToken,
    parse_line,
    parse_start,
)
from aprtui.errors import UnreadableError, UsageError
from aprtui.trace.decode import DecodeError
from aprtui.trace.graph.stage_graph import graph_for
from aprtui.trace.manifest import are_dimensions

MOST_LINE_BYTES = 64_000_000
"""Of a line: one of a model of 80 layers and 128 experts has 100,000."""

_BEGINNING = 256
_LAST_BYTES = 4_000_000


class SessionFile:
    """A recorded session that is open. Raises `UnreadableError` for a file that is none, or has a line that is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._line = 0
        self._places: list[int] = []
        """Where the lines of the tokens that were read begin."""
        try:
            self._file = open(path, "rb")  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
        try:
            self.start = self._read_start()
        except BaseException:
            self.close()
            raise
        self.graph = graph_for(self.start.engine.graph)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    @property
    def tokens(self) -> int:
        """Tokens that were read so far."""
        return len(self._places)

    def read(self) -> SessionLine | None:
        """The next line; None at the end of what is whole."""
        while True:
            place = self._file.tell()
            line = self._next_line()
            if line is None:
                self._file.seek(place)
                return None
            if not line.strip():
                continue
            found = self._parsed(line, self._line)
            if isinstance(found, SessionToken):
                if found.record.index != self.tokens:
                    raise self._error(f"token {found.record.index}, expected token {self.tokens}", self._line)
                self._places.append(place)
            if found is not None:
                return found

    def rest(self) -> Iterator[SessionLine]:
        """The lines that were not read yet."""
        while (line := self.read()) is not None:
            yield line

    def token(self, number: int) -> SessionToken:
        """Token `number`, which was read before."""
        here = self._file.tell()
        self._file.seek(self._places[number])
        line = self._file.readline(MOST_LINE_BYTES)
        self._file.seek(here)
        found = self._parsed(line, None)
        assert isinstance(found, SessionToken)
        return found

    def _read_start(self) -> SessionStart:
        line = self._next_line()
        try:
            if line is None:
                raise BadLine("expected the first line of a recorded session")
            start = parse_start(line)
        except (BadLine, DecodeError, UsageError) as error:
            raise self._error(str(error), 1) from None
        if not are_dimensions(start.engine.graph):
            raise self._error("field graph: these are no dimensions of a model", 1)
        return start

    def _next_line(self) -> bytes | None:
        """The next line; None where there is none that is whole."""
        line = self._file.readline(MOST_LINE_BYTES)
        if len(line) == MOST_LINE_BYTES:
            raise self._error(f"longer than {MOST_LINE_BYTES // 1_000_000} MB", self._line + 1)
        if not line.endswith(b"\n"):
            return None
        self._line += 1
        return line

    def _parsed(self, line: bytes, number: int | None) -> SessionLine | None:
        try:
            return parse_line(line, self.graph)
        except (BadLine, DecodeError) as error:
            raise self._error(str(error), number) from None

    def _error(self, said: str, line: int | None) -> UnreadableError:
        where = "" if line is None else f"line {line}: "
        return UnreadableError(f"{self.path}: {where}{said}: not a recorded session, or a damaged one")


def is_session(path: Path) -> bool:
    """Whether a file begins as a recorded session does. False where it cannot be read."""
    try:
        with open(path, "rb") as file:
            beginning = file.read(_BEGINNING)
    except OSError:
        return False
    return beginning.lstrip().startswith(b"{") and f'"{FORMAT}"'.encode() in beginning.partition(b"\n")[0]


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """A session without its records: how many `tokens` it has, and how it ended (None: its writer was ended)."""

    start: SessionStart
    tokens: int
    end: SessionEnd | None


def session_summary(path: Path) -> SessionSummary:
    """What stands in the first line and in the last ones of a session; those between are not read.

    Raises `UnreadableError`.
    """
    with SessionFile(path) as file:
        tokens, end = 0, None
        for line in reversed(_last_lines(path)):
            try:
                found = parse_line(line, file.graph)
            except (BadLine, DecodeError):
                break
            if isinstance(found, SessionEnd):
                end = found
            elif isinstance(found, SessionToken):
                tokens = found.record.index + 1
                break
        return SessionSummary(file.start, tokens, end)


def _last_lines(path: Path) -> list[bytes]:
    """Whole lines at the end of a file, some MB of them at most."""
    try:
        with open(path, "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _LAST_BYTES, 0))
            return file.read().split(b"\n")[1:-1]
    except OSError:
        return []
