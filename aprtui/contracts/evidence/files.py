"""Evidence files: a judgement with the check, captures and sources that it came from. Files are never changed.

    contracts/evidence/<contract>/<falsifier>-<date>.json

Each judgement has its own file: recording only adds files, so branches merge, and the whole history can be read. Keys
are sorted. A judgement of UNKNOWN is evidence of nothing and has no file. Each file ends with a seal, the digest of
everything in it: a file that was edited is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks.judgement import Relation
from aprtui.errors import UnreadableError
from aprtui.trace.aprt import write_atomically
from aprtui.trace.decode import DecodeError, decode
from aprtui.trace.json_value import json_number, json_value

FORMAT, VERSION = "aprtui-evidence", 2
SEAL = "seal"
SUFFIX = ".json"
DATE_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Host:
    """The machine that judged. `driver` is the CUDA version of the GPU's driver; None where there is none."""

    name: str
    system: str
    machine: str
    processor: str
    driver: str | None


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
class CapturedRun:
    """What it takes to make a capture again: the token ids with the number of those in the prompt and in the prefill,
    the stages and layers, the positions of the logits, the element type of the K/V cache, and the threads."""

    tokens: tuple[int, ...]
    prompt_tokens: int
    prefill_tokens: int
    stages: tuple[str, ...]
    layers: tuple[int, ...]
    logits: str
    kv_cache: str | None
    threads: int | None


@dataclass(frozen=True, slots=True)
class JudgedOn:
    """A capture that was judged, or a model that was run; `role` is `capture`, `reference` or `model`. A value that the
    manifest does not give is None. `digest` is that of the capture's files, as its manifest lists them."""

    role: str
    model: str | None
    model_sha256: str | None
    engine: str | None
    engine_version: str | None
    backend: str | None
    device: str | None
    mode: str | None
    faults: tuple[str, ...]
    digest: str | None = None
    run: CapturedRun | None = None


@dataclass(frozen=True, slots=True)
class EvidenceRecord:
    """One judgement with its provenance.

    `contract` is the path of the contract's file in its project, `claim` the digest of what the falsifier claimed
    (`claim_digest`). `date` is UTC, ISO 8601. `sources` are the digests of the sources that the falsifier vouches for.
    `check` is None where the falsifier's own command was run. `live` says that output of an engine was judged, not the
    contract or a command. `revision` is None outside of a git checkout. `test` is the falsifier's test and `output` the
    printed text, both by lines. `relation` is how `number` stands to `bound` where the claim holds.
    """

    contract: str
    contract_version: str
    falsifier: str
    claim: str
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
    relation: Relation


@dataclass(frozen=True, slots=True)
class EvidenceFile:
    path: Path
    record: EvidenceRecord


@dataclass(frozen=True, slots=True)
class RecordedEvidence:
    """The evidence of one contract: files by falsifier id, oldest first; `broken` are unreadable files, and why, and
    `edited` those that are not as they were recorded."""

    files: Mapping[str, tuple[EvidenceFile, ...]]
    broken: tuple[tuple[Path, str], ...] = ()
    edited: tuple[str, ...] = ()


class EditedEvidenceError(UnreadableError):
    """An evidence file that is not as it was recorded."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: was edited after it was recorded: restore it, or delete it and record again")


def write_evidence(folder: Path, evidence: EvidenceRecord) -> Path:
    """Write an evidence file in `folder` under an unused name. Raises `EngineError`."""
    stem = f"{as_name(evidence.falsifier)}-{evidence.date.replace('-', '').replace(':', '')}"
    number, path = 1, folder / f"{stem}{SUFFIX}"
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}{SUFFIX}"
    document = json_value({"format": FORMAT, "version": VERSION, **asdict(evidence)})
    text = json.dumps(sealed(document), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())
    return path


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of an evidence file with the seal that fits them."""
    contents = {name: value for name, value in document.items() if name != SEAL}
    return {**contents, SEAL: hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()}


def read_recorded(
    folder: Path, contract: str, edited: Collection[Path] = (), deleted: Mapping[Path, bytes] | None = None
) -> RecordedEvidence:
    """The evidence in `folder` for the contract with this path; files that are `edited` are refused even if their seal
    fits. Each FAIL among the contents of `deleted` files is evidence as if it still lay there. Raises nothing."""
    found: dict[str, list[EvidenceFile]] = {}
    broken, refused = [], []
    try:
        paths = sorted(folder.glob(f"*{SUFFIX}"))
    except OSError as error:
        return RecordedEvidence({}, ((folder, f"cannot be read: {error.strerror or error}"),))
    for path in paths:
        try:
            evidence = read_evidence(path)
            if path.resolve() in edited:
                raise EditedEvidenceError(path)
        except EditedEvidenceError as error:
            refused.append(str(error))
            continue
        except UnreadableError as error:
            broken.append((path, str(error)))
            continue
        if evidence.contract == contract:
            found.setdefault(evidence.falsifier, []).append(EvidenceFile(path, evidence))
        else:
            broken.append((path, f"{path}: is evidence of contract {evidence.contract!r:.60}: move it to its folder"))
    for path, data in (deleted or {}).items():
        with suppress(UnreadableError):
            evidence = evidence_in(path, data)
            if evidence.verdict is Verdict.FAIL and evidence.contract == contract:
                found.setdefault(evidence.falsifier, []).append(EvidenceFile(path, evidence))
    # A name sorts after its own prefixes, so the second file of the same second comes after the first.
    ordered = {
        name: tuple(sorted(files, key=lambda file: (file.record.date, file.path.stem))) for name, files in found.items()
    }
    return RecordedEvidence(ordered, tuple(broken), tuple(refused))


def stamp(folder: Path) -> int | None:
    """A value that changes when evidence comes or goes in `folder`; None where there is none."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return None


def read_evidence(path: Path) -> EvidenceRecord:
    """The evidence in a file. Raises `UnreadableError`, also for one that was edited since it was recorded."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    return evidence_in(path, data)


def evidence_in(path: Path, data: bytes) -> EvidenceRecord:
    """The evidence in the contents of a file. Raises `UnreadableError`."""
    if len(data) > MOST_BYTES:
        raise UnreadableError(f"{path}: larger than {MOST_BYTES} bytes: not an evidence file")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{path}: not JSON: delete it and record again") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT or document.get("version") != VERSION:
        raise UnreadableError(f'{path}: expected "format": "{FORMAT}", "version": {VERSION}: delete it, record again')
    if document.get(SEAL) != sealed(document)[SEAL]:
        raise EditedEvidenceError(path)
    for name in ("number", "bound"):
        document[name] = json_number(document.get(name))
    try:
        evidence = decode(EvidenceRecord, document)
    except DecodeError as error:
        raise UnreadableError(f"{path}: {error}: delete it and record again") from error
    if evidence.verdict is Verdict.UNKNOWN:
        raise UnreadableError(f"{path}: its verdict is UNKNOWN, which is evidence of nothing: delete it")
    return evidence


def as_name(text: str) -> str:
    """`text` as a file name: characters with a meaning to a file system are replaced."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text).lstrip(".") or "_"
