"""Lint rules about evidence: that it is there, that it carries what is claimed, and that it still holds.

Files of evidence are asked for where a contract itself names the check that would make them. Contracts of others keep
their evidence in their own ways.
"""

from __future__ import annotations

from collections.abc import Iterator

from aprtui.contracts.checks.mapping import own_mapping
from aprtui.contracts.documents.document import Claim, Document, Falsifier
from aprtui.contracts.documents.finding import Severity
from aprtui.contracts.documents.maturity import NAMES, Maturity
from aprtui.contracts.evaluation import check_of
from aprtui.contracts.evidence.assessment import Backing, Standing
from aprtui.contracts.lint.rule import Breaches, LintRule, Surroundings

_EVIDENCE_FILE = "evidence_file"


def backings(document: Document, surroundings: Surroundings) -> Iterator[tuple[Falsifier, Backing]]:
    """What backs each falsifier; nothing where no ledger is at hand."""
    ledger = surroundings.ledgers.get(document.path)
    if ledger is not None:
        for test in document.falsifiers:
            yield test, ledger.backing(test, check_of(test, own_mapping()))


def _claims(document: Document, surroundings: Surroundings) -> Iterator[tuple[Falsifier, Backing, Claim]]:
    """The highest claim of each falsifier that claims anything, where files of evidence are asked for or there."""
    for test, backing in backings(document, surroundings):
        claim = max(test.claims, key=lambda claim: claim.maturity, default=None)
        if claim and claim.maturity >= Maturity.ALGORITHM and (test.check is not None or backing.backers):
            yield test, backing, claim


def _missing_source(document: Document, surroundings: Surroundings) -> Breaches:
    ledger = surroundings.ledgers.get(document.path)
    if ledger is None:
        return
    default = document.metadata.lines.get("vouches_for", document.line)
    found = [(default, source) for source in document.metadata.vouches_for]
    found += [
        (test.lines["vouches_for"], source)
        for test in document.falsifiers
        if "vouches_for" in test.lines
        for source in test.vouches_for
    ]
    for line, source in dict.fromkeys(found):
        if ledger.project.digest(source) is None:
            yield line, f"vouches_for {source!r:.80}: no file or folder of sources of the project"


def _overclaimed(document: Document, surroundings: Surroundings) -> Breaches:
    for test, backing, claim in _claims(document, surroundings):
        if claim.maturity > backing.ever:
            carried = f"no evidence ever carried more than {NAMES[backing.ever]}" if backing.backers else "no evidence"
            yield claim.line, f"{test.id}: {claim.key} {claim.status}, {carried}"


def _stale(document: Document, surroundings: Surroundings) -> Breaches:
    for test, backing, claim in _claims(document, surroundings):
        newest = backing.newest
        if newest is None or backing.refuted or not backing.now < claim.maturity <= backing.ever:
            continue
        if newest.standing is not Standing.FRESH:
            yield claim.line, f"{test.id}: evidence of {newest.evidence.date[:10]} is {newest.words}"
        else:
            held = NAMES[backing.now]
            yield claim.line, f"{test.id}: a part of the evidence is stale, the rest carries {held}: record it again"


def _refuted(document: Document, surroundings: Surroundings) -> Breaches:
    for test, backing, claim in _claims(document, surroundings):
        if backing.refuted and backing.newest is not None:
            evidence = backing.newest.evidence
            yield claim.line, f"{test.id}: {claim.status}, but FAIL on {evidence.date[:10]}: {evidence.reason:.120}"


def _missing_file(document: Document, surroundings: Surroundings) -> Breaches:
    ledger = surroundings.ledgers.get(document.path)
    if ledger is None:
        return
    for test in document.falsifiers:
        for entry in test.evidence:
            for name in entry.parts.get(_EVIDENCE_FILE, ()):
                if ledger.project.digest(name) is None:
                    yield entry.line, f"{test.id}: there is no evidence file {name:.80}"
    for test, backing, claim in _claims(document, surroundings):
        if not backing.backers and claim.maturity <= backing.ever:
            yield claim.line, f"{test.id}: nothing is recorded: aprtui contracts check --id {test.id} --record"


def _odd_file(document: Document, surroundings: Surroundings) -> Breaches:
    ledger = surroundings.ledgers.get(document.path)
    if ledger is None:
        return
    for _, problem in ledger.recorded.broken:
        yield document.line, problem
    known = {test.id for test in document.falsifiers}
    for name, files in ledger.recorded.files.items():
        if name not in known:
            yield document.line, f"{files[-1].path}: is evidence for {name!r:.60}, no falsifier is called so"


_E, _W = Severity.ERROR, Severity.WARN

EVIDENCE_RULES: tuple[LintRule, ...] = (
    LintRule("LINT-009", _E, "sources that evidence vouches for are there", _missing_source),
    LintRule("LINT-010", _E, "a status claims no more than some evidence gave", _overclaimed),
    LintRule("LINT-011", _W, "evidence that a status rests on still holds", _stale),
    LintRule("LINT-012", _W, "the newest evidence of a claim is no FAIL", _refuted),
    LintRule("LINT-013", _W, "evidence files are there", _missing_file),
    LintRule("LINT-014", _W, "evidence files can be read and belong to a falsifier", _odd_file),
)
"""Only LINT-010 is about what no evidence ever gave: stale evidence is a warning, so that work can go on."""
