"""Evidence files: a judgement with the check, captures and sources that it came from. Files are never changed.

    contracts/evidence/<contract>/<falsifier>-<date>.json

Each judgement has its own file: recording only adds files, so branches merge, and the whole history can be read. Keys
are sorted. A judgement of UNKNOWN is evidence of nothing and has no file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aprtui.compare.verdict import Verdict
from aprtui.errors import UnreadableError
from aprtui.trace.aprt import write_atomically
from aprtui.trace.decode import DecodeError, decode
from aprtui.trace.json_value import json_number, json_value

FORMAT, VERSION = "aprtui-evidence", 1
SUFFIX = ".json"
MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Host:
    """The machine that judged."""

    name: str
    system: str
    machine: str
    processor: str


@dataclass(frozen=True, slots=True)
class Revision:
    """The commit that was checked out; `dirty` where the contract, a source or a tracked file differed from it."""

    commit: str
    dirty: bool


@dataclass(frozen=True, slots=True)
class CheckRun:
    """The built-in check that judged."""

    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class JudgedOn:
    """A capture that was judged, or a model that was run; `role` is `capture`, `reference` or `model`. A value that the
    manifest does not give is None."""

    role: str
    model: str | None
    model_sha256: str | None
    engine: str | None
    engine_version: str | None
    backend: str | None
    device: str | None
    mode: str | None
    tokens: int | None
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EvidenceRecord:
    """One judgement with its provenance.

    `date` is UTC, ISO 8601. `sources` are the digests of the sources that the falsifier vouches for. `check` is None
    where the falsifier's own command was run. `live` says that output of an engine was judged, not the contract or a
    command. `revision` is None outside of a git checkout. `test` is the falsifier's test and `output` the printed text,
    both by lines.
    """

    contract: str
    contract_version: str
    falsifier: str
    date: str
    host: Host
    program_version: str
    revision: Revision | None
    sources: Mapping[str, str]
    judged_on: tuple[JudgedOn, ...]
    live: bool
    check: CheckRun | None
    test: tuple[str, ...]
    command: str
    output: tuple[str, ...]
    verdict: Verdict
    reason: str
    metric: str
    number: float | None
    bound: float | None


@dataclass(frozen=True, slots=True)
class EvidenceFile:
    path: Path
    record: EvidenceRecord


@dataclass(frozen=True, slots=True)
class RecordedEvidence:
    """The evidence of one contract: files by falsifier id, oldest first; `broken` are unreadable files, and why."""

    files: Mapping[str, tuple[EvidenceFile, ...]]
    broken: tuple[tuple[Path, str], ...] = ()


def write_evidence(folder: Path, evidence: EvidenceRecord) -> Path:
    """Write an evidence file below `folder` under an unused name. Raises `EngineError`."""
    stem = f"{_as_name(evidence.falsifier)}-{evidence.date.replace('-', '').replace(':', '')}"
    directory = folder / _as_name(evidence.contract)
    number, path = 1, directory / f"{stem}{SUFFIX}"
    while path.exists():
        number += 1
        path = directory / f"{stem}-{number}{SUFFIX}"
    document = {"format": FORMAT, "version": VERSION, **asdict(evidence)}
    text = json.dumps(json_value(document), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())
    return path


def read_recorded(folder: Path, contract: str) -> RecordedEvidence:
    """The evidence below `folder` for `contract`. Raises nothing: `broken` lists files that cannot be read."""
    found: dict[str, list[EvidenceFile]] = {}
    broken = []
    try:
        paths = sorted((folder / _as_name(contract)).glob(f"*{SUFFIX}"))
    except OSError as error:
        return RecordedEvidence({}, ((folder, f"cannot be read: {error.strerror or error}"),))
    for path in paths:
        try:
            evidence = read_evidence(path)
        except UnreadableError as error:
            broken.append((path, str(error)))
            continue
        if evidence.contract == contract:
            found.setdefault(evidence.falsifier, []).append(EvidenceFile(path, evidence))
        else:
            broken.append((path, f"{path}: is evidence of contract {evidence.contract!r:.60}: move it to its folder"))
    # A name sorts after its own prefixes, so the second file of the same second comes after the first.
    ordered = {
        name: tuple(sorted(files, key=lambda file: (file.record.date, file.path.stem))) for name, files in found.items()
    }
    return RecordedEvidence(ordered, tuple(broken))


def stamp(folder: Path, contract: str) -> int | None:
    """A value that changes when evidence for `contract` comes or goes below `folder`; None where there is none."""
    try:
        return (folder / _as_name(contract)).stat().st_mtime_ns
    except OSError:
        return None


def read_evidence(path: Path) -> EvidenceRecord:
    """The evidence in a file. Raises `UnreadableError`."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise UnreadableError(f"{path}: larger than {MOST_BYTES} bytes: not an evidence file")
        document = json.loads(data)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{path}: not JSON: delete it and record again") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT or document.get("version") != VERSION:
        raise UnreadableError(f'{path}: expected "format": "{FORMAT}", "version": {VERSION}: delete it, record again')
    for name in ("number", "bound"):
        document[name] = json_number(document.get(name))
    try:
        evidence = decode(EvidenceRecord, document)
    except DecodeError as error:
        raise UnreadableError(f"{path}: {error}: delete it and record again") from error
    if evidence.verdict is Verdict.UNKNOWN:
        raise UnreadableError(f"{path}: its verdict is UNKNOWN, which is evidence of nothing: delete it")
    return evidence


def _as_name(text: str) -> str:
    """`text` as a file name: characters with a meaning to a file system are replaced."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip(".") or "_"
