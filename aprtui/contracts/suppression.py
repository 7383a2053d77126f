"""Findings that are known and do not count: suppressed by code and contract, or recorded in a baseline.

    suppressions = suppressions_of(("LINT-003@old-v1",), read_baseline(path))
    reported = suppressions.apply(findings, [document.path for document in documents])

A suppression that hides nothing any more is itself a finding. What evidence refutes, and a broken lock, cannot be
hidden.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from os.path import relpath
from pathlib import Path

from aprtui.contracts.documents.validation import Finding, Severity
from aprtui.errors import UnreadableError, UsageError
from aprtui.trace.aprt import write_atomically

STALE = "PV-SUP-001"
STALE_RULE = ("a suppression hides some finding", "remove it from the command, or write the baseline again")

NOT_HIDDEN = frozenset({"LINT-010", "LINT-012", "LINT-016", "PV-LCK-001"})
"""Claims above their evidence, claims that a FAIL refutes, edited evidence, and locks."""

_FORMAT, _VERSION = "aprtui-baseline", 1
_MOST_BYTES = 16 << 20
_LINE = re.compile(r"\bline \d+")

Known = tuple[str, str, str]
"""Code, path and message of a finding; the path is relative to the baseline, the message without numbers of lines."""


@dataclass(frozen=True, slots=True)
class Suppressed:
    """What may be hidden: a code and a contract's name, or globs of them, as `written`."""

    written: str
    code: str
    contract: str

    def hides(self, finding: Finding) -> bool:
        named = fnmatchcase(finding.code, self.code) and fnmatchcase(finding.path.stem, self.contract)
        return named and finding.code not in NOT_HIDDEN


@dataclass(frozen=True, slots=True)
class Baseline:
    """The findings that are known, as often as each occurred."""

    path: Path
    known: Counter[Known]


@dataclass(frozen=True, slots=True)
class Reported:
    """The findings that count, stale suppressions among them, and how many were hidden."""

    findings: tuple[Finding, ...]
    hidden: int


@dataclass(frozen=True, slots=True)
class Suppressions:
    written: tuple[Suppressed, ...] = ()
    baseline: Baseline | None = None

    def apply(self, findings: Sequence[Finding], paths: Sequence[Path]) -> Reported:
        """The findings that are not hidden. `paths` are the contracts that were looked at: entries of the baseline for
        others are not stale."""
        unused = dict.fromkeys(self.written)
        known: Counter[Known] = Counter() if self.baseline is None else Counter(self.baseline.known)
        kept = []
        for finding in findings:
            by = [rule for rule in self.written if rule.hides(finding)]
            for rule in by:
                unused.pop(rule, None)
            key = None if self.baseline is None else _known(finding, self.baseline.path)
            in_baseline = key is not None and known[key] > 0 and finding.code not in NOT_HIDDEN
            if in_baseline and key is not None:
                known[key] -= 1
            if not by and not in_baseline:
                kept.append(finding)
        stale = (*self._stale(list(unused)), *self._stale_entries(known, paths))
        return Reported((*kept, *stale), len(findings) - len(kept))

    def _stale(self, unused: Sequence[Suppressed]) -> Iterator[Finding]:
        for rule in unused:
            yield Finding(STALE, Severity.WARN, f"--suppress {rule.written}: hides nothing: remove it", Path(), 1)

    def _stale_entries(self, left: Counter[Known], paths: Sequence[Path]) -> Iterator[Finding]:
        if self.baseline is None:
            return
        looked_at = {_relative(path, self.baseline.path) for path in paths}
        for (code, path, message), count in sorted(left.items()):
            if count and path in looked_at:
                said = f"{code} of {path} is no more: {message:.120}"
                yield Finding(STALE, Severity.WARN, said, self.baseline.path, 1)


def suppressions_of(written: Sequence[str], baseline: Baseline | None = None) -> Suppressions:
    """The suppressions in `written`, each `CODE`, or `CODE@CONTRACT`. Raises `UsageError` for one that may not be."""
    found = []
    for word in written:
        code, _, contract = word.partition("@")
        if code in NOT_HIDDEN:
            raise UsageError(
                f"--suppress {word}: {code} cannot be hidden: see aprtui contracts explain {code} for what to do"
            )
        if not code:
            raise UsageError(f"--suppress {word}: expected CODE, or CODE@CONTRACT: LINT-003@my-v1, '*@my-v1'")
        found.append(Suppressed(word, code, contract or "*"))
    return Suppressions(tuple(found), baseline)


def read_baseline(path: Path) -> Baseline:
    """The baseline in a file. Raises `UnreadableError`."""
    try:
        data = path.read_bytes()
        document = json.loads(data) if len(data) <= _MOST_BYTES else None
    except OSError as error:
        problem = f"{path}: cannot be read: {error.strerror or error}: write it with --write-baseline"
        raise UnreadableError(problem) from error
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{path}: not JSON: write it again with --write-baseline") from error
    entries = None
    if isinstance(document, dict) and (document.get("format"), document.get("version")) == (_FORMAT, _VERSION):
        entries = document.get("findings")
    fields = ("code", "path", "message")
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in fields) for entry in entries
    ):
        raise UnreadableError(f"{path}: no baseline of findings: write it again with --write-baseline")
    return Baseline(path, Counter((entry["code"], entry["path"], entry["message"]) for entry in entries))


def write_baseline(path: Path, findings: Sequence[Finding]) -> int:
    """Write those of `findings` that may be hidden as the baseline, and give their number."""
    known = sorted(_known(finding, path) for finding in findings if finding.code not in NOT_HIDDEN)
    entries = [dict(zip(("code", "path", "message"), entry, strict=True)) for entry in known]
    document = {"format": _FORMAT, "version": _VERSION, "findings": entries}
    write_atomically(path, f"{json.dumps(document, indent=1, ensure_ascii=False)}\n".encode())
    return len(known)


def _known(finding: Finding, baseline: Path) -> Known:
    return finding.code, _relative(finding.path, baseline), _LINE.sub("line …", finding.message)


def _relative(path: Path, baseline: Path) -> str:
    return Path(relpath(path.absolute(), baseline.absolute().parent)).as_posix()
