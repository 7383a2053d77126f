"""Ways to make a claim look proved that is not: each is refused, and a sentence says why."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks.claimed import looser_than_claimed
from aprtui.contracts.checks.judgement import Relation
from aprtui.contracts.documents.document import CheckCall, Maturity
from aprtui.contracts.documents.reader import read_document
from aprtui.contracts.evidence.assessment import Assessment, ledger_of
from aprtui.contracts.evidence.claim import claim_digest
from aprtui.contracts.evidence.files import CheckRun, Revision, sealed, write_evidence
from aprtui.contracts.evidence.project import project_of, revision_of
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


def git(path: Path, *words: str) -> str:
    """What git prints in the folder of a contract."""
    settings = ("user.name=n", "user.email=e@x", "commit.gpgsign=false")
    given = [part for setting in settings for part in ("-c", setting)]
    return subprocess.run(
        ["git", "-C", str(path.parent), *given, *words], check=True, capture_output=True, text=True
    ).stdout


def commit(path: Path, message: str) -> None:
    """Commit all of a contract's project."""
    root = path.parent.parent
    if not (root / ".git").exists():
        git(path, "init", "-q", str(root))
    git(path, "add", "-A", str(root))
    git(path, "commit", "-qm", message, "--allow-empty")


def committed(path: Path) -> Revision:
    return Revision(git(path, "rev-parse", "HEAD").strip(), False)


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


def test_12_a_claim_that_failed_is_not_cleared_by_another_id(aprtui: Run, path: Path) -> None:
    record(path, verdict=Verdict.FAIL, reason="1 file is wrong")
    edit(path, "- id: FALSIFY-1", "- id: FALSIFY-9")
    record(path, falsifier="FALSIFY-9", date="2026-11-22T10:00:00Z")
    done = aprtui("contracts", "promote", "FALSIFY-9", "FUNCTIONAL", path)
    assert done.code == 1 and "on other sources than the FAIL of 2026-11-20: 1 file is wrong" in done.err
    assert assessed(path).refuted
    edit(path, "prediction: no NaN", "prediction: no Inf")
    assert not assessed(path).refuted, "another claim"


def test_13_a_fail_that_git_knows_is_not_undone_by_deleting_its_file(aprtui: Run, path: Path) -> None:
    failed = record(path, verdict=Verdict.FAIL, reason="1 file is wrong")
    record(path, date="2026-11-22T10:00:00Z")
    commit(path, "recorded")
    failed.unlink()
    for _ in range(2):
        assert "than the FAIL of 2026-11-20: 1 file is wrong" in refused(aprtui, path)
        commit(path, "deleted")
    (path.parent.parent / "engine.py").write_text("def run():\n    return 2\n")
    record(path, date="2026-11-23T10:00:00Z")
    assert assessed(path).now is Maturity.FUNCTIONAL, "a source was changed, and it holds since"


def test_14_evidence_from_the_future_carries_nothing_and_outlives_no_fail(aprtui: Run, path: Path) -> None:
    record(path, date="2999-01-01T00:00:00Z", sources={})
    assert "is void: it is dated in the future, 2999-01-01T00:00:00Z" in refused(aprtui, path)
    record(path, verdict=Verdict.FAIL, reason="1 file is wrong")
    assert assessed(path).refuted


def test_15_a_capture_under_the_name_of_another_engine_is_no_oracle(aprtui: Run, path: Path, tmp_path: Path) -> None:
    edit(path, "check: byte_format", "check: {name: cosine_floor, at_least: 0.99}")
    own, copied = write_capture(tmp_path / "own"), tmp_path / "copied"
    write_capture(copied, engine=replace(ENGINE, name="transformers"))
    words = ("contracts", "check", path, "--id", "FALSIFY-1", "--capture", own, "--record", "--reference")
    done = aprtui(*words, copied)
    said = "the reference of transformers has the bytes of the capture in 54 of 54 files: such evidence carries nothing"
    assert done.code == 0 and f"FALSIFY-1: {said}, not recorded" in done.err
    assert "1 evidence file written" in aprtui(*words, write_capture(tmp_path / "again")).err, "the same engine again"


def test_16_a_source_that_git_was_told_not_to_look_at_is_not_clean(path: Path) -> None:
    commit(path, "all")
    root, source = path.parent.parent, path.parent.parent / "engine.py"
    for flag in ("--assume-unchanged", "--skip-worktree"):
        assert revision_of(root, ["engine.py"]) == replace(committed(path), dirty=False)
        git(path, "update-index", flag, "../engine.py")
        source.write_text("def run():\n    return 3\n")
        assert revision_of(root, ["engine.py"]) == replace(committed(path), dirty=True)
        git(path, "update-index", flag.replace("--", "--no-"), "../engine.py")
        git(path, "checkout", "--", "../engine.py")


def test_17_a_check_that_asks_for_less_than_the_claim_says_carries_nothing(aprtui: Run, path: Path) -> None:
    edit(path, "check: byte_format", "check: {name: cosine_floor, at_least: 0.5}")
    edit(path, "prediction: no NaN", "prediction: the cosine is at least 0.99")
    asked = {"check": CheckRun("cosine_floor", {"at_least": 0.5}), "metric": "cosine", "number": 0.6, "bound": 0.5}
    record(path, relation=Relation.AT_LEAST, **asked)
    assert "is void: its check allows at_least 0.5, the claim says 0.99" in refused(aprtui, path)
    edit(path, "PARTIAL_ALGORITHM_LEVEL", "FUNCTIONAL")
    done = aprtui("contracts", "lint", path)
    assert done.code == 1 and "LINT-022: FALSIFY-1: its check allows at_least 0.5, the claim says 0.99" in done.out
    edit(path, "at least 0.99", "at least 0.5")
    record(path, relation=Relation.AT_LEAST, date="2026-11-22T10:00:00Z", **asked)
    assert assessed(path).now is Maturity.FUNCTIONAL


@pytest.mark.parametrize(
    ("check", "text", "looser"),
    [
        ({"at_least": 0.9}, "cosine >= 0.99", True), ({"at_least": 0.99}, "cosine >= 0.99, mostly >= 0.9999", False),
        ({"at_least": 0.9}, "cosine >= 0.99 on at least 64 positions", True), ({"at_least": 30}, "≥ 30 tok/s", False),
        ({"at_least": 3}, "≥ 30 tok/s, cosine >= 0.9", True), ({"at_most": 0.1}, "rel L2 <= 1e-3", True),
        ({"at_most": 1e-4}, "rel L2 <= 1e-3", False), ({"low": 0.1, "high": 2}, "0.5 <= r <= 2.0", True),
        ({"at_least": 0.1}, "it is right", False), ({"positions": 1}, "at least 64 positions", False),
    ],
)  # fmt: skip
def test_a_check_is_looser_than_a_claim_only_where_every_bound_of_its_kind_says_so(
    check: dict[str, float], text: str, looser: bool
) -> None:
    assert bool(looser_than_claimed(CheckCall("any", check), (text,))) is looser


def test_18_documents_are_no_source_of_an_engine(path: Path) -> None:
    (path.parent.parent / "README.md").write_text("An engine.\n")
    edit(path, "vouches_for: engine.py", "vouches_for: README.md")
    record(path, sources={"README.md": project_of(path).digest("README.md")})
    found = assessed(path)
    assert found.now is Maturity.ALGORITHM and found.newest is not None
    assert found.newest.words == "unbound: it vouches for no source file, only for documents"


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
