"""What captured stages are worth: shares add up, the stage with a fault carries the error, our own capture none."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.grafting import Grafting, GraftReport, Worth
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Logits, Mode
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.errors import UsageError
from aprtui.model.model import Model
from aprtui.progress import no_progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.engine.embedded_captures import TOKENS

K_ROPE = "layer=2,stage=k_post_rope,kind=position-off-by-one"


def grafting(
    model: Model, evaluators: Evaluators, folder: Path, *faults: str, mode: Mode = Mode.EXACT,
    stages: frozenset[str] = frozenset(), logits: Logits = Logits.LAST,
) -> Grafting:  # fmt: skip
    """Grafts of a capture of the embedded model with `faults`."""
    injector = FaultInjector(model, mode, [parse_fault(text, model) for text in faults]) if faults else None
    engine = open_engine(model, backend="cpu", mode=mode, context=64, threads=2, intervention=injector)
    nodes = frozenset(node for node in model.graph.nodes if not stages or node.stage in stages)
    try:
        write_capture(engine, model, CaptureRequest(TOKENS[:6], None, nodes, logits), folder / "capture")
    finally:
        engine.close()
    return Grafting.of(Capture.open(folder / "capture"), model, evaluators, no_progress)


def worth_of(report: GraftReport, node: Node) -> Worth:
    return next(worth for worth in report.worths if worth.first == worth.last == node)


def test_the_stage_with_a_fault_carries_the_error(model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    found = grafting(model, evaluators, tmp_path, K_ROPE, mode=Mode.Q8, logits=Logits.ALL)
    report = found.report()
    assert report.explains and report.total.rows == 6 and report.total.kl is not None and report.total.kl > 0.01
    first = report.worths[0]
    assert first.first == first.last == Node(2, "k_post_rope") and first.share == pytest.approx(1, abs=1e-4)
    assert first.before.kl is not None and first.before.kl < 1e-9
    single = found.stretch(first.first, first.first).worths[0]
    assert single.alone is not None and single.alone.kl == pytest.approx(report.total.kl, rel=1e-3)


def test_shares_of_two_faults_add_up_to_all_of_the_error(model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    faults = ("layer=2,stage=ffn_gate,kind=scale,magnitude=0.5", "layer=1,stage=attn_out,kind=noise,magnitude=0.2")
    report = grafting(model, evaluators, tmp_path, *faults).report()
    assert {report.worths[0].first, report.worths[1].first} == {Node(1, "attn_out"), Node(2, "ffn_gate")}
    shares = [worth.share for worth in report.worths]
    assert None not in shares and sum(share for share in shares if share) == pytest.approx(1, abs=1e-9)


def test_our_own_capture_has_no_error_at_all(model: Model, evaluators: Evaluators, exact: Path) -> None:
    report = Grafting.of(Capture.open(exact), model, evaluators, no_progress).report()
    assert report.total.kl == 0 and not report.explains
    assert all(worth.share is None and worth.after.kl == 0 for worth in report.worths)


def test_honest_roundings_are_no_error_until_our_pass_has_none(model: Model, evaluators: Evaluators, q8: Path) -> None:
    assert not Grafting.of(Capture.open(q8), model, evaluators, no_progress).report().explains
    unrounded = {"matmul_input": "none", "rope_angles": "f64"}
    report = Grafting.of(Capture.open(q8), model, evaluators, no_progress, rounding=unrounded).report()
    assert report.explains and "our pass: matmul_input=none" in report.statements[-1]


def test_a_capture_of_layer_outputs_blames_the_layer(model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    kept = frozenset({"post_ffn_residual", "lm_head"})
    report = grafting(model, evaluators, tmp_path, K_ROPE, stages=kept).report()
    assert report.worths[0].first == Node(2, "post_ffn_residual")
    assert report.worths[0].share == pytest.approx(1, abs=1e-4)
    with pytest.raises(UsageError, match="layer 2 ffn_gate: not in the capture: it holds post_ffn_residual, lm_head"):
        grafting(model, evaluators, tmp_path / "b", stages=kept).worth(Node(2, "ffn_gate"), Node(2, "ffn_gate"))


def test_where_logits_stop_being_numbers_comes_first(model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    report = grafting(model, evaluators, tmp_path, "layer=1,stage=ffn_up,kind=nan,token=5").report()
    assert report.total.kl is None and report.worths[0].first == Node(1, "ffn_up")
    assert report.worths[0].share is None and report.worths[0].before.kl == 0


def test_a_stretch_is_worth_what_its_stages_are(model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    found = grafting(model, evaluators, tmp_path, K_ROPE)
    (whole,) = found.stretch(Node(1, "attn_norm"), Node(2, "attention")).worths
    (outside,) = found.stretch(Node(0, "embedding"), Node(1, "ffn_out")).worths
    assert whole.share == pytest.approx(1) and outside.share == pytest.approx(0, abs=1e-9)
