"""The assessment of recorded evidence: the level it carries now, the highest it ever carried, and why they differ.

Evidence holds as long as the claim, the sources that it vouches for, and the check that judged are unchanged. Evidence
that no longer holds counts one level lower; so does evidence that vouches for no source, since its state is unknown.
Void evidence carries nothing: it contradicts itself, has an injected fault that the claim does not ask for, or is about
another subject, or its check asks for less than the claim says. A FAIL refutes everything recorded before it, and each
PASS on the same sources, before it or after it, also under an id that is gone, or in a file that was deleted.

| level | evidence that carries it |
|---|---|
| PARTIAL_ALGORITHM_LEVEL | a PASS on the contract alone or of a command; `algorithm_evidence` in the contract |
| FUNCTIONAL | a PASS on what an engine produced |
| DISCHARGED | such a PASS against an oracle on the same weights, or two of the same subject on two machines |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import combinations, takewhile
from pathlib import Path

from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks.claimed import claim_texts, looser_than_claimed
from aprtui.contracts.documents.document import CheckCall, Document, Equation, Falsifier, Maturity
from aprtui.contracts.evidence.about import REFERENCE, about_of, other_subject, unplanned_fault
from aprtui.contracts.evidence.claim import claim_digest
from aprtui.contracts.evidence.files import (
    DATE_FORMAT,
    EvidenceFile,
    EvidenceRecord,
    RecordedEvidence,
    read_recorded,
    stamp,
)
from aprtui.contracts.evidence.project import Project, deleted_failures, edited_since_recorded, project_of
from aprtui.contracts.evidence.stated import stated_level
from aprtui.errors import UsageError

DOCUMENTS = frozenset({".md", ".rst", ".txt", ".png", ".svg"})
"""Files of these kinds are no source of an engine: evidence that vouches for them alone is unbound."""

_CLOCKS_DIFFER = timedelta(days=1)
_ONE_LOWER = {Maturity.DISCHARGED: Maturity.FUNCTIONAL, Maturity.FUNCTIONAL: Maturity.ALGORITHM}


class Standing(StrEnum):
    """Whether evidence still holds; UNBOUND where it vouches for no source, VOID where it carries nothing at all."""

    FRESH = "fresh"
    STALE = "stale"
    UNBOUND = "unbound"
    VOID = "void"


@dataclass(frozen=True, slots=True)
class AssessedEvidence:
    """One piece of evidence; `changes` says in words what has changed since, or why it is void."""

    path: Path
    record: EvidenceRecord
    standing: Standing
    changes: tuple[str, ...]

    @property
    def words(self) -> str:
        """Whether it still holds, and if not, why."""
        if self.standing is Standing.UNBOUND:
            return "unbound: it vouches for no source file" + (", only for documents" if self.record.sources else "")
        return f"{self.standing}{': ' if self.changes else ''}{', '.join(self.changes)}"


@dataclass(frozen=True, slots=True)
class Assessment:
    """The evidence for one falsifier, newest first, the level that it carries `now`, and the highest it `ever` did.

    `against` is the FAIL that refutes it; None where none does.
    """

    evidence: tuple[AssessedEvidence, ...]
    now: Maturity
    ever: Maturity
    against: AssessedEvidence | None = None

    @property
    def newest(self) -> AssessedEvidence | None:
        """The newest evidence; None where nothing was recorded."""
        return self.evidence[0] if self.evidence else None

    @property
    def refuted(self) -> bool:
        """Whether the newest evidence is a FAIL, or a PASS on sources on which a FAIL was recorded as well."""
        return self.against is not None


@dataclass(frozen=True, slots=True)
class Ledger:
    """The recorded evidence of one contract, the project that it is compared with, and the contract's equations and
    ids of falsifiers."""

    project: Project
    recorded: RecordedEvidence
    equations: tuple[Equation, ...] = ()
    ids: frozenset[str] = frozenset()

    def assess(self, falsifier: Falsifier, check: CheckCall | None) -> Assessment:
        """The assessment of the evidence for `falsifier`, which `check` judges now."""
        evidence = tuple(self._assessed(file, falsifier, check) for file in self._files_of(falsifier))
        stated = stated_level(falsifier, self.project)
        floor = min(stated, max(Maturity.ALGORITHM, _ONE_LOWER.get(stated, Maturity.NONE)))
        counted = [piece for piece in evidence if piece.standing is not Standing.VOID]
        passed = [piece for piece in counted if _passed(piece)]
        unrefuted = list(takewhile(lambda piece: _failed_alike(piece, counted) is None, counted))
        fresh = [piece for piece in unrefuted if piece.standing is Standing.FRESH]
        now = max(level_of(fresh), _ONE_LOWER.get(level_of(unrefuted), Maturity.NONE))
        against = _failed_alike(counted[0], counted) if counted else None
        ever = max(level_of(passed), stated)
        return Assessment(evidence, Maturity.NONE if against is not None else max(now, floor), ever, against)

    def _files_of(self, falsifier: Falsifier) -> list[EvidenceFile]:
        """The evidence for a falsifier, newest first, with each FAIL of the same claim under an id that is gone."""
        files = list(self.recorded.files.get(falsifier.id, ()))
        claim = claim_digest(self.equations, falsifier)
        for name in self.recorded.files.keys() - self.ids if self.ids else ():
            files += [
                file
                for file in self.recorded.files[name]
                if file.record.verdict is Verdict.FAIL and file.record.claim == claim
            ]
        return sorted(files, key=lambda file: (file.record.date, file.path.stem), reverse=True)

    def _assessed(self, file: EvidenceFile, falsifier: Falsifier, check: CheckCall | None) -> AssessedEvidence:
        evidence = file.record
        void = list(void_reasons(evidence, check))
        if evidence.check is not None and evidence.verdict is Verdict.PASS:
            then = CheckCall(evidence.check.name, evidence.check.parameters)
            void += filter(None, [looser_than_claimed(then, claim_texts(self.equations, falsifier))])
        if void:
            return AssessedEvidence(file.path, evidence, Standing.VOID, tuple(void))
        changes = [
            f"{source} {'is gone' if now is None else 'changed'}"
            for source, then in sorted(evidence.sources.items())
            if (now := self.project.digest(source)) != then
        ]
        changes += [
            f"{source} was added to vouches_for" for source in falsifier.vouches_for if source not in evidence.sources
        ]
        if evidence.claim != claim_digest(self.equations, falsifier):
            changes.append("the claim changed")
        if _is_judged_otherwise(evidence, falsifier, check):
            changes.append("the check changed" if evidence.check is not None else "the test changed")
        unbound = not changes and all(Path(source).suffix.lower() in DOCUMENTS for source in evidence.sources)
        standing = Standing.UNBOUND if unbound else Standing.STALE if changes else Standing.FRESH
        return AssessedEvidence(file.path, evidence, standing, tuple(changes))


NO_LEDGER = Ledger(Project(Path(), Path()), RecordedEvidence({}))
"""The ledger of rows whose evidence is not assessed."""


def ledger_of(document: Document, evidence_dir: Path | None = None) -> Ledger:
    """The evidence of a contract, from `evidence_dir` or where its project keeps it. Raises nothing."""
    project = project_of(document.path, evidence_dir)
    edited, deleted = edited_since_recorded(project), deleted_failures(project)
    recorded = read_recorded(project.own_evidence, project.contract, edited, deleted)
    ids = frozenset(test.id for test in document.falsifiers)
    return Ledger(project, recorded, document.equations, ids)


def stamps(documents: Iterable[Document]) -> tuple[int | None, ...]:
    """A value that changes when evidence for one of `documents` is recorded or deleted."""
    return tuple(stamp(project_of(document.path).own_evidence) for document in documents)


def void_reasons(evidence: EvidenceRecord, check: CheckCall | None) -> Iterator[str]:
    """Why a record carries nothing, whatever else it says; `check` judges the claim now."""
    if evidence.date > (datetime.now(UTC) + _CLOCKS_DIFFER).strftime(DATE_FORMAT):
        yield f"it is dated in the future, {evidence.date}"
    number, bound, relation = evidence.number, evidence.bound, evidence.relation
    if number is not None and bound is not None and relation.holds(number, bound) != (evidence.verdict is Verdict.PASS):
        yield f"it says {evidence.verdict}, and its {evidence.metric} {number:g} has to be {relation} {bound:g}"
    then = None if evidence.check is None else CheckCall(evidence.check.name, evidence.check.parameters)
    try:
        about = about_of(check or then)
    except UsageError as error:
        yield str(error)
        return
    if evidence.live:
        if fault := unplanned_fault(then, about, evidence.judged_on):
            yield fault
        if other := other_subject(about, evidence.judged_on):
            yield f"it is about {other}"


def level_of(evidence: Iterable[AssessedEvidence]) -> Maturity:
    """The level that PASSes carry together, whether or not they still hold."""
    passes = [piece.record for piece in evidence]
    live = [evidence for evidence in passes if evidence.live]
    proper = [evidence for evidence in live if not missing_provenance(evidence)]
    if any(map(is_against_an_oracle, proper)) or are_repeated(proper):
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


def is_against_an_oracle(evidence: EvidenceRecord) -> bool:
    """Whether two engines ran the same weights and were compared, so that one is the other's oracle.

    The same bytes under two names are one engine's.
    """
    sides = {side.role: side for side in evidence.judged_on}
    if REFERENCE not in sides or len(sides) != 2:
        return False
    a, b = sides.values()
    if a.engine is None or b.engine is None or a.engine.lower() == b.engine.lower():
        return False
    return a.model_sha256 == b.model_sha256 and (a.digest is None or a.digest != b.digest)


def are_repeated(evidence: Sequence[EvidenceRecord]) -> bool:
    """Whether two of the records are of the same subject on two machines."""
    return any(_same_subject(a, b) and _other_machines(a, b) for a, b in combinations(evidence, 2))


def _same_subject(a: EvidenceRecord, b: EvidenceRecord) -> bool:
    return a.claim == b.claim and a.check == b.check and _subject(a) == _subject(b)


def _subject(evidence: EvidenceRecord) -> list[tuple[str | None, ...]]:
    return sorted((side.role, side.model_sha256, side.engine, side.engine_version) for side in evidence.judged_on)


def _other_machines(a: EvidenceRecord, b: EvidenceRecord) -> bool:
    """Whether hardware and driver differ. A machine's name is no part of it; nor is the day. What counts is where the
    engine ran, not where its capture was judged."""
    if (a.host.system, a.host.driver) == (b.host.system, b.host.driver) or not a.judged_on:
        return False
    devices = [{side.role: side.device for side in found.judged_on} for found in (a, b)]
    return all(device is not None and device != devices[1].get(role) for role, device in devices[0].items()) and (
        None not in devices[1].values()
    )


def _passed(piece: AssessedEvidence) -> bool:
    return piece.record.verdict is Verdict.PASS


def _failed_alike(piece: AssessedEvidence, counted: Sequence[AssessedEvidence]) -> AssessedEvidence | None:
    """The FAIL that `piece` is, or that was recorded on the same sources: they hold and fail by turns."""
    if not _passed(piece):
        return piece
    return next((other for other in counted if not _passed(other) and _same_tree(piece.record, other.record)), None)


def _same_tree(a: EvidenceRecord, b: EvidenceRecord) -> bool:
    """Whether two records are of the same sources, claim and subject; without sources, of the same revision."""
    where = a.sources or a.revision
    return (
        bool(where)
        and a.sources == b.sources
        and (bool(a.sources) or a.revision == b.revision)
        and (_same_subject(a, b) and a.test == b.test)
    )


def _is_judged_otherwise(evidence: EvidenceRecord, falsifier: Falsifier, check: CheckCall | None) -> bool:
    if evidence.check is None:
        return evidence.test != falsifier.test_lines
    if check is None:
        return False
    return (evidence.check.name, dict(evidence.check.parameters)) != (check.name, dict(check.parameters))
