"""Evidence files: what is written reads back, nothing is overwritten, and broken files are reported."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import pytest

from aprtui import resources
from aprtui.compare.verdict import Verdict
from aprtui.contracts.evidence.files import Revision, read_evidence, read_recorded, sealed, write_evidence
from aprtui.contracts.evidence.project import MOST_FILES, place_to_record, project_of, revision_of
from aprtui.errors import EngineError, UnreadableError, UsageError
from tests.contracts.evidence_samples import ORACLE, PASSED, evidence


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    for number, written in enumerate(
        (
            PASSED,
            evidence(verdict=Verdict.FAIL, number=math.nan, bound=-math.inf, date="2026-11-21T10:00:00Z"),
            evidence(revision=None, check=None, live=False, judged_on=(), number=None, bound=None, date="2026-11-22"),
            evidence(judged_on=(*PASSED.judged_on, ORACLE), sources={"a/b": "d" * 64}, date="2026-11-23"),
        )
    ):
        path = write_evidence(tmp_path, written)
        read = read_evidence(path)
        assert str(read) == str(written), number  # NaN is not equal to itself
    recorded = read_recorded(tmp_path, "sample.yaml")
    assert [file.record.date[:10] for file in recorded.files["FALSIFY-1"]] == [f"2026-11-2{n}" for n in range(4)]
    assert recorded.broken == ()


def test_a_file_is_stable_json_with_sorted_keys(tmp_path: Path) -> None:
    text = write_evidence(tmp_path, PASSED).read_text()
    document = json.loads(text)
    assert text == json.dumps(document, indent=1, sort_keys=True) + "\n"
    assert document["verdict"] == "PASS" and document["host"]["name"] == "here" and len(document["seal"]) == 64


def test_nothing_is_overwritten_and_names_are_safe(tmp_path: Path) -> None:
    paths = [write_evidence(tmp_path, evidence(falsifier="../a b/ü")) for _ in range(3)]
    assert len(set(paths)) == 3 and {path.parent for path in paths} == {tmp_path}
    files = read_recorded(tmp_path, "sample.yaml").files["../a b/ü"]
    assert [file.path for file in files] == paths, "of one second, in the order in which they were written"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "expected"),
        ('{"format": "aprtui-evidence", "version": 1}', "expected"),
        (json.dumps(sealed({"format": "aprtui-evidence", "version": 2})), "field contract is missing"),
        (" " * (1 << 20) + "{}", "larger than"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_what_is_no_evidence_is_told_and_the_rest_is_read(tmp_path: Path, text: str | bytes, expected: str) -> None:
    write_evidence(tmp_path, PASSED)
    broken = tmp_path / "a.json"
    broken.write_bytes(text if isinstance(text, bytes) else text.encode())
    recorded = read_recorded(tmp_path, "sample.yaml")
    assert len(recorded.files["FALSIFY-1"]) == 1
    ((path, problem),) = recorded.broken
    assert path == broken and expected in problem and "\n" not in problem


def test_unknown_is_evidence_of_nothing(tmp_path: Path) -> None:
    path = write_evidence(tmp_path, PASSED)
    path.unlink()
    path = write_evidence(tmp_path, evidence(verdict=Verdict.UNKNOWN))
    with pytest.raises(UnreadableError, match="evidence of nothing"):
        read_evidence(path)


def test_evidence_in_the_folder_of_another_contract_does_not_count(tmp_path: Path) -> None:
    write_evidence(tmp_path, PASSED)
    recorded = read_recorded(tmp_path, "other.yaml")
    assert recorded.files == {} and "is evidence of contract 'sample.yaml'" in recorded.broken[0][1]


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="cannot be written"):
        write_evidence(tmp_path / "file", PASSED)


# --- the project ---


def test_evidence_lies_in_the_nearest_contracts_folder_and_sources_beside_it(tmp_path: Path) -> None:
    project = project_of(tmp_path / "contracts" / "below" / "x.yaml")
    assert (project.root, project.evidence) == (tmp_path, tmp_path / "contracts" / "evidence")
    loose = project_of(tmp_path / "x.yaml")
    assert (loose.root, loose.evidence) == (tmp_path, tmp_path / "evidence")
    assert project_of(tmp_path / "x.yaml", tmp_path / "e").evidence == tmp_path / "e"
    assert (project.contract, loose.contract) == ("contracts/below/x.yaml", "x.yaml")
    assert project.own_evidence == tmp_path / "contracts" / "evidence" / "below" / "x"
    assert loose.own_evidence == tmp_path / "evidence" / "x"


def test_a_digest_is_of_contents_and_names_and_not_of_what_tools_leave_behind(tmp_path: Path) -> None:
    (tmp_path / "src" / "in").mkdir(parents=True)
    (tmp_path / "src" / "in" / "a.py").write_text("1")
    before = project_of(tmp_path / "x.yaml").digest("src")
    (tmp_path / "src" / "__pycache__").mkdir()
    (tmp_path / "src" / "__pycache__" / "a.pyc").write_text("made")
    (tmp_path / "src" / ".hidden").write_text("made")
    (tmp_path / "src" / "loop").symlink_to(tmp_path / "src")
    assert before is not None and project_of(tmp_path / "x.yaml").digest("src") == before
    (tmp_path / "src" / "in" / "a.py").rename(tmp_path / "src" / "in" / "b.py")
    renamed = project_of(tmp_path / "x.yaml").digest("src")
    (tmp_path / "src" / "in" / "b.py").write_text("2")
    assert len({before, renamed, project_of(tmp_path / "x.yaml").digest("src")}) == 3


def test_what_is_not_there_or_outside_or_no_file_has_no_digest(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "outside.py").write_text("1")
    os.mkfifo(tmp_path / "p" / "pipe")
    project = project_of(tmp_path / "p" / "x.yaml")
    for source in ("gone.py", "../outside.py", str(tmp_path / "outside.py"), "pipe", "a\0b"):
        assert project.digest(source) is None, source
    many = tmp_path / "p" / "many"
    many.mkdir()
    for number in range(MOST_FILES + 1):
        (many / str(number)).touch()
    assert project.digest("many") is None


def test_an_installed_program_s_sources_are_found_and_its_evidence_is_not_added_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "aprtui"
    for folder in ("data/contracts", "data/kernels", "trace"):
        (package / folder).mkdir(parents=True)
    (package / "data" / "kernels" / "k.cu").write_text("kernel")
    (package / "trace" / "aprt.py").write_text("code")
    monkeypatch.setattr(resources, "_PACKAGE", package)
    contract = package / "data" / "contracts" / "x.yaml"
    project = project_of(contract)
    assert project.packaged and project.digest("kernels/k.cu") and project.digest("aprtui/trace/aprt.py")
    assert project.evidence == package / "data" / "contracts" / "evidence"
    with pytest.raises(UsageError, match="--evidence-dir"):
        place_to_record(project, contract)
    assert place_to_record(project_of(contract, tmp_path / "mine"), contract) == tmp_path / "mine"
    assert not project_of(tmp_path / "x.yaml").packaged


# --- the revision ---


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "a.py").write_text("1")
    for words in (("init", "-q"), ("add", "a.py"), ("commit", "-qm", "first")):
        identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True)
    return tmp_path


def test_the_revision_is_dirty_where_a_tracked_file_or_a_source_is_not_as_committed(checkout: Path) -> None:
    clean = revision_of(checkout, ["a.py"])
    assert isinstance(clean, Revision) and len(clean.commit) == 40 and not clean.dirty
    (checkout / "unrelated").write_text("")
    assert revision_of(checkout, ["a.py"]) == clean
    assert revision_of(checkout, ["a.py", "unrelated"]) == Revision(clean.commit, dirty=True)
    (checkout / "a.py").write_text("2")
    assert revision_of(checkout, []) == Revision(clean.commit, dirty=True)


def test_without_a_checkout_or_git_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    reason = revision_of(tmp_path, [])
    assert isinstance(reason, str) and "not a git repository" in reason
    monkeypatch.setenv("PATH", "")
    assert revision_of(tmp_path, []) == "git is not installed"
