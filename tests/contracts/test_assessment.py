"""What recorded evidence carries: fresh, stale, repeated, refuted, against another engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aprtui.compare.verdict import Verdict
from aprtui.contracts.documents.document import CheckCall, Maturity
from aprtui.contracts.evidence.assessment import Assessment, Ledger, Standing
from aprtui.contracts.evidence.files import EvidenceFile, EvidenceRecord, RecordedEvidence, Revision
from aprtui.contracts.evidence.project import Project
from aprtui.contracts.evidence.stated import stated_level
from tests.contracts.evidence_samples import CAPTURE, ORACLE, OTHER_MACHINE, evidence
from tests.contracts.samples import SOUND, document, edited

NONE, ALGORITHM, FUNCTIONAL, DISCHARGED = (
    Maturity.NONE, Maturity.ALGORITHM, Maturity.FUNCTIONAL, Maturity.DISCHARGED
)  # fmt: skip
CHECK = CheckCall("byte_format", {})
FALSIFIER = document(edited("    status: FUNCTIONAL", "    vouches_for: engine.py")).falsifiers[0]
DAY_2, DAY_3 = "2026-11-21T10:00:00Z", "2026-11-22T10:00:00Z"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "engine.py").write_text("engine")
    return Project(tmp_path, tmp_path / "evidence")


def assess(project: Project, *found: EvidenceRecord, check: CheckCall | None = CHECK) -> Assessment:
    files = tuple(EvidenceFile(Path(f"{number}.json"), one) for number, one in enumerate(found))
    return Ledger(project, RecordedEvidence({"FALSIFY-1": files})).assess(FALSIFIER, check)


def fresh(project: Project, **changed: object) -> EvidenceRecord:
    digest = project.digest("engine.py")
    assert digest is not None
    return evidence(**{"sources": {"engine.py": digest}, **changed})


def stale(**changed: object) -> EvidenceRecord:
    return evidence(**{"sources": {"engine.py": "0" * 64}, **changed})


def levels(found: Assessment) -> tuple[Maturity, Maturity]:
    return found.now, found.ever


def test_nothing_recorded_carries_nothing(project: Project) -> None:
    found = assess(project)
    assert (levels(found), found.newest, found.refuted) == ((NONE, NONE), None, False)


def test_a_live_pass_carries_functional_and_any_other_the_algorithm(project: Project) -> None:
    assert levels(assess(project, fresh(project))) == (FUNCTIONAL, FUNCTIONAL)
    assert levels(assess(project, fresh(project, live=False, judged_on=()))) == (ALGORITHM, ALGORITHM)


def test_stale_evidence_counts_one_level_lower_and_is_not_forgotten(project: Project) -> None:
    found = assess(project, stale())
    assert levels(found) == (ALGORITHM, FUNCTIONAL)
    assert found.newest is not None and found.newest.words == "stale: engine.py changed"
    assert levels(assess(project, stale(live=False, judged_on=()))) == (NONE, ALGORITHM)
    assert levels(assess(project, stale(), stale(date=DAY_2, **OTHER_MACHINE))) == (FUNCTIONAL, DISCHARGED)


def test_fresh_evidence_beside_stale_carries_what_it_carries_alone(project: Project) -> None:
    assert levels(assess(project, stale(), fresh(project, date=DAY_2, live=False))) == (ALGORITHM, FUNCTIONAL)
    assert levels(assess(project, stale(), fresh(project, **OTHER_MACHINE))) == (FUNCTIONAL, DISCHARGED)


def test_repeated_on_another_machine_is_discharged(project: Project) -> None:
    assert levels(assess(project, fresh(project), fresh(project, **OTHER_MACHINE))) == (DISCHARGED, DISCHARGED)


HERE = evidence().host
COMPUTED_THERE = (replace(CAPTURE, device="another processor"),)


@pytest.mark.parametrize(
    "second",
    [
        {"date": DAY_2},
        {"host": replace(HERE, name="there")},
        {"host": replace(HERE, name="there", system="Linux 5")},
        {"judged_on": COMPUTED_THERE},
        {**OTHER_MACHINE, "judged_on": (replace(CAPTURE, device=None),)},
        {**OTHER_MACHINE, "judged_on": (replace(COMPUTED_THERE[0], model_sha256="b" * 64),)},
        {**OTHER_MACHINE, "judged_on": (replace(COMPUTED_THERE[0], engine_version="0.2.0"),)},
        {**OTHER_MACHINE, "claim": "0" * 64},
    ],
    ids=["day", "name", "same bytes there", "same driver", "unknown device", "model", "version", "claim"],
)
def test_anything_less_than_the_same_subject_on_other_hardware_and_driver_is_not(
    project: Project, second: dict[str, object]
) -> None:
    assert levels(assess(project, fresh(project), fresh(project, **second)))[1] is FUNCTIONAL


def test_against_another_engine_is_discharged(project: Project) -> None:
    assert levels(assess(project, fresh(project, judged_on=(CAPTURE, ORACLE)))) == (DISCHARGED, DISCHARGED)


@pytest.mark.parametrize(
    "missing",
    [
        {"revision": None},
        {"revision": Revision("c" * 40, dirty=True)},
        {"judged_on": (replace(CAPTURE, model_sha256=None), ORACLE)},
    ],
)
def test_without_provenance_nothing_is_discharged(project: Project, missing: dict[str, object]) -> None:
    one = fresh(project, **{"judged_on": (CAPTURE, ORACLE), **missing})
    assert levels(assess(project, one)) == (FUNCTIONAL, FUNCTIONAL)
    assert levels(assess(project, one, replace(one, date=DAY_2))) == (FUNCTIONAL, FUNCTIONAL)


def test_a_fail_refutes_what_came_before_it_and_is_made_good_by_a_later_pass(project: Project) -> None:
    failed = fresh(project, verdict=Verdict.FAIL, date=DAY_2)
    found = assess(project, fresh(project), failed)
    assert (levels(found), found.refuted) == ((NONE, FUNCTIONAL), True)
    fixed = assess(project, stale(), stale(verdict=Verdict.FAIL, date=DAY_2), fresh(project, date=DAY_3))
    assert (levels(fixed), fixed.refuted) == ((FUNCTIONAL, FUNCTIONAL), False)
    assert levels(assess(project, failed)) == (NONE, NONE)


def test_a_pass_on_the_sources_on_which_a_fail_was_recorded_settles_nothing(project: Project) -> None:
    failed = fresh(project, verdict=Verdict.FAIL, date=DAY_2)
    for order in ((failed, fresh(project, date=DAY_3)), (fresh(project), failed)):
        found = assess(project, *order)
        assert found.now is NONE and found.against is not None and found.against.record == failed
    other_model = fresh(project, date=DAY_3, judged_on=(replace(CAPTURE, model_sha256="b" * 64),))
    assert not assess(project, failed, other_model).refuted


def test_algorithm_evidence_in_the_contract_carries_the_algorithm_until_a_fail(project: Project) -> None:
    stated = document(edited("    status: FUNCTIONAL", "    algorithm_evidence: [a unit test]")).falsifiers[0]
    nothing, failed = (
        RecordedEvidence({}),
        RecordedEvidence({"FALSIFY-1": (EvidenceFile(Path("x"), evidence(verdict=Verdict.FAIL)),)}),
    )
    assert levels(Ledger(project, nothing).assess(stated, CHECK)) == (ALGORITHM, ALGORITHM)
    assert levels(Ledger(project, failed).assess(stated, CHECK)) == (NONE, ALGORITHM)


def test_another_check_or_bound_makes_evidence_stale(project: Project) -> None:
    for check in (CheckCall("determinism", {}), CheckCall("byte_format", {"layers": 1})):
        found = assess(project, fresh(project), check=check)
        assert found.newest is not None and found.newest.words == "stale: the check changed"
    command = fresh(project, check=None, live=False)
    assert levels(assess(project, command)) == (ALGORITHM, ALGORITHM)
    found = assess(project, replace(command, test=("run that",)))
    assert found.newest is not None and found.newest.words == "stale: the test changed"


def test_evidence_that_vouches_for_nothing_or_not_for_all_does_not_hold(project: Project) -> None:
    found = assess(project, evidence())
    assert found.newest is not None and found.newest.words == "stale: engine.py was added to vouches_for"
    without = document().falsifiers[0]
    ledger = Ledger(project, RecordedEvidence({"FALSIFY-1": (EvidenceFile(Path("x"), evidence()),)}))
    unbound = ledger.assess(without, CHECK)
    assert levels(unbound) == (ALGORITHM, FUNCTIONAL)
    assert unbound.newest is not None and unbound.newest.standing is Standing.UNBOUND


STATED = """
    live_discharge:
      date: 2026-11-20
      host: there
      artifact: model.gguf
      command: apr qa model.gguf
      metrics: {tokens_per_second: 31.2}
"""


@pytest.mark.parametrize(
    ("more", "file", "level"),
    [
        ("", "", Maturity.DISCHARGED), ("      overall_verdict: PASS\n", "", Maturity.DISCHARGED),
        ("      overall_verdict: FALSIFIED\n", "", Maturity.NONE), ("      verdict: failed\n", "", Maturity.NONE),
        ("      evidence_file: e.json\n", '{"verdict": "PASS"}', Maturity.DISCHARGED),
        ("      evidence_file: e.json\n", '{"aggregate_verdict": "FAIL"}', Maturity.NONE),
        ("      evidence_file: e.json\n", "[", Maturity.DISCHARGED),
    ],
)  # fmt: skip
def test_a_block_of_others_speaks_for_a_level_unless_it_or_its_file_says_that_it_failed(
    tmp_path: Path, more: str, file: str, level: Maturity
) -> None:
    (tmp_path / "e.json").write_text(file)
    text = SOUND.replace("    status: FUNCTIONAL\n", f"    status: DISCHARGED{STATED}{more}", 1)
    assert stated_level(document(text).falsifiers[0], Project(tmp_path, tmp_path)) is level
