"""What recorded evidence carries: the level it gives now, the level that any of it ever gave, and why they differ.

Evidence holds as long as the sources that it vouches for, and the check that judged, are as they were. Evidence that no
longer holds counts one level lower; so does evidence that vouches for no source, since nothing tells whether it holds.
A FAIL refutes what was recorded before it.

| level | what carries it |
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
from aprtui.contracts.evidence.files import Evidence, EvidenceFile, Recorded, read_recorded, stamp
from aprtui.contracts.evidence.project import Project, project_of

ALGORITHM_EVIDENCE = "algorithm_evidence"
_ONE_LOWER = {
    Maturity.DISCHARGED: Maturity.FUNCTIONAL,
    Maturity.FUNCTIONAL: Maturity.ALGORITHM,
}


class Standing(StrEnum):
    """Whether evidence still holds; UNBOUND where it vouches for no source."""

    FRESH = "fresh"
    STALE = "stale"
    UNBOUND = "unbound"


@dataclass(frozen=True, slots=True)
class Backer:
    """One piece of evidence; `changes` says in words what is not as it was."""

    path: Path
    evidence: Evidence
    standing: Standing
    changes: tuple[str, ...]

    @property
    def words(self) -> str:
        """Whether it still holds, and why not."""
        if self.standing is Standing.UNBOUND:
            return "unbound: it vouches for no source file"
        return f"{self.standing}{': ' if self.changes else ''}{', '.join(self.changes)}"


@dataclass(frozen=True, slots=True)
class Backing:
    """What backs one falsifier, newest first: the level carried `now`, and the highest that was `ever` carried."""

    backers: tuple[Backer, ...]
    now: Maturity
    ever: Maturity

    @property
    def newest(self) -> Backer | None:
        """The newest evidence; None where nothing was recorded."""
        return self.backers[0] if self.backers else None

    @property
    def refuted(self) -> bool:
        """Whether the newest evidence is a FAIL."""
        return self.newest is not None and self.newest.evidence.verdict is Verdict.FAIL


@dataclass(frozen=True, slots=True)
class Ledger:
    """The evidence of one contract, held against its project as it is."""

    project: Project
    recorded: Recorded

    def backing(self, falsifier: Falsifier, check: CheckCall | None) -> Backing:
        """What backs `falsifier`, which `check` judges now."""
        files = reversed(self.recorded.files.get(falsifier.id, ()))
        backers = tuple(self._backer(file, falsifier, check) for file in files)
        stated = any(found.key == ALGORITHM_EVIDENCE and (found.texts or found.parts) for found in falsifier.evidence)
        floor = Maturity.ALGORITHM if stated else Maturity.NONE
        unrefuted = tuple(takewhile(_passed, backers))
        fresh = [backer for backer in unrefuted if backer.standing is Standing.FRESH]
        now = max(level_of(fresh), _ONE_LOWER.get(level_of(unrefuted), Maturity.NONE))
        refuted = bool(backers) and not unrefuted
        ever = level_of(backer for backer in backers if _passed(backer))
        return Backing(backers, Maturity.NONE if refuted else max(now, floor), max(ever, floor))

    def _backer(self, file: EvidenceFile, falsifier: Falsifier, check: CheckCall | None) -> Backer:
        evidence = file.evidence
        changes = [
            f"{source} {'is gone' if now is None else 'changed'}"
            for source, then in sorted(evidence.sources.items())
            if (now := self.project.digest(source)) != then
        ]
        changes += [
            f"{source} is vouched for since" for source in falsifier.vouches_for if source not in evidence.sources
        ]
        if _is_judged_otherwise(evidence, falsifier, check):
            changes.append("the check changed" if evidence.check is not None else "the test changed")
        unbound = not evidence.sources and not changes
        standing = Standing.UNBOUND if unbound else Standing.STALE if changes else Standing.FRESH
        return Backer(file.path, evidence, standing, tuple(changes))


NO_LEDGER = Ledger(Project(Path(), Path()), Recorded({}))
"""For rows whose evidence is not looked at."""


def ledger_of(document: Document, evidence_dir: Path | None = None) -> Ledger:
    """The evidence of a contract, from `evidence_dir` or where its project keeps it. Raises nothing."""
    project = project_of(document.path, evidence_dir)
    return Ledger(project, read_recorded(project.evidence, document.name))


def stamps(documents: Iterable[Document]) -> tuple[int | None, ...]:
    """What changes when evidence for one of `documents` is recorded or deleted."""
    return tuple(stamp(project_of(document.path).evidence, document.name) for document in documents)


def level_of(backers: Iterable[Backer]) -> Maturity:
    """The level that PASSes carry together, whether or not they still hold."""
    passes = [backer.evidence for backer in backers]
    live = [evidence for evidence in passes if evidence.live]
    proper = [evidence for evidence in live if not provenance_lacks(evidence)]
    if any(map(is_against_another_engine, proper)) or are_repeated(proper):
        return Maturity.DISCHARGED
    if live:
        return Maturity.FUNCTIONAL
    return Maturity.ALGORITHM if passes else Maturity.NONE


def provenance_lacks(evidence: Evidence) -> str:
    """What evidence would have to say of its origin to count towards DISCHARGED; empty where it says all."""
    if evidence.revision is None:
        return "it names no git revision"
    if evidence.revision.dirty:
        return "it was recorded with changes that were not committed"
    if any(side.model_sha256 is None for side in evidence.judged_on):
        return "a capture does not say by which model it was made"
    return ""


def is_against_another_engine(evidence: Evidence) -> bool:
    """Whether two engines were compared: one is the other's oracle."""
    return len({side.engine for side in evidence.judged_on} - {None}) > 1


def are_repeated(evidence: Sequence[Evidence]) -> bool:
    """Whether it was judged on two days or on two hosts."""
    return len({(found.date[:10], found.host.name) for found in evidence}) > 1


def _passed(backer: Backer) -> bool:
    return backer.evidence.verdict is Verdict.PASS


def _is_judged_otherwise(evidence: Evidence, falsifier: Falsifier, check: CheckCall | None) -> bool:
    if evidence.check is None:
        return evidence.test != falsifier.test_lines
    if check is None:
        return False
    return (evidence.check.name, dict(evidence.check.parameters)) != (check.name, dict(check.parameters))
