"""`aprtui contracts promote`: as far as evidence carries, and no farther."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui import resources
from aprtui.compare.verdict import Verdict
from aprtui.contracts.documents.reader import read_document
from aprtui.contracts.evidence.claim import claim_digest
from aprtui.contracts.evidence.files import Revision, write_evidence
from aprtui.contracts.evidence.project import Project
from tests.cli.conftest import Outcome
from tests.compare.synthetic import write_capture
from tests.contracts.evidence_samples import ORACLE, PASSED, evidence
from tests.contracts.samples import SOUND, edited

Run = Callable[..., Outcome]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    fields = "    status: PARTIAL_ALGORITHM_LEVEL # yet\n    check: byte_format\n    vouches_for: engine.py"
    (tmp_path / "engine.py").write_text("engine")
    path = tmp_path / "sample.yaml"
    path.write_text(edited("    status: FUNCTIONAL", fields))
    return path


def record(path: Path, **changed: object) -> None:
    digest = Project(path.parent, path.parent / "evidence").digest("engine.py")
    write_evidence(path.parent / "evidence" / "sample", evidence(**{"sources": {"engine.py": digest}, **changed}))


def status(path: Path) -> tuple[str, str]:
    document = read_document(path)
    return document.falsifiers[0].status, document.metadata.version


def test_a_level_that_evidence_carries_is_written_with_version_and_changelog(aprtui: Run, path: Path) -> None:
    record(path)
    done = aprtui("contracts", "promote", "FALSIFY-1", "functional", path)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{path}: FALSIFY-1 PARTIAL_ALGORITHM_LEVEL to FUNCTIONAL, version 1.0 to 1.1\n"
    assert status(path) == ("FUNCTIONAL", "1.1")
    text = path.read_text()
    assert "    status: FUNCTIONAL # yet\n" in text
    assert "FALSIFY-1 PARTIAL_ALGORITHM_LEVEL to FUNCTIONAL, by FALSIFY-1-20261120T100000Z.json" in text
    again = aprtui("contracts", "promote", "FALSIFY-1", "FUNCTIONAL", path)
    assert again.code == 0 and "is FUNCTIONAL already" in again.out and path.read_text() == text


def refused(aprtui: Run, path: Path, level: str) -> str:
    before = path.read_bytes()
    done = aprtui("contracts", "promote", "FALSIFY-1", level, path)
    assert (done.code, done.out) == (1, "") and path.read_bytes() == before
    return done.err


def test_what_evidence_does_not_carry_is_refused_with_what_is_lacking(aprtui: Run, path: Path) -> None:
    err = refused(aprtui, path, "FUNCTIONAL")
    assert "stays PARTIAL_ALGORITHM_LEVEL: evidence carries NONE, not FUNCTIONAL" in err
    assert "lacking: a PASS that is recorded: aprtui contracts check --id ID --record" in err
    record(path, live=False, judged_on=())
    assert "lacking: a PASS on what an engine produced" in refused(aprtui, path, "FUNCTIONAL")
    record(path, revision=Revision("c" * 40, dirty=True), date="2026-11-21T10:00:00Z")
    err = refused(aprtui, path, "DISCHARGED")
    assert "evidence of 2026-11-21: it was recorded with changes that were not committed" in err
    assert (
        "lacking: a PASS against an oracle on the same weights, or PASSes of the same model and version on two" in err
    )
    record(path, verdict=Verdict.FAIL, reason="2 files are wrong", date="2026-11-22T10:00:00Z")
    assert "lacking: a PASS after the FAIL of 2026-11-22: 2 files are wrong" in refused(aprtui, path, "FUNCTIONAL")
    record(path, date="2026-11-23T10:00:00Z")
    assert "a PASS on other sources than the FAIL of 2026-11-22" in refused(aprtui, path, "FUNCTIONAL")


def test_stale_evidence_does_not_carry_what_it_gave(aprtui: Run, path: Path) -> None:
    record(path)
    (path.parent / "engine.py").write_text("another engine")
    assert "that of 2026-11-20 is stale: engine.py changed" in refused(aprtui, path, "FUNCTIONAL")


def test_discharged_takes_another_engine_or_another_machine(aprtui: Run, path: Path) -> None:
    record(path)
    refused(aprtui, path, "DISCHARGED")
    record(path, judged_on=(*PASSED.judged_on, ORACLE))
    assert aprtui("contracts", "promote", "FALSIFY-1", "DISCHARGED", path).code == 0
    assert status(path)[0] == "DISCHARGED"


def test_what_claims_nothing_needs_no_evidence(aprtui: Run, path: Path) -> None:
    for number, level in enumerate(("BLOCKER_NO_GPU", "proposed"), 1):
        done = aprtui("contracts", "promote", "FALSIFY-1", level, path)
        assert done.code == 2 and "aprtui contracts withdraw" in done.err + "aprtui contracts withdraw"
        assert aprtui("contracts", "withdraw", "FALSIFY-1", level, path).code == 0
        assert status(path) == (level.upper(), f"1.{number}")
    done = aprtui("contracts", "withdraw", "FALSIFY-1", "FUNCTIONAL", path)
    assert done.code == 2 and "not above FUNCTIONAL: aprtui contracts promote raises it" in done.err


def test_taking_back_has_its_own_word_and_needs_no_level(aprtui: Run, path: Path) -> None:
    path.write_text(path.read_text().replace("PARTIAL_ALGORITHM_LEVEL # yet", "FUNCTIONAL"))
    done = aprtui("contracts", "promote", "FALSIFY-1", "PARTIAL_ALGORITHM_LEVEL", path)
    assert done.code == 2 and "is FUNCTIONAL, above PARTIAL_ALGORITHM_LEVEL: aprtui contracts withdraw" in done.err
    done = aprtui("contracts", "withdraw", "FALSIFY-1", path)
    assert (done.code, done.out) == (0, f"{path}: FALSIFY-1 FUNCTIONAL to PROPOSED, version 1.0 to 1.1\n")


def test_several_are_raised_in_one_version_or_none(aprtui: Run, path: Path) -> None:
    record(path)
    words = ("contracts", "promote", "FALSIFY-1", "FALSIFY-2", "FUNCTIONAL", path)
    done = aprtui(*words)
    assert done.code == 1 and "FALSIFY-2 stays without status" in done.err and status(path)[1] == "1.0"
    second = read_document(path).falsifiers[1]
    record(path, falsifier="FALSIFY-2", claim=claim_digest((), second), check=None, live=True, test=("run it",))
    assert aprtui(*words).code == 0
    document = read_document(path)
    assert [test.status for test in document.falsifiers] == ["FUNCTIONAL", "FUNCTIONAL"]
    assert document.metadata.version == "1.1"
    (block,) = document.falsifiers[0].evidence
    assert block.key == "functional_evidence" and "evidence/sample/FALSIFY-1-20261120T100000Z.json" in block.texts[1]


def test_record_then_promote_as_a_person_does(aprtui: Run, path: Path, tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "capture")
    assert aprtui("contracts", "check", path, "--id", "FALSIFY-1", "--capture", capture, "--record").code == 0
    assert aprtui("contracts", "promote", "FALSIFY-1", "FUNCTIONAL", path).code == 0
    assert aprtui("contracts", "lint", path).code == 0


@pytest.mark.parametrize("level", ["PASS", "ACTIVE", "", "BLOCKER_", "BLOCKER_A: {}", "FUNCTIONAL\n", "BLOCKER_Ü"])
def test_no_level_is_called_so(aprtui: Run, path: Path, level: str) -> None:
    for verb in ("promote", "withdraw"):
        done = aprtui("contracts", verb, "FALSIFY-1", level, path)
        assert done.code == 2 and ("expected" in done.err or "withdraw sets it" in done.err), done.err


def test_an_id_that_is_nowhere_or_in_two_contracts_is_refused(aprtui: Run, path: Path) -> None:
    assert aprtui("contracts", "withdraw", "FALSIFY-9", "PROPOSED", path).code == 2
    (path.parent / "other.yaml").write_text(SOUND)
    done = aprtui("contracts", "withdraw", "FALSIFY-1", "PROPOSED", path.parent)
    assert done.code == 2 and "occurs 2 times" in done.err and "name one contract" in done.err
    (path.parent / "broken.yaml").write_text("a: [")
    assert aprtui("contracts", "withdraw", "FALSIFY-9", "PROPOSED", path.parent).code == 3
    assert aprtui("contracts", "withdraw", "FALSIFY-1", "PROPOSED", path.parent / "gone.yaml").code == 3


def test_a_key_that_is_there_twice_is_to_be_corrected_first(aprtui: Run, path: Path) -> None:
    path.write_text(path.read_text().replace("    rule: finite\n", "    rule: finite\n    rule: infinite\n"))
    done = aprtui("contracts", "withdraw", "FALSIFY-1", "PROPOSED", path)
    assert done.code == 3 and "the key 'rule' occurs twice" in done.err


def test_a_file_keeps_its_mode_and_a_link_its_target(aprtui: Run, path: Path) -> None:
    path.chmod(0o640)
    link = path.parent / "link.yaml"
    link.symlink_to(path.name)
    assert aprtui("contracts", "withdraw", "FALSIFY-1", "PROPOSED", link).code == 0
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o640 and status(path)[0] == "PROPOSED"


@pytest.mark.parametrize("call", ["aprtui.trace.aprt.os.replace", "aprtui.trace.aprt.create_beside"])
def test_what_cannot_be_written_is_exit_4_and_leaves_the_contract_as_it_was(
    aprtui: Run, path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted((file.name, file.read_bytes()) for file in path.parent.iterdir())
    monkeypatch.setattr(call, fails)
    done = aprtui("contracts", "withdraw", "FALSIFY-1", "PROPOSED", path)
    assert done.code == 4 and "sample.yaml: cannot be written: No space left on device" in done.err
    assert sorted((file.name, file.read_bytes()) for file in path.parent.iterdir()) == before


def test_a_read_only_contract_is_not_replaced(aprtui: Run, path: Path) -> None:
    path.chmod(0o444)
    done = aprtui("contracts", "withdraw", "FALSIFY-1", "PROPOSED", path)
    assert (
        done.code == 4
        and "cannot be edited: Permission denied: make it writable" in done.err
        and status(path)[1] == "1.0"
    )


def test_the_installed_program_s_own_contracts_are_not_edited(
    aprtui: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aprtui" / "data" / "contracts").mkdir(parents=True)
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "aprtui")
    done = aprtui("contracts", "withdraw", "APRTUI-CAPTURE-001", "PROPOSED")
    assert done.code == 2 and "name a contract of yours" in done.err
