"""The assessment of recorded evidence: the level it carries now, the highest it ever carried, and why they differ.

Evidence holds as long as the sources that it vouches for, and the check that judged, are unchanged. Evidence that no
longer holds counts one level lower; so does evidence that vouches for no source, since its state is unknown. A
FAIL refutes everything recorded before it.

| level | evidence that carries it |
|---|---|
| PARTIAL_ALGORITHM_LEVEL | a PASS on the contract alone or of a command; `algorithm_evidence` in the contract |
| FUNCTIONAL | a PASS on what an engine produced |
| DISCHARGED | such a PASS against another engine, or on two days or hosts; with models and a clean revision |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile
from pathlib import Path

from aprtui.compare.verdict import Verdict
from aprtui.contracts.documents.document import CheckCall, Document, Falsifier, Maturity
from aprtui.contracts.evidence.files import EvidenceFile, EvidenceRecord, RecordedEvidence, read_recorded, stamp
from aprtui.contracts.evidence.project import Project, project_of

ALGORITHM_EVIDENCE = "algorithm_evidence"
_ONE_LOWER = {Maturity.DISCHARGED: Maturity.FUNCTIONAL, Maturity.FUNCTIONAL: Maturity.ALGORITHM}


class Standing(StrEnum):
    """Whether evidence still holds; UNBOUND where it vouches for no source."""

    FRESH = "fresh"
    STALE = "stale"
    UNBOUND = "unbound"


@dataclass(frozen=True, slots=True)
class AssessedEvidence:
    """One piece of evidence; `changes` says in words what has changed since."""

    path: Path
    record: EvidenceRecord
    standing: Standing
    changes: tuple[str, ...]

    @property
    def words(self) -> str:
        """Whether it still holds, and if not, why."""
        if self.standing is Standing.UNBOUND:
            return "unbound: it vouches for no source file"
        return f"{self.standing}{': ' if self.changes else ''}{', '.join(self.changes)}"


@dataclass(frozen=True, slots=True)
class Assessment:
    """The evidence for one falsifier, newest first, the level that it carries `now`, and the highest it `ever` did."""

    evidence: tuple[AssessedEvidence, ...]
    now: Maturity
    ever: Maturity

    @property
    def newest(self) -> AssessedEvidence | None:
        """The newest evidence; None where nothing was recorded."""
        return self.evidence[0] if self.evidence else None

    @property
    def refuted(self) -> bool:
        """Whether the newest evidence is a FAIL."""
        return self.newest is not None and self.newest.record.verdict is Verdict.FAIL


@dataclass(frozen=True, slots=True)
class Ledger:
    """The recorded evidence of one contract, and the project that it is compared with."""

    project: Project
    recorded: RecordedEvidence

    def assess(self, falsifier: Falsifier, check: CheckCall | None) -> Assessment:
        """The assessment of the evidence for `falsifier`, which `check` judges now."""
        files = reversed(self.recorded.files.get(falsifier.id, ()))
        evidence = tuple(self._assessed(file, falsifier, check) for file in files)
        stated = any(found.key == ALGORITHM_EVIDENCE and (found.texts or found.parts) for found in falsifier.evidence)
        floor = Maturity.ALGORITHM if stated else Maturity.NONE
        unrefuted = tuple(takewhile(_passed, evidence))
        fresh = [piece for piece in unrefuted if piece.standing is Standing.FRESH]
        now = max(level_of(fresh), _ONE_LOWER.get(level_of(unrefuted), Maturity.NONE))
        refuted = bool(evidence) and not unrefuted
        ever = level_of(piece for piece in evidence if _passed(piece))
        return Assessment(evidence, Maturity.NONE if refuted else max(now, floor), max(ever, floor))

    def _assessed(self, file: EvidenceFile, falsifier: Falsifier, check: CheckCall | None) -> AssessedEvidence:
        evidence = file.record
        changes = [
            f"{source} {'is gone' if now is None else 'changed'}"
            for source, then in sorted(evidence.sources.items())
            if (now := self.project.digest(source)) != then
        ]
        changes += [
            f"{source} was added to vouches_for" for source in falsifier.vouches_for if source not in evidence.sources
        ]
        if _is_judged_otherwise(evidence, falsifier, check):
            changes.append("the check changed" if evidence.check is not None else "the test changed")
        unbound = not evidence.sources and not changes
        standing = Standing.UNBOUND if unbound else Standing.STALE if changes else Standing.FRESH
        return AssessedEvidence(file.path, evidence, standing, tuple(changes))


NO_LEDGER = Ledger(Project(Path(), Path()), RecordedEvidence({}))
"""The ledger of rows whose evidence is not assessed."""


def ledger_of(document: Document, evidence_dir: Path | None = None) -> Ledger:
    """The evidence of a contract, from `evidence_dir` or where its project keeps it. Raises nothing."""
    project = project_of(document.path, evidence_dir)
    return Ledger(project, read_recorded(project.evidence, document.name))


def stamps(documents: Iterable[Document]) -> tuple[int | None, ...]:
    """A value that changes when evidence for one of `documents` is recorded or deleted."""
    return tuple(stamp(project_of(document.path).evidence, document.name) for document in documents)


def level_of(evidence: Iterable[AssessedEvidence]) -> Maturity:
    """The level that PASSes carry together, whether or not they still hold."""
    passes = [piece.record for piece in evidence]
    live = [evidence for evidence in passes if evidence.live]
    proper = [evidence for evidence in live if not missing_provenance(evidence)]
    if any(map(is_against_another_engine, proper)) or are_repeated(proper):
        return Maturity.DISCHARGED
    if live:
        return Maturity.FUNCTIONAL
    return Maturity.ALGORITHM if passes else Maturity.NONE


def missing_provenance(evidence: EvidenceRecord) -> str:
    """What the record lacks about its origin to count towards DISCHARGED; empty where it lacks nothing."""
    if evidence.revision is None:
        return "it names no git revision"
    if evidence.revision.dirty:
        return "it was recorded with changes that were not committed"
    if any(side.model_sha256 is None for side in evidence.judged_on):
        return "a capture does not say by which model it was made"
    return ""


def is_against_another_engine(evidence: EvidenceRecord) -> bool:
    """Whether two engines were compared, so that one is the other's oracle."""
    return len({side.engine for side in evidence.judged_on} - {None}) > 1


def are_repeated(evidence: Sequence[EvidenceRecord]) -> bool:
    """Whether the records are of two days or of two hosts."""
    return len({(found.date[:10], found.host.name) for found in evidence}) > 1


def _passed(piece: AssessedEvidence) -> bool:
    return piece.record.verdict is Verdict.PASS


def _is_judged_otherwise(evidence: EvidenceRecord, falsifier: Falsifier, check: CheckCall | None) -> bool:
    if evidence.check is None:
        return evidence.test != falsifier.test_lines
    if check is None:
        return False
    return (evidence.check.name, dict(evidence.check.parameters)) != (check.name, dict(check.parameters))
