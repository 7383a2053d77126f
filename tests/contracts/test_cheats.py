"""Ways to make a claim look proved that is not: each is refused, and a sentence says why."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aprtui.compare.verdict import Verdict
from aprtui.contracts.documents.document import Maturity
from aprtui.contracts.documents.reader import read_document
from aprtui.contracts.evidence.assessment import Assessment, ledger_of
from aprtui.contracts.evidence.claim import claim_digest
from aprtui.contracts.evidence.files import sealed, write_evidence
from aprtui.contracts.evidence.project import project_of
from tests.cli.conftest import Outcome
from tests.compare.synthetic import ENGINE, write_capture
from tests.contracts.evidence_samples import CAPTURE, ORACLE, evidence
from tests.contracts.samples import SOUND, edited

Run = Callable[..., Outcome]
FIELDS = "    status: PARTIAL_ALGORITHM_LEVEL\n    check: byte_format\n    vouches_for: engine.py\n"
CONTRACT = SOUND.replace("    status: FUNCTIONAL\n", FIELDS, 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A contract in a project with a source."""
    (tmp_path / "contracts").mkdir()
    (tmp_path / "engine.py").write_text("def run():\n    return 1\n")
    contract = tmp_path / "contracts" / "sample.yaml"
    contract.write_text(CONTRACT)
    return contract


def record(path: Path, **changed: object) -> Path:
    """Evidence that carries FUNCTIONAL, but for what is `changed`."""
    project, document = project_of(path), read_document(path)
    fitting = {
        "contract": project.contract, "sources": {"engine.py": project.digest("engine.py")},
        "claim": claim_digest(document.equations, document.falsifiers[0]),
    }  # fmt: skip
    return write_evidence(project.own_evidence, evidence(**{**fitting, **changed}))


def assessed(path: Path) -> Assessment:
    document = read_document(path)
    return ledger_of(document).assess(document.falsifiers[0], document.falsifiers[0].check)


def refused(aprtui: Run, path: Path, level: str = "FUNCTIONAL") -> str:
    """What `promote` says when it refuses."""
    done = aprtui("contracts", "promote", "FALSIFY-1", level, path)
    assert (done.code, done.out) == (1, ""), done
    return done.err


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_honest_way_carries(aprtui: Run, path: Path) -> None:
    record(path)
    assert aprtui("contracts", "promote", "FALSIFY-1", "FUNCTIONAL", path).code == 0
    assert aprtui("contracts", "lint", path).code == 0


def test_1_a_capture_with_an_injected_fault_is_not_recorded_and_carries_nothing(
    aprtui: Run, path: Path, tmp_path: Path
) -> None:
    fault = "layer=1,stage=ffn_gate,kind=noise"
    capture = write_capture(tmp_path / "c", engine=replace(ENGINE, faults=(fault,)))
    done = aprtui("contracts", "check", path, "--capture", capture, "--record")
    assert done.code == 0
    assert f"FALSIFY-1: the capture has an injected fault, {fault}: such evidence carries nothing, not re" in done.err
    record(path, judged_on=(replace(CAPTURE, faults=(fault,)),))
    assert f"is void: the capture has an injected fault, {fault}" in refused(aprtui, path)
    assert assessed(path).ever is Maturity.NONE


def test_2_the_same_result_on_the_next_day_or_under_another_name_is_no_repetition(aprtui: Run, path: Path) -> None:
    record(path)
    record(path, date="2026-11-21T10:00:00Z", host=replace(evidence().host, name="there"))
    err = refused(aprtui, path, "DISCHARGED")
    assert "on two machines (hardware and driver differ)" in err


def test_3_another_model_is_no_repetition_of_this_one(path: Path) -> None:
    there = replace(evidence().host, system="Linux 5")
    record(path)
    record(path, host=there, judged_on=(replace(CAPTURE, device="another", model_sha256="b" * 64),))
    assert assessed(path).ever is Maturity.FUNCTIONAL
    record(path, host=there, judged_on=(replace(CAPTURE, device="another"),))
    assert assessed(path).ever is Maturity.DISCHARGED


def test_4_a_claim_in_other_words_has_stale_evidence(aprtui: Run, path: Path) -> None:
    record(path)
    edit(path, "prediction: no NaN", "prediction: the moon is made of cheese")
    assert "is stale: the claim changed" in refused(aprtui, path)
    path.write_text(CONTRACT.replace("prediction: no NaN", "prediction:   no  NaN"))
    assert assessed(path).now is Maturity.FUNCTIONAL, "white space is no claim"


def test_4b_an_equation_that_was_loosened_makes_its_claims_stale(path: Path) -> None:
    edit(path, "    check: byte_format", "    binds_to: scaled\n    check: byte_format")
    record(path)
    assert assessed(path).now is Maturity.FUNCTIONAL
    edit(path, "formula: y = a * x", "formula: y = y")
    newest = assessed(path).newest
    assert newest is not None and newest.words == "stale: the claim changed"


def test_5_two_contracts_of_one_name_do_not_share_evidence(path: Path) -> None:
    for folder in ("a", "b"):
        (path.parent / folder).mkdir()
        (path.parent / folder / "sample.yaml").write_text(CONTRACT)
    record(path.parent / "a" / "sample.yaml")
    assert assessed(path.parent / "a" / "sample.yaml").now is Maturity.FUNCTIONAL
    for other in (path, path.parent / "b" / "sample.yaml"):
        assert assessed(other).newest is None
    recorded = next((path.parent / "evidence").rglob("*.json"))
    moved = project_of(path).own_evidence / recorded.name
    moved.parent.mkdir()
    recorded.rename(moved)
    found = ledger_of(read_document(path)).recorded
    assert not found.files and "is evidence of contract 'contracts/a/sample.yaml'" in found.broken[0][1]


def test_5b_loose_contracts_of_one_name_do_not_share_a_folder_of_evidence(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    places = [tmp_path / "a" / "sample.yaml", tmp_path / "b" / "sample.yaml"]
    for place in places:
        place.parent.mkdir()
        (place.parent / "engine.py").write_text("def run():\n    return 1\n")
        place.write_text(CONTRACT)
    project, document = project_of(places[0], shared), read_document(places[0])
    sources = {"engine.py": project.digest("engine.py")}
    claim = claim_digest(document.equations, document.falsifiers[0])
    write_evidence(project.own_evidence, evidence(contract=project.contract, claim=claim, sources=sources))
    for place, level in zip(places, (Maturity.FUNCTIONAL, Maturity.NONE), strict=True):
        found = read_document(place)
        ledger = ledger_of(found, shared)
        assert ledger.assess(found.falsifiers[0], found.falsifiers[0].check).now is level
        assert not ledger.recorded.broken
    away = Path("/elsewhere/sample.yaml")
    assert project_of(away, shared).own_evidence == shared / "_" / "elsewhere" / "sample"


def test_6_a_verdict_that_its_own_number_contradicts_carries_nothing(aprtui: Run, path: Path) -> None:
    record(path, number=3.0)
    assert "is void: it says PASS, and its wrong files 3 has to be <= 0" in refused(aprtui, path)


def test_7_an_edited_file_is_refused_by_name(aprtui: Run, path: Path) -> None:
    recorded = record(path, number=3.0)
    edit(recorded, '"number": 3.0', '"number": 0.0')
    assert "a PASS that is recorded" in refused(aprtui, path)
    done = aprtui("contracts", "lint", path)
    assert done.code == 1 and f"LINT-016: {recorded}: was edited after it was recorded" in done.out


def test_8_a_file_that_was_edited_and_sealed_again_is_known_by_its_history(aprtui: Run, path: Path) -> None:
    recorded = record(path, number=3.0)
    git = ("git", "-C", str(path.parent), "-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "recorded")):
        subprocess.run([*git, *words], check=True, capture_output=True)
    contents = json.loads(recorded.read_text())
    recorded.write_text(json.dumps(sealed({**contents, "number": 0.0}), indent=1, sort_keys=True))
    for words in (("status", "-s", "."), ("commit", "-qam", "edited")):
        subprocess.run([*git, *words], check=True, capture_output=True)
        assert "a PASS that is recorded" in refused(aprtui, path)
        assert f"LINT-016: {recorded}: was edited" in aprtui("contracts", "lint", path).out


def test_9_a_fail_is_not_undone_by_trying_again_on_the_same_sources(aprtui: Run, path: Path) -> None:
    record(path, verdict=Verdict.FAIL, reason="1 file is wrong")
    record(path, date="2026-11-22T10:00:00Z")
    assert "on other sources than the FAIL of 2026-11-20: 1 file is wrong; what holds and fails by turns is" in refused(
        aprtui, path
    )
    assert "fresh; refuted by the FAIL of 2026-11-20; carries NONE" in aprtui("contracts", "status", path).out
    edit(path, "PARTIAL_ALGORITHM_LEVEL", "FUNCTIONAL")
    done = aprtui("contracts", "lint", path)
    assert done.code == 1 and "LINT-012: FALSIFY-1: FUNCTIONAL, but FAIL on 2026-11-20: 1 file is wrong" in done.out


def test_10_an_oracle_of_other_weights_or_of_the_same_bytes_is_none(path: Path) -> None:
    for oracle in (replace(ORACLE, model_sha256="b" * 64), replace(ORACLE, engine="APRTUI")):
        record(path, judged_on=(CAPTURE, oracle))
    own = replace(CAPTURE, digest="d" * 64)
    record(path, judged_on=(own, replace(ORACLE, digest="d" * 64)))
    assert assessed(path).ever is Maturity.FUNCTIONAL
    record(path, judged_on=(own, replace(ORACLE, digest="e" * 64)))
    assert assessed(path).ever is Maturity.DISCHARGED


def test_11_a_result_for_another_subject_is_told_and_carries_nothing(aprtui: Run, path: Path, tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "c")
    edit(path, "check: byte_format", "check: {name: byte_format, about: {engine: realizar}}")
    done = aprtui("contracts", "check", path, "--id", "FALSIFY-1", "--capture", capture, "--record")
    report = " ".join(done.out.split())
    assert done.code == 125 and "holds for engine aprtui, the claim is about engine realizar: 54 files" in report
    record(path)
    assert "is void: it is about engine aprtui, the claim is about engine realizar" in refused(aprtui, path)


def test_comments_docstrings_and_formatting_make_no_evidence_stale(path: Path) -> None:
    source = path.parent.parent / "engine.py"
    record(path)
    source.write_text('"""An engine."""\n\n\ndef run() :\n    """Run."""\n    # one\n    return (1)\n')
    assert assessed(path).now is Maturity.FUNCTIONAL
    source.write_text("def run():\n    return 2\n")
    assert assessed(path).now is Maturity.ALGORITHM


def test_evidence_is_no_source_of_itself(path: Path) -> None:
    edit(path, "vouches_for: engine.py", "vouches_for: contracts")
    record(path, sources={"contracts": project_of(path).digest("contracts")})
    assert assessed(path).now is Maturity.FUNCTIONAL
    assert project_of(path).digest("contracts/evidence") is None


@pytest.mark.parametrize(
    ("name", "before", "alike", "other"),
    [
        ("a.cu", "#define N 4\nint f(){return N;} // four", "#define N 4\n int f() {\n return N; }", "#define N 4 int"),
        ("a.rs", 'fn f<\'a>() { g("// x") }', 'fn f<\'a>() {\n  /* y */ g("// x")\n}', 'fn f<\'a>() { g("") }'),
        ("a.yaml", "a: [1, 2] # two", "a:\n- 1\n- 2\n", "a: [1, 3]"),
        ("a.toml", "a = 1 # one", "a=1", "a = 2"),
        ("a.json", '{"a": 1, "b": 2}', '{"b": 2,\n"a": 1}', '{"a": 2, "b": 2}'),
    ],
)
def test_sources_of_other_languages_are_parsed_too(
    tmp_path: Path, name: str, before: str, alike: str, other: str
) -> None:
    def digest(text: str) -> str | None:
        (tmp_path / name).write_text(text)
        return project_of(tmp_path / "x.yaml").digest(name)

    assert digest(before) == digest(alike) != digest(other)


def test_a_source_that_its_parser_refuses_is_taken_by_its_bytes(tmp_path: Path) -> None:
    found = set()
    for text in ("def (", "def  (", "(" * 5000, "\udc80"):
        (tmp_path / "a.py").write_bytes(text.encode("utf-8", "surrogateescape"))
        found.add(project_of(tmp_path / "x.yaml").digest("a.py"))
    assert len(found) == 4 and None not in found


def test_the_sample_is_edited_as_meant() -> None:
    assert edited("    status: FUNCTIONAL\n", FIELDS) == CONTRACT
