"""Evidence that is executed again: the same, moved, refuted, or not to be executed here."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks.judgement import Judgement, Relation
from aprtui.contracts.evidence.files import EvidenceRecord, JudgedOn, Revision, read_evidence, write_evidence
from aprtui.contracts.rerun import RerunOutcome, compared
from tests.cli.conftest import Outcome
from tests.contracts.evidence_samples import evidence
from tests.contracts.samples import SOUND

Run = Callable[..., Outcome]


def of(number: float, metric: str = "cosine", bound: float = 0.99, relation: Relation = Relation.AT_LEAST) -> Judgement:
    return Judgement(Verdict.PASS, "so it is", metric, number, bound, relation=relation)


def recorded(number: float, metric: str = "cosine", bound: float = 0.99) -> EvidenceRecord:
    return evidence(number=number, metric=metric, bound=bound, relation=Relation.AT_LEAST)


@pytest.mark.parametrize(
    ("then", "now", "outcome"),
    [
        (recorded(0.9991), of(0.9991), RerunOutcome.SAME),
        (recorded(0.9991), of(0.999101), RerunOutcome.MOVED),
        (recorded(0.9991), of(0.9999), RerunOutcome.REFUTED),
        (recorded(30.0, "tokens/s", 10), of(22.0, "tokens/s", 10), RerunOutcome.MOVED),
        (recorded(30.0, "tokens/s", 10), of(60.0, "tokens/s", 10), RerunOutcome.REFUTED),
        (recorded(0.9991), replace(of(0.5), verdict=Verdict.FAIL), RerunOutcome.REFUTED),
        (recorded(0.9991), replace(of(0.5), verdict=Verdict.UNKNOWN), RerunOutcome.UNKNOWN),
        (evidence(verdict=Verdict.FAIL), of(0.9991), RerunOutcome.REFUTED),
        (evidence(verdict=Verdict.FAIL), replace(of(1.0), verdict=Verdict.FAIL), RerunOutcome.REFUTED),
    ],
)
def test_the_numbers_are_compared(then: EvidenceRecord, now: Judgement, outcome: RerunOutcome) -> None:
    found, reason = compared(then, now)
    assert found is outcome and reason


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    (tmp_path / "contracts").mkdir()
    (tmp_path / "engine.py").write_text("engine = 1\n")
    path = tmp_path / "contracts" / "sample.yaml"
    fields = "    status: FUNCTIONAL\n    check: header_arithmetic\n    vouches_for: engine.py\n"
    path.write_text(SOUND.replace("    status: FUNCTIONAL\n", fields, 1))
    return path


@pytest.fixture
def file(aprtui: Run, contract: Path, tiny_model: Path, tmp_path: Path) -> Path:
    """Evidence on a capture of a tiny model, which is deleted after it was judged."""
    words = ("--backend", "numpy", "--kv", "f16", "--decode-from", 2, "--save-tensor", "attn_norm,lm_head")
    assert aprtui("trace", tiny_model, "--tokens", "1,2,3", *words, "--save-tensor-dir", tmp_path / "c").code == 0
    assert aprtui("contracts", "check", contract, "--capture", tmp_path / "c", "--record").code == 0
    shutil.rmtree(tmp_path / "c")
    (found,) = contract.parent.rglob("*.json")
    return found


def rewritten(path: Path, **changed: object) -> Path:
    """The evidence in `path` as if it had been recorded otherwise."""
    record = replace(read_evidence(path), **changed)  # type: ignore[arg-type]
    path.unlink()
    return write_evidence(path.parent, record)


def test_a_capture_of_ours_is_made_again_and_judged_again(aprtui: Run, file: Path, tiny_model: Path) -> None:
    done = aprtui("contracts", "verify-evidence", file, "--model", tiny_model, "--json")
    found, summary = map(json.loads, done.out.splitlines())
    assert done.code == 0 and found["outcome"] == "same" and summary["same"] == 1
    assert found["now"] == found["recorded"] == {"verdict": "PASS", "number": 0, "bound": 0}
    (side,) = read_evidence(file).judged_on
    assert side.run is not None
    assert (side.run.tokens, side.run.prefill_tokens, side.run.kv_cache) == ((1, 2, 3), 2, "f16")


def test_a_number_that_cannot_be_made_again_refutes(aprtui: Run, file: Path, tiny_model: Path, tmp_path: Path) -> None:
    rewritten(file, number=3.0, bound=4.0)
    done = aprtui("contracts", "verify-evidence", file.parent, "--model", tiny_model)
    assert done.code == 1 and "3 was recorded, it is 0 now: the recorded number cannot be made again" in done.out


def test_what_has_changed_since_is_told(aprtui: Run, file: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "engine.py").write_text("engine = 2\n")
    done = aprtui("contracts", "verify-evidence", file, "--model", tiny_model)
    assert done.code == 0 and "since then: engine.py changed" in done.out


def test_what_is_not_at_hand_is_unknown_and_says_what_is_missing(aprtui: Run, file: Path, tiny_model: Path) -> None:
    done = aprtui("contracts", "verify-evidence", file)
    assert done.code == 125 and "is not at hand: give it as --model FILE" in done.out
    (side,) = read_evidence(file).judged_on
    other = rewritten(file, judged_on=(replace(side, engine="realizar"),))
    done = aprtui("contracts", "verify-evidence", other, "--model", tiny_model)
    assert done.code == 125 and "the capture is by realizar: make it again, and give it as --capture DIR" in done.out


def test_a_capture_that_is_given_must_be_of_the_same_run(
    aprtui: Run, file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ("--backend", "numpy", "--save-tensor", "attn_norm", "--save-tensor-dir", tmp_path / "o")
    assert aprtui("trace", tiny_model, "--tokens", "1,2", *words).code == 0
    done = aprtui("contracts", "verify-evidence", file, "--model", tiny_model, "--capture", tmp_path / "o")
    assert done.code == 125 and "its tokens is not that of the evidence" in done.out


def test_a_file_that_was_edited_is_refused_by_name(aprtui: Run, file: Path) -> None:
    file.write_text(file.read_text().replace('"number": 0.0', '"number": -1.0'))
    done = aprtui("contracts", "verify-evidence", file)
    assert done.code == 3 and f"{file}: was edited after it was recorded" in done.err


def test_a_clean_commit_must_hold_the_sources_that_are_vouched_for(
    aprtui: Run, file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    git = ("git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false")
    for words in (("init", "-q"), ("add", "engine.py"), ("commit", "-qm", "first")):
        subprocess.run([*git, *words], check=True, capture_output=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    honest = rewritten(file, revision=Revision(commit, dirty=False))
    assert aprtui("contracts", "verify-evidence", honest, "--model", tiny_model).code == 0
    claimed = rewritten(honest, revision=Revision(commit, dirty=False), sources={"engine.py": "0" * 64})
    done = aprtui("contracts", "verify-evidence", claimed, "--model", tiny_model)
    assert done.code == 1 and f"it says commit {commit[:12]}, whose engine.py is another" in done.out


def test_a_path_out_of_the_project_is_no_contract(aprtui: Run, file: Path) -> None:
    odd = rewritten(file, contract="../sample.yaml")
    assert "there is no ../sample.yaml above it" in aprtui("contracts", "verify-evidence", odd).out
    assert isinstance(read_evidence(odd).judged_on[0], JudgedOn)
