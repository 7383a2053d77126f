"""`aprtui contracts check --record`: what is judged leaves a file, what is not leaves none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aprtui.contracts.evidence.project import project_of
from tests.cli.conftest import Outcome
from tests.compare.synthetic import write_capture
from tests.contracts.captures import nan_capture
from tests.contracts.samples import edited

Run = Callable[..., Outcome]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return write_capture(tmp_path / "capture")


def contract(folder: Path, check: str, test: str = "run it") -> Path:
    """A contract in a project with a source file that it vouches for."""
    (folder / "contracts").mkdir(exist_ok=True)
    (folder / "engine.py").write_text("engine")
    path = folder / "contracts" / "c.yaml"
    text = edited("    status: FUNCTIONAL", f"    status: FUNCTIONAL\n    check: {check}\n    vouches_for: engine.py")
    path.write_text(text.replace("test: run it", f"test: {json.dumps(test)}", 1))
    return path


def files(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))]


def test_a_pass_leaves_a_file_with_its_provenance(aprtui: Run, tmp_path: Path, capture: Path) -> None:
    path = contract(tmp_path, "byte_format")
    done = aprtui("contracts", "check", path, "--capture", capture, "--record", "--json")
    assert done.code == 0 and "1 evidence file written below" in done.err
    (found,) = files(tmp_path / "contracts" / "evidence")
    assert (found["verdict"], found["number"], found["bound"], found["live"]) == ("PASS", 0, 0, True)
    assert found["sources"] == {"engine.py": project_of(path).digest("engine.py")}
    assert found["command"] == f"aprtui contracts check contracts/c.yaml --id FALSIFY-1 --capture {capture}"
    assert found["output"][1].endswith("wrong files 0, bound 0: 54 files, all as declared")
    (side,) = found["judged_on"]
    assert (side["role"], side["engine"]) == ("capture", "aprtui") and side["model_sha256"]
    record = json.loads(done.out.splitlines()[0])
    assert Path(record["recorded"]).parent == tmp_path / "contracts" / "evidence" / "c"
    assert json.loads(done.out.splitlines()[1])["recorded"] is None, "no check judges the other"


def test_evidence_of_a_claim_about_a_model_names_the_model_and_no_capture(
    aprtui: Run, tmp_path: Path, tiny_model: Path, capture: Path
) -> None:
    path = contract(tmp_path, "{name: forced_backend, backend: numpy}")
    done = aprtui("contracts", "check", path, "--model", tiny_model, "--capture", capture, "--record")
    assert done.code == 0, done.err
    (found,) = files(tmp_path / "contracts" / "evidence")
    (side,) = found["judged_on"]
    assert (side["role"], side["engine"], found["live"]) == ("model", "aprtui", True)
    assert side["model_sha256"] == hashlib.sha256(tiny_model.read_bytes()).hexdigest()
    assert f"--model {tiny_model}" in found["command"]


def test_a_fail_is_recorded_and_an_unknown_is_not(aprtui: Run, tmp_path: Path, capture: Path) -> None:
    path = contract(tmp_path, "nan_preservation")
    words = ("contracts", "check", path, "--record", "--capture")
    done = aprtui(*words, capture)
    assert done.code == 125 and "0 evidence files written" in done.err
    assert "FALSIFY-1: UNKNOWN is evidence of nothing: not recorded" in done.err
    assert files(tmp_path / "contracts" / "evidence") == []
    assert aprtui(*words, nan_capture(tmp_path / "lost", ()).path).code == 1
    (found,) = files(tmp_path / "contracts" / "evidence")
    assert found["verdict"] == "FAIL" and found["number"] == 1


def test_recording_again_adds_a_file(aprtui: Run, tmp_path: Path, capture: Path) -> None:
    path = contract(tmp_path, "byte_format")
    for _ in range(2):
        aprtui("contracts", "check", path, "--capture", capture, "--record", "--evidence-dir", tmp_path / "mine")
    assert len(files(tmp_path / "mine" / "c")) == 2 and not (tmp_path / "contracts" / "evidence").exists()


def test_a_command_s_output_is_recorded_and_is_no_live_run(aprtui: Run, tmp_path: Path) -> None:
    path = contract(tmp_path, "contract_valid", "echo spoken")
    done = aprtui("contracts", "check", path, "--run-commands", "FALSIFY-1", "--record")
    assert done.code == 0 and "spoken" in done.err
    (found,) = files(tmp_path / "contracts" / "evidence")
    assert found["output"] == ["spoken"] and found["check"] is None and not found["live"]
    assert found["command"].endswith("--id FALSIFY-1 --run-commands FALSIFY-1 --timeout 60")


def test_a_check_of_the_contract_is_no_live_run_even_with_a_capture(aprtui: Run, tmp_path: Path, capture: Path) -> None:
    aprtui("contracts", "check", contract(tmp_path, "contract_valid"), "--capture", capture, "--record")
    (found,) = files(tmp_path / "contracts" / "evidence")
    assert not found["live"] and found["judged_on"] == []


def test_both_sides_of_a_pair_are_named(aprtui: Run, tmp_path: Path, capture: Path) -> None:
    other = write_capture(tmp_path / "other")
    path = contract(tmp_path, "determinism")
    assert aprtui("contracts", "check", path, "--capture", capture, "--reference", other, "--record").code == 0
    (found,) = files(tmp_path / "contracts" / "evidence")
    assert [side["role"] for side in found["judged_on"]] == ["capture", "reference"]


def test_outside_of_a_checkout_evidence_is_written_without_revision(
    aprtui: Run, tmp_path: Path, capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    path = contract(tmp_path, "byte_format")
    done = aprtui("contracts", "check", path, "--capture", capture, "--record")
    assert done.code == 0 and "recorded without a git revision: fatal: not a git repository" in done.err
    assert files(tmp_path / "contracts" / "evidence")[0]["revision"] is None


def test_what_cannot_be_recorded_is_told_before_anything_is_judged(aprtui: Run, tmp_path: Path, capture: Path) -> None:
    path = contract(tmp_path, "byte_format")
    words = ("contracts", "check", path, "--capture", capture)
    done = aprtui(*words, "--record", "--evidence-dir", path)
    assert done.code == 4 and done.out == "" and "cannot be written" in done.err
    path.write_text(path.read_text().replace("vouches_for: engine.py", "vouches_for: [engine.py, gone.py]"))
    done = aprtui(*words, "--record")
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "gone.py" in text)
    assert done.code == 3 and done.out == "" and f"c.yaml:{line}: FALSIFY-1 vouches for 'gone.py'" in done.err


def test_evidence_that_vouches_for_nothing_says_so(aprtui: Run, tmp_path: Path, capture: Path) -> None:
    path = contract(tmp_path, "byte_format")
    path.write_text(path.read_text().replace("    vouches_for: engine.py\n", ""))
    done = aprtui("contracts", "check", path, "--capture", capture, "--record")
    assert done.code == 0 and "FALSIFY-1: vouches for no source file: say in vouches_for" in done.err
    assert "unbound" in aprtui("contracts", "status", path).out


def test_a_falsifier_without_id_is_not_recorded(aprtui: Run, tmp_path: Path, capture: Path) -> None:
    path = contract(tmp_path, "byte_format")
    path.write_text(path.read_text().replace("- id: FALSIFY-1\n    rule", "- rule"))
    done = aprtui("contracts", "check", path, "--capture", capture, "--record")
    assert done.code == 0 and "has no id: not recorded" in done.err
    assert files(tmp_path / "contracts" / "evidence") == []


def test_recorded_evidence_is_told_beside_the_judgement_and_its_doubts_in_words(
    aprtui: Run, tmp_path: Path, capture: Path
) -> None:
    words = ("contracts", "check", contract(tmp_path, "byte_format"), "--capture", capture)
    assert json.loads(aprtui(*words, "--json").out.splitlines()[0])["evidence"]["carries"] == "NONE"
    aprtui(*words, "--record")
    assert "evidence" not in aprtui(*words).out
    found = json.loads(aprtui(*words, "--json").out.splitlines()[0])["evidence"]
    assert (found["carries"], found["standing"], found["verdict"], found["files"]) == ("FUNCTIONAL", "fresh", "PASS", 1)
    (tmp_path / "engine.py").write_text("another engine")
    done = aprtui(*words)
    assert done.code == 0, "what was recorded is apart from what is judged now"
    report = " ".join(done.out.split())
    assert "stale: engine.py changed; carries PARTIAL_ALGORITHM_LEVEL" in report
    found = json.loads(aprtui(*words, "--json").out.splitlines()[0])["evidence"]
    assert found["changes"] == ["engine.py changed"] and found["ever_carried"] == "FUNCTIONAL"
    assert json.loads(aprtui(*words, "--json", "--evidence-dir", tmp_path / "no").out.splitlines()[0])["evidence"][
        "file"
    ] is None  # fmt: skip
