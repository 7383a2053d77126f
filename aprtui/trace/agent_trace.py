"""Agent traces: what was said in a session, and how long it took, as `apr code --emit-trace` writes it.

JSON lines of version 1, a record each, of the kinds `session_start`, `user_prompt`, `assistant_turn`, `tool_result`,
`hook_event`, `skill_invocation` and `session_end` (the schema of claude-code-parity-apr, crate ccpa-trace). We write
the first three and the last, for one prompt and its answer, and read them all.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from aprtui.errors import UnreadableError

SUFFIX = ".jsonl"
VERSION = 1
ACTOR = "apr-code"
"""Of the two actors that the schema knows, the one whose records ours are."""

MOST_BYTES = 64_000_000
"""Of a trace that is read: one of a day's work has less than a tenth of that."""

_NO_FOLDER = "0" * 64
"""`cwd_sha256` where the folder is not told, as `apr code` writes it."""

_BEGINNING = 4096


class EndOfTurn(StrEnum):
    """Why an answer ended, in the words of the schema."""

    END_TURN = "end_turn"
    MAX_TOKENS = "max_tokens"
    STOP_SEQUENCE = "stop_sequence"
    TOOL_USE = "tool_use"
    ERROR = "error"
    """Of sessions only."""


class Speaker(StrEnum):
    """Whose an entry of a conversation is."""

    USER = "user"
    MODEL = "model"
    THOUGHT = "thought"
    CALL = "call"
    """Of a tool, by the model."""
    RESULT = "result"
    HOOK = "hook"
    SKILL = "skill"
    OTHER = "other"
    """A kind of record or block that is not known here."""


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """Something said or done in turn `turn`; `failed` where it went wrong or was blocked."""

    turn: int | None
    speaker: Speaker
    text: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """How a session ended; what a trace does not say is None."""

    reason: str
    milliseconds: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens that were generated in a second of the whole session."""
        return self.tokens_out / self.milliseconds * 1000 if self.tokens_out and self.milliseconds else None


@dataclass(frozen=True, slots=True)
class AgentTrace:
    """A session; without `ending` it was not over when the file was written. `problem` is why its last line counts for
    nothing, if so."""

    session: str
    started: str
    """As a date where the file has one that can be read."""
    actor: str
    model: str
    entries: tuple[TraceEntry, ...]
    ending: Ending | None = None
    problem: str = ""


class AgentTraceWriter:
    """Writes the four records of one prompt and its answer to `path`.

    A failure to write is told to `warn`, once, and nothing more is written: it must not end what is traced. Used with
    `with`: a trace that was not finished then ends as an error.
    """

    def __init__(self, path: Path, model: str, prompt: str, tokens_in: int, warn: Callable[[str], None]) -> None:
        self._path, self._tokens_in, self._tokens_out = path, tokens_in, 0
        self._pieces: list[str] = []
        self._begun = time.monotonic()
        self._warn = warn
        self._file: IO[str] | None = None
        try:
            if path.is_file() and path.stat().st_size and not is_agent_trace(path):
                warn(f"{path}: exists and is no agent trace: not overwritten, choose another file")
                return
            self._file = open(path, "w", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by `finish`
        except OSError as error:
            self._fail(error)
        self._write(
            "session_start", session_id=str(uuid.uuid4()), ts=f"@{int(time.time())}", actor=ACTOR, model=model,
            cwd_sha256=_NO_FOLDER,
        )  # fmt: skip
        self._write("user_prompt", turn=0, text=prompt)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.finish(EndOfTurn.ERROR)

    def add(self, text: str) -> None:
        """Count a token of the answer, and keep its text."""
        self._pieces.append(text)
        self._tokens_out += 1

    def finish(self, reason: EndOfTurn, tail: str = "") -> None:
        """Write the answer and the end; a second call does nothing. An answer that was cut off has `max_tokens`."""
        if self._file is None:
            return
        text = "".join(self._pieces) + tail
        of_turn = EndOfTurn.MAX_TOKENS if reason is EndOfTurn.ERROR else reason
        self._write("assistant_turn", turn=1, blocks=[{"type": "text", "text": text}], stop_reason=of_turn)
        self._write(
            "session_end", turn=1, stop_reason=reason, elapsed_ms=round((time.monotonic() - self._begun) * 1000),
            tokens_in=self._tokens_in, tokens_out=self._tokens_out,
        )  # fmt: skip
        self._close()

    def _write(self, kind: str, **fields: object) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({"v": VERSION, "kind": kind, **fields}, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._warn(f"{self._path}: the agent trace cannot be written: {error.strerror or error}: the run goes on")
        self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # what could not be written is told already
                file.close()


def is_agent_trace(path: Path) -> bool:
    """Whether a file begins as a trace does. False where it cannot be read."""
    try:
        with open(path, "rb") as file:
            beginning = file.read(_BEGINNING)
    except OSError:
        return False
    first = beginning.lstrip().partition(b"\n")[0]
    return first.startswith(b"{") and b'"kind"' in first and b'"session_start"' in first


def read_agent_trace(path: Path) -> AgentTrace:
    """The trace in `path`, without its last line where that is cut off. Raises `UnreadableError`."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UnreadableError(
                f"{path}: larger than {MOST_BYTES // 1_000_000} MB: not an agent trace of one session"
            )
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{path}: byte {error.start}: not UTF-8: not an agent trace") from error
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    records, problem = _records(text, path)
    start = records[0] if records else {}
    if start.get("kind") != "session_start":
        raise UnreadableError(f'{path}: line 1: expected a record of kind "session_start": not an agent trace')
    entries = tuple(entry for record in records for entry in _entries(record))
    ends = [record for record in records if record.get("kind") == "session_end"]
    return AgentTrace(
        _text(start, "session_id"), _date(_text(start, "ts")), _text(start, "actor"), _text(start, "model"), entries,
        _ending(ends[-1]) if ends else None, problem,
    )  # fmt: skip


def _records(text: str, path: Path) -> tuple[list[Mapping[str, Any]], str]:
    """The records of all lines, and what is wrong with the last one where it counts for nothing."""
    records: list[Mapping[str, Any]] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            if records and number == len(lines):  # without a line break: the writer was ended
                return records, f"line {number} is cut off"
            raise UnreadableError(f"{path}: line {number}: not JSON: not an agent trace") from None
        if not isinstance(record, dict):
            raise UnreadableError(f"{path}: line {number}: expected a JSON object: not an agent trace")
        if record.get("v") != VERSION:
            raise UnreadableError(
                f"{path}: line {number}: version {record.get('v')!r:.20}, this program reads {VERSION}"
            )
        records.append(record)
    return records, ""


def _entries(record: Mapping[str, Any]) -> Iterator[TraceEntry]:
    """What a record says; nothing where it begins or ends the session."""
    turn = _whole(record, "turn")
    match record.get("kind"):
        case "session_start" | "session_end":
            return
        case "user_prompt":
            yield TraceEntry(turn, Speaker.USER, _text(record, "text"))
        case "assistant_turn":
            blocks = record.get("blocks")
            for block in blocks if isinstance(blocks, list) else []:
                yield _block(turn, block if isinstance(block, dict) else {})
        case "tool_result":
            effects = _effects(record.get("side_effects"))
            text = "\n".join(filter(None, (_text(record, "content"), effects)))
            yield TraceEntry(turn, Speaker.RESULT, text, record.get("ok") is False)
        case "hook_event":
            decision = _text(record, "decision")
            words = " ".join(filter(None, (_text(record, "event"), _text(record, "matcher"), decision)))
            yield TraceEntry(turn, Speaker.HOOK, f"{words}: {_text(record, 'output')}", decision == "block")
        case "skill_invocation":
            source = _text(record, "source").replace("_", " ")
            words = f"{_text(record, 'name')} ({source}): {_text(record, 'instructions_injected')}"
            yield TraceEntry(turn, Speaker.SKILL, words)
        case kind:
            yield TraceEntry(turn, Speaker.OTHER, f"a record of kind {kind!r:.40}")


def _block(turn: int | None, block: Mapping[str, Any]) -> TraceEntry:
    """A part of an answer."""
    match block.get("type"):
        case "text":
            return TraceEntry(turn, Speaker.MODEL, _text(block, "text"))
        case "thinking":
            return TraceEntry(turn, Speaker.THOUGHT, _text(block, "thinking") or _text(block, "text"))
        case "tool_use":
            given = json.dumps(block.get("input"), ensure_ascii=False)
            return TraceEntry(turn, Speaker.CALL, f"{_text(block, 'name')} {given}")
        case kind:
            return TraceEntry(turn, Speaker.OTHER, f"a block of type {kind!r:.40}")


def _effects(effects: object) -> str:
    """What a tool did beside its answer, in words."""
    if not isinstance(effects, dict):
        return ""
    parts = [
        f"{word} {', '.join(map(str, effects[key]))}"
        for key, word in (("files_read", "read"), ("files_written", "wrote"))
        if isinstance(effects.get(key), list) and effects[key]
    ]
    code = effects.get("exit_code")
    return "; ".join([*parts, *([] if code is None else [f"exit code {code}"])])


def _ending(record: Mapping[str, Any]) -> Ending:
    elapsed = record.get("elapsed_ms", -1)
    is_time = isinstance(elapsed, int | float) and 0 <= elapsed < 1e15
    return Ending(
        _text(record, "stop_reason"), float(elapsed) if is_time else None,
        _whole(record, "tokens_in"), _whole(record, "tokens_out"),
    )  # fmt: skip


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _whole(record: Mapping[str, Any], name: str) -> int | None:
    value = record.get(name)
    return value if type(value) is int and 0 <= value < 1 << 53 else None


def _date(text: str) -> str:
    """The time of a start, `@` and seconds or ISO 8601, as a date; as it stands where it is neither."""
    try:
        seconds = int(text.removeprefix("@")) if text.startswith("@") else datetime.fromisoformat(text).timestamp()
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return text
