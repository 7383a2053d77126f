"""The verdicts of checks that a sound program never gives: a diff that is wrong, a broken contract, NaN on one side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.report.apr_diff import apr_stage_diff
from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks import captures
from aprtui.contracts.checks.arguments import CheckSubject
from aprtui.contracts.checks.judgement import Judgement
from aprtui.contracts.documents.document import CheckCall
from aprtui.contracts.evaluation import evaluate
from aprtui.trace.aprt import write_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.compare.synthetic import changed, write_capture
from tests.contracts.captures import ELEMENT, judged, of_layers
from tests.contracts.samples import SOUND, document, edited

LOGITS = Node(None, "lm_head")


@pytest.fixture
def sound(tmp_path: Path) -> Capture:
    return Capture.open(write_capture(tmp_path / "sound"))


def of_contract(text: str, **parameters: object) -> Judgement:
    return evaluate(document(text), CheckCall("contract_valid", parameters), CheckSubject())


def test_a_valid_contract_passes_and_a_broken_one_fails_with_its_errors() -> None:
    judgement = of_contract(SOUND)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.PASS, 0, 0)
    judgement = of_contract(edited("formula: y = a * x", "formula: ''"))
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.FAIL, 1, 0)
    assert judgement.reason.startswith("SCHEMA-004 at line 11")
    assert of_contract(SOUND, stages=["ffn_up"]).verdict is Verdict.UNKNOWN


def test_a_diff_that_finds_something_between_a_file_and_itself_fails(
    sound: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captures, "apr_stage_diff", lambda *args: {**apr_stage_diff(*args), "rms_diff": 0.25})
    judgement = judged("diff_identity", sound, stages="ffn_up", layers=0)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.FAIL, 0.25, 1e-9)
    assert judgement.nodes == (Node(0, "ffn_up"),)


def test_files_of_zeros_say_nothing_of_a_diff(tmp_path: Path) -> None:
    node = Node(0, "ffn_up")
    zeros = Capture.open(write_capture(tmp_path / "zeros", edits={node: np.zeros_like}))
    assert judged("diff_identity", zeros, stages="ffn_up", layers=0).verdict is Verdict.UNKNOWN


def test_logits_in_a_folder_of_a_layer_fail_and_none_are_not_testable(tmp_path: Path, sound: Capture) -> None:
    write_aprt(sound.files[LOGITS].path, 2, np.zeros(20, np.float32))
    judgement = judged("whole_model_file", Capture.open(sound.path))
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.FAIL, 1, 0)
    assert judgement.reason == "lm_head: its header says layer 2"
    without = Capture.open(write_capture(tmp_path / "without", unplanned=("lm_head",), without=[LOGITS]))
    assert not judged("whole_model_file", without).testable


def test_a_file_too_many_and_a_stage_too_few_are_counted(tmp_path: Path, sound: Capture) -> None:
    path = of_layers(write_capture(tmp_path / "x"), (1,))
    write_aprt(path / "layer-2" / "ffn_up.bin", 2, np.zeros(4, np.float32))
    judgement = judged("layer_subset", Capture.open(path))
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.FAIL, 1, 0)
    (sound.path / "layer-2" / "ffn_gate.bin").unlink()
    judgement = judged("multi_stage", Capture.open(sound.path), stages="embedding,ffn_gate")
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.FAIL, 1, 0)


@pytest.mark.parametrize("check", ["divergence_localised", "one_adjacent_pair", "rel_l2_ceiling", "sigma_band"])
def test_a_nan_on_one_side_fails_every_comparison_with_its_count(check: str, sound: Capture, tmp_path: Path) -> None:
    node = Node(0, "ffn_up")
    spoilt = Capture.open(write_capture(tmp_path / "spoilt", edits={node: changed(ELEMENT, np.nan)}))
    judgement = judged(check, spoilt, sound, stages="ffn_up", layers=0)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.FAIL, 1, 0)
    assert judgement.nodes == (node,)


def test_logits_that_have_no_softmax_are_not_compared(sound: Capture, tmp_path: Path) -> None:
    a, b = (
        Capture.open(write_capture(tmp_path / name, edits={LOGITS: changed((0, 3), np.inf)})) for name in ("a", "b")
    )
    assert judged("argmax_parity", a, b).verdict is Verdict.UNKNOWN
