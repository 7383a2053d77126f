"""Each lint rule about evidence catches what is made wrong in its way, at its line; the untouched twin passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from aprtui.compare.verdict import Verdict
from aprtui.contracts.documents.reader import read_document
from aprtui.contracts.documents.validation import Finding, Severity
from aprtui.contracts.evidence.assessment import ledger_of
from aprtui.contracts.evidence.claim import claim_digest
from aprtui.contracts.evidence.files import write_evidence
from aprtui.contracts.evidence.project import Project
from aprtui.contracts.lint.rules import LintContext, lint
from tests.cli.conftest import Outcome
from tests.contracts.evidence_samples import OTHER_MACHINE, evidence
from tests.contracts.samples import SOUND, document, line_of

HERE = "# here"
FIELDS = """    status: FUNCTIONAL # here
    binds_to: scaled
    check: byte_format
    vouches_for: engine.py
    functional_evidence: [a run]
"""
CLEAN = SOUND.replace("    status: FUNCTIONAL\n", FIELDS, 1)
CLAIM = claim_digest(document(CLEAN).equations, document(CLEAN).falsifiers[0])


class Place(NamedTuple):
    """A project with one contract, one source and one piece of evidence, all as they must be."""

    contract: Path
    evidence: Path
    source: Path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    contract, source = tmp_path / "sample.yaml", tmp_path / "engine.py"
    contract.write_text(CLEAN)
    source.write_text("engine")
    digest = Project(tmp_path, tmp_path / "evidence").digest("engine.py")
    assert digest is not None
    recorded = evidence(sources={"engine.py": digest}, claim=CLAIM)
    return Place(contract, write_evidence(tmp_path / "evidence" / "sample", recorded), source)


def findings(place: Place) -> list[Finding]:
    read = read_document(place.contract)
    return list(lint(read, LintContext(ledgers={read.path: ledger_of(read)})))


def edit(path: Path, *edits: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in edits:
        assert old in text, f"{old!r} is not in {path}"
        text = text.replace(old, new, 1)
    path.write_text(text)


def nothing_recorded(place: Place) -> None:
    """The claim is no more than what `algorithm_evidence` backs; there is no evidence file."""
    edit(place.contract, ("status: FUNCTIONAL", "status: PARTIAL_ALGORITHM_LEVEL"), ("functional_", "algorithm_"))
    place.evidence.unlink()


FAILED = evidence(verdict=Verdict.FAIL, reason="1 of 54 files is wrong", date="2026-11-21T10:00:00Z")

EVIDENCE_MUTANTS: dict[str, Callable[[Place], object]] = {
    "LINT-009": lambda place: edit(
        place.contract, (" # here", ""), ("  version: 1.0", "  version: 1.0\n  vouches_for: gone.py # here")
    ),
    "LINT-010": lambda place: place.evidence.unlink(),
    "LINT-011": lambda place: place.source.write_text("another engine"),
    "LINT-012": lambda place: write_evidence(place.evidence.parent, FAILED),
    "LINT-013": nothing_recorded,
    "LINT-014": lambda place: (place.evidence.parent / "broken.json").write_text("{"),
    "LINT-016": lambda place: (place.evidence.parent / "copy.json").write_text(
        place.evidence.read_text().replace("a processor", "any processor")
    ),
}


def test_the_untouched_contract_with_its_evidence_has_no_finding(place: Place) -> None:
    assert findings(place) == []


@pytest.mark.parametrize("code", EVIDENCE_MUTANTS)
def test_a_rule_catches_its_mutant_at_its_line(code: str, place: Place) -> None:
    EVIDENCE_MUTANTS[code](place)
    (finding,) = findings(place)
    line = 1 if code in ("LINT-014", "LINT-016") else line_of(place.contract.read_text(), HERE)
    assert (finding.code, finding.line, finding.path) == (code, line, place.contract)
    errors = ("LINT-009", "LINT-010", "LINT-012", "LINT-016")
    assert finding.severity is (Severity.ERROR if code in errors else Severity.WARN)


def test_findings_say_what_changed_and_what_failed(place: Place) -> None:
    place.source.write_text("another engine")
    assert [finding.message for finding in findings(place)] == [
        "FALSIFY-1: evidence of 2026-11-20 is stale: engine.py changed"
    ]
    place.source.unlink()
    messages = [finding.message for finding in findings(place)]
    assert "FALSIFY-1: evidence of 2026-11-20 is stale: engine.py is gone" in messages
    EVIDENCE_MUTANTS["LINT-012"](place)
    assert any("FAIL on 2026-11-21: 1 of 54 files is wrong" in finding.message for finding in findings(place))


def test_a_claim_above_what_evidence_gave_is_an_error_and_says_how_far_it_goes(place: Place) -> None:
    edit(place.contract, ("status: FUNCTIONAL", "status: DISCHARGED"))
    (finding,) = findings(place)
    assert finding.code == "LINT-010" and finding.message.endswith("no evidence ever carried more than FUNCTIONAL")


def test_of_evidence_that_holds_in_part_what_holds_is_told(place: Place) -> None:
    edit(place.contract, ("status: FUNCTIONAL", "status: DISCHARGED"))
    sources = json.loads(place.evidence.read_text())["sources"]
    there = {**OTHER_MACHINE, "date": "2026-11-10T10:00:00Z"}
    older = write_evidence(place.evidence.parent, evidence(**there, claim=CLAIM, sources=sources))
    assert findings(place) == []
    older.unlink()
    write_evidence(place.evidence.parent, evidence(**there, claim=CLAIM, sources={"engine.py": "0" * 64}))
    (finding,) = findings(place)
    assert (
        finding.code == "LINT-011" and "a part of the evidence is stale, the rest carries FUNCTIONAL" in finding.message
    )


def test_an_evidence_file_that_the_contract_names_and_one_of_nobody_are_found(place: Place) -> None:
    named = "    discharged_evidence: {evidence_file: evidence/run/discharge-evidence-v1.json}\n"
    edit(place.contract, ("    binds_to: scaled\n", f"    binds_to: scaled\n{named}"))
    write_evidence(place.evidence.parent, evidence(falsifier="FALSIFY-9"))
    codes = {finding.code: finding.message for finding in findings(place)}
    assert set(codes) == {"LINT-013", "LINT-014"}
    assert codes["LINT-013"].endswith("there is no evidence file evidence/run/discharge-evidence-v1.json")
    assert "but no falsifier has that id" in codes["LINT-014"]


def test_recorded_evidence_is_evidence_of_a_live_run(place: Place) -> None:
    edit(place.contract, ("    functional_evidence: [a run]\n", ""))
    assert findings(place) == []
    place.evidence.unlink()
    assert [finding.code for finding in findings(place)] == ["LINT-004", "LINT-010"]


def test_contracts_that_name_no_check_keep_their_evidence_in_their_own_way(place: Place) -> None:
    edit(place.contract, ("    check: byte_format\n", ""))
    place.evidence.unlink()
    assert findings(place) == []


def test_the_command_looks_where_evidence_lies_or_is_said_to_lie(
    aprtui: Callable[..., Outcome], place: Place, tmp_path: Path
) -> None:
    assert aprtui("contracts", "lint", place.contract).code == 0
    done = aprtui("contracts", "lint", place.contract, "--evidence-dir", tmp_path / "other")
    assert done.code == 1 and "LINT-010: FALSIFY-1: status FUNCTIONAL, no evidence (" in done.out
    EVIDENCE_MUTANTS["LINT-011"](place)
    assert aprtui("contracts", "lint", place.contract).code == 0
    assert aprtui("contracts", "lint", place.contract, "--strict").code == 1
