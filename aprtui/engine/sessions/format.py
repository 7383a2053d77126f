"""The lines of a recorded session: what is in each, and the values that stand for records and events.

JSON lines. The first says what was run, the others follow in the order in which an engine process tells the same: the
texts of token ids before the token that mentions them, a line for each token with the record of its pass, and how it
ended. Statistics would take twice the room as decimal numbers, so they are columns of 32-bit words, compressed. Every
line is whole or missing, so a file is readable up to the last one whatever ended its writer. docs/sessions.md describes
them for others.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.generation import StopReason
from aprtui.engine.process.messages import EngineDescription, EngineSettings, TokenNames, TokenText
from aprtui.engine.process.slots import CANDIDATES, STATS, TokenRecord, candidates, experts_type
from aprtui.engine.sampling import Candidate, Sampling
from aprtui.model.prompt import ChatPrompt
from aprtui.trace.decode import decode
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.json_value import json_number, json_value

FORMAT = "aprtui-session"
VERSION = 1
RUN = 1
"""The number of the only run of a session."""

_NOT_WRITTEN = ("path", "fault_kinds")
"""Of a description: a file that is not here, and what can be done to an engine that is not here."""

_WHOLE = [entry.name for entry in fields(TokenRecord) if entry.type == "int" and entry.name != "run"]
_FLOATS = [entry.name for entry in fields(TokenRecord) if entry.type == "float"]


class BadLine(ValueError):  # noqa: N818 - raised to whoever knows the file and the line
    """A line that is none of this format; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class SessionStart:
    """What was run. `prompt` is all that the model was given, as `tokens`, and `said` what the user said of it: with
    `chat` as a message, after the message `system`. `created` is in seconds since 1970; `version` is the program's."""

    engine: EngineDescription
    sampling: Sampling
    prompt: str
    said: str
    tokens: tuple[int, ...]
    chat: bool = False
    system: str = ""
    created: float = 0.0
    version: str = ""

    @property
    def settings(self) -> EngineSettings:
        """The engine as the app's settings show it."""
        info = self.engine
        return EngineSettings(info.backend, info.mode, info.kv, None, info.context, info.faults)


@dataclass(frozen=True, slots=True)
class PlayedSession:
    """A session on file that is played."""

    path: Path
    start: SessionStart

    @property
    def request(self) -> str | ChatPrompt:
        """What the engine was asked for."""
        return ChatPrompt(self.start.said, self.start.system) if self.start.chat else self.start.said


@dataclass(frozen=True, slots=True)
class SessionToken:
    """A token: the text that it made certain, and the record of the pass that chose it."""

    text: str
    record: TokenRecord

    @property
    def event(self) -> TokenText:
        """What an engine process tells of it."""
        record = self.record
        return TokenText(
            record.run, record.index, record.token, self.text, record.logprob, record.entropy, record.margin
        )


@dataclass(frozen=True, slots=True)
class SessionEnd:
    reason: StopReason
    tail: str = ""


@dataclass(frozen=True, slots=True)
class _Names:
    """The line of token texts, as JSON has it."""

    names: Mapping[str, str]
    special: tuple[int, ...] = field(default_factory=tuple)


SessionLine = TokenNames | SessionToken | SessionEnd
"""What stands behind the first line."""


def start_line(start: SessionStart) -> bytes:
    """The first line of a file."""
    engine = {
        entry.name: getattr(start.engine, entry.name)
        for entry in fields(EngineDescription)
        if entry.name not in _NOT_WRITTEN
    }
    engine["graph"] = asdict(start.engine.graph)
    document = {
        "format": FORMAT, "version": VERSION, "record": "session", "program": start.version, "created": start.created,
        "said": start.said, "chat": start.chat, "system": start.system, "prompt": start.prompt, "tokens": start.tokens,
        "sampling": asdict(start.sampling), "engine": engine,
    }  # fmt: skip
    return _line(document)


def names_line(event: TokenNames) -> bytes:
    return _line({"record": "names", "names": dict(event.names), "special": sorted(event.special)})


def token_line(token: SessionToken) -> bytes:
    record = token.record
    document: dict[str, Any] = {"record": "token", "text": token.text}
    document |= {name: getattr(record, name) for name in (*_WHOLE, *_FLOATS)}
    document["candidates"] = _pairs(record.candidates)
    document["stats"] = _packed(record.stats, STATS.names or ())
    document["stage_seconds"] = _packed_words(record.stage_seconds)
    if record.lens is not None:
        document["lens"] = _pairs(record.lens)
    if record.experts is not None:
        document["experts"] = _packed(record.experts, ("dropped", "entropy", "counts"))
    return _line(document)


def end_line(end: SessionEnd) -> bytes:
    return _line({"record": "end", "reason": str(end.reason), "tail": end.tail})


def parse_start(line: bytes) -> SessionStart:
    """The first line of a file. Raises `BadLine`, or what `decode` and `Sampling` raise."""
    document = _document(line)
    if document.get("format") != FORMAT:
        raise BadLine(f'expected a JSON object with "format": "{FORMAT}"')
    if type(document.get("version")) is not int or document["version"] != VERSION:
        raise BadLine(f"version {document.get('version')!r:.20}, this program reads {VERSION}: use a newer release")
    start: SessionStart = decode(SessionStart, {**document, "version": document.get("program", "")})
    return start


def parse_line(line: bytes, graph: StageGraph) -> SessionLine | None:
    """Any other line, of a run of `graph`; None for a record of another kind. Raises `BadLine` or `DecodeError`."""
    document = _document(line)
    match document.get("record"):
        case "names":
            found = decode(_Names, document)
            if not all(key.isdecimal() and len(key) < 16 for key in found.names):
                raise BadLine("field names: its keys are no token ids")
            return TokenNames(tuple((int(key), text) for key, text in found.names.items()), frozenset(found.special))
        case "token":
            return SessionToken(str(document.get("text", "")), _record(document, graph))
        case "end":
            return decode(SessionEnd, document)
        case _:
            return None


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(json_value(document), ensure_ascii=False, allow_nan=False).encode(errors="replace") + b"\n"


def _document(line: bytes) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        raise BadLine("not JSON") from None
    if not isinstance(document, dict):
        raise BadLine("expected a JSON object")
    return document


def _record(document: Mapping[str, Any], graph: StageGraph) -> TokenRecord:
    nodes, layers, config = len(graph.nodes), graph.layers, graph.config
    assert config is not None
    stats = _unpacked(document, "stats", STATS, nodes)
    words = _words(document, "stage_seconds", nodes)
    experts = None
    if config.experts:
        experts = _unpacked(document, "experts", experts_type(config.experts), layers, ("dropped", "entropy", "counts"))
    lens = _candidates(document, "lens", layers) if "lens" in document else None
    figures: dict[str, Any] = {name: _whole(document, name) for name in _WHOLE}
    figures |= {name: _float(document, name) for name in _FLOATS}
    return TokenRecord(
        run=RUN, **figures, stats=stats, stage_seconds=words.view(np.float32),
        candidates=_candidates(document, "candidates", CANDIDATES), lens=lens, experts=experts,
    )  # fmt: skip


def _whole(document: Mapping[str, Any], name: str) -> int:
    value = document.get(name)
    if type(value) is not int or not -1 <= value < 1 << 53:
        raise BadLine(f"field {name} is {value!r:.40}, expected a whole number")
    return value


def _float(document: Mapping[str, Any], name: str) -> float:
    value = json_number(document.get(name, "nan"))
    if not isinstance(value, int | float):
        raise BadLine(f"field {name} is {value!r:.40}, expected a number")
    return float(value)


def _pairs(table: NDArray[np.void]) -> list[list[float]]:
    return [[token, _short(probability)] for token, probability in table.tolist() if token >= 0]


def _short(value: float) -> float:
    """As few digits as tell a float32 from its neighbours."""
    return float(np.format_float_positional(np.float32(value), unique=True)) if math.isfinite(value) else value


def _candidates(document: Mapping[str, Any], name: str, size: int) -> NDArray[np.void]:
    pairs = document.get(name)
    if not isinstance(pairs, list) or len(pairs) > size:
        raise BadLine(f"field {name}: expected at most {size} pairs of a token and its probability")
    try:
        return candidates([Candidate(int(token), float(json_number(share))) for token, share in pairs], size)
    except (ValueError, TypeError, OverflowError):
        raise BadLine(f"field {name}: expected pairs of a token and its probability") from None


def _packed(table: NDArray[np.void], names: Sequence[str]) -> str:
    """The columns of a table one after the other: the words of one compress far better than those of a row."""
    return _packed_words(np.concatenate([np.ascontiguousarray(table[name]).view(np.uint32).ravel() for name in names]))


def _packed_words(words: NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(words.view(np.uint32).astype("<u4").tobytes(), 1)).decode()


def _unpacked(
    document: Mapping[str, Any], name: str, kind: np.dtype[np.void], rows: int, columns: Sequence[str] = ()
) -> NDArray[np.void]:
    columns = columns or kind.names or ()
    widths = [kind[column].itemsize // 4 for column in columns]
    words = _words(document, name, rows * sum(widths))
    table = np.empty(rows, kind)
    parts = np.split(words, np.cumsum([rows * width for width in widths])[:-1])
    for column, part in zip(columns, parts, strict=True):
        table[column] = part.view(kind[column].base).reshape(table[column].shape)
    return table


def _words(document: Mapping[str, Any], name: str, count: int) -> NDArray[np.uint32]:
    """The 32-bit words of a field, of which there must be `count`: no more are unpacked."""
    text, wanted = document.get(name), f"field {name}: expected {4 * count} bytes, compressed by zlib, in base64"
    try:
        unpacker = zlib.decompressobj()
        found = unpacker.decompress(
            base64.b64decode(text if isinstance(text, str) else "", validate=True), 4 * count + 1
        )
    except (binascii.Error, ValueError, zlib.error):
        raise BadLine(wanted) from None
    if len(found) != 4 * count:
        raise BadLine(wanted)
    return np.frombuffer(found, "<u4").astype(np.uint32)
