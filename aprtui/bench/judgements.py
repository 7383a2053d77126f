"""Judgements of many cases, kept in a file as they are made: a run that ends early loses none, and the next goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from aprtui.compare.verdict import Verdict
from aprtui.engine.evaluation.bug_detection import BugCase, BugOutcome, JudgedBug
from aprtui.engine.evaluation.cause_detection import CauseCase, CauseOutcome, JudgedCause
from aprtui.engine.evaluation.false_alarms import JudgedCapture
from aprtui.engine.evaluation.fault_detection import DetectionOutcome, JudgedFault
from aprtui.errors import EngineError, UnreadableError, UsageError
from aprtui.trace.graph.stage import Node
from aprtui.trace.json_value import json_number, json_value

_CASE = TypeVar("_CASE")
Record = Mapping[str, Any]


_JUDGEMENT = TypeVar("_JUDGEMENT", JudgedCapture, JudgedBug, JudgedCause, JudgedFault)


def judged_capture(record: Record) -> JudgedCapture:
    """The judgement that `record` was made of by `asdict`."""
    causes = tuple(record.get("causes", ()))
    return JudgedCapture(**{**record, "verdict": Verdict(record["verdict"]), "causes": causes})


def judged_fault(record: Record) -> JudgedFault:
    """The judgement that `record` was made of by `asdict`."""
    return JudgedFault(**{**record, "outcome": DetectionOutcome(record["outcome"])})


def judged_bug(record: Record) -> JudgedBug:
    """The judgement that `record` was made of by `asdict`."""
    stated = record["when_stated"]
    return JudgedBug(
        BugCase(**record["case"]),
        BugOutcome(record["outcome"]),
        record["said"],
        json_number(record["times_noise"]),
        None if stated is None else BugOutcome(stated),
    )


def judged_cause(record: Record) -> JudgedCause:
    """The judgement that `record` was made of by `asdict`."""
    case = record["case"]
    return JudgedCause(CauseCase(case["cause"], Node(**case["node"])), CauseOutcome(record["outcome"]), record["said"])


def going_on(
    path: Path | None, of: Record, cases: Sequence[_CASE], read: Callable[[Record], _JUDGEMENT],
    judge: Callable[[Sequence[_CASE]], Iterator[_JUDGEMENT]],
) -> Iterator[_JUDGEMENT]:  # fmt: skip
    """Judgements of `cases`: first those that the file at `path` holds, then those that `judge` makes of the others,
    each of which is added to the file.

    The first line of the file is `of`: what is judged. Raises `UsageError` where a file is of something else,
    `UnreadableError` where it is no such file, `EngineError` where it cannot be written.
    """
    if path is None:
        yield from judge(cases)
        return
    names = {str(case) for case in cases}
    kept = _kept(path, of, read)
    yield from (judgement for name, judgement in kept.items() if name in names)
    for judgement in judge([case for case in cases if str(case) not in kept]):
        _append(path, asdict(judgement))
        yield judgement


def _kept(path: Path, of: Record, read: Callable[[Record], _JUDGEMENT]) -> dict[str, _JUDGEMENT]:
    """The judgements in the file, by the names of their cases; a file that is not there is begun."""
    if not path.exists() or not path.stat().st_size:
        _append(path, of)
        return {}
    try:
        whole, end, half = path.read_text(encoding="utf-8").rpartition("\n")
        stated, *records = [json.loads(line) for line in whole.splitlines()] or [None]
        found = [read(record) for record in records] if stated == of else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableError(f"{path}: holds no judgements of aprtui bench verdicts: choose another file") from error
    if stated != of:
        raise UsageError(f"{path}: holds judgements of {_words(stated)}, not of {_words(of)}: choose another file")
    if half:  # A run was ended amid a line.
        os.truncate(path, len((whole + end).encode()))
    return {judgement.what: judgement for judgement in found}


def _words(of: Any) -> str:
    with suppress(KeyError, TypeError):
        return f"the part {of['part']} on {of['model']} (SHA-256 {of['sha256'][:12]})"
    return "something else"


def _append(path: Path, record: Record) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(json_value(record), ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise EngineError(f"{path}: cannot be written: {error.strerror or error}: choose another file") from error
