"""Each check passes what holds, fails what does not, at the cells at fault, and passes nothing that it did not see."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks.registry import CHECKS
from aprtui.engine.cuda import detect as cuda
from aprtui.engine.cuda.detect import CudaDevice, Detection, Obstacle
from aprtui.trace.aprt import write_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.compare.synthetic import ENGINE, NODES, changed, scaled, write_capture
from tests.contracts.captures import ELEMENT, NAN_AT, judged, nan_capture, of_layers

SILU, SWIGL = Node(1, "ffn_silu"), Node(1, "ffn_swigl")
CHAIN = ["attn_norm", "qkv_matmul", "qkv_bias", "attention", "attn_out"]


@pytest.fixture
def sound(tmp_path: Path) -> Capture:
    return Capture.open(write_capture(tmp_path / "sound"))


def other(tmp_path: Path, edits: dict[Node, object] | None = None, **options: object) -> Capture:
    return Capture.open(write_capture(tmp_path / "other", edits=edits, **options))  # type: ignore[arg-type]


def reopened(capture: Capture) -> Capture:
    return Capture.open(capture.path)


# --- bytes ---


def test_a_sound_capture_has_the_byte_format(sound: Capture) -> None:
    judgement = judged("byte_format", sound)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.PASS, 0, 0)
    assert len(judgement.nodes) == NODES


@pytest.mark.parametrize("damage", ["magic", "layer", "short", "trailing"])
def test_a_file_of_another_format_is_found_and_named(sound: Capture, damage: str) -> None:
    node = Node(2, "attn_out")
    path = sound.files[node].path
    data = bytearray(path.read_bytes())
    if damage == "magic":
        data[:4] = b"APRX"
    elif damage == "layer":
        data[4] = 7
    path.write_bytes(bytes(data[:-4] if damage == "short" else data + b"xx" if damage == "trailing" else data))
    judgement = judged("byte_format", reopened(sound))
    assert (judgement.verdict, judgement.number, judgement.nodes) == (Verdict.FAIL, 1, (node,))
    assert "attn_out" in judgement.reason


def test_header_arithmetic_holds_counts_against_shapes(sound: Capture) -> None:
    assert judged("header_arithmetic", sound).verdict is Verdict.PASS
    node = Node(0, "ffn_up")
    write_aprt(sound.files[node].path, 0, np.zeros(7, np.float32))
    judgement = judged("header_arithmetic", reopened(sound), stages="ffn_*")
    assert (judgement.verdict, judgement.nodes) == (Verdict.FAIL, (node,))


def test_header_arithmetic_without_known_shapes_is_unknown(tmp_path: Path) -> None:
    write_capture(tmp_path / "x", manifest=False, unplanned=("attn_softmax",))
    assert judged("header_arithmetic", Capture.open(tmp_path / "x")).verdict is Verdict.UNKNOWN


def test_logits_lie_at_the_root_and_say_so(sound: Capture) -> None:
    judgement = judged("whole_model_file", sound)
    assert (judgement.verdict, judgement.nodes) == (Verdict.PASS, (Node(None, "lm_head"),))
    write_aprt(sound.files[Node(None, "lm_head")].path, 0, np.zeros(20, np.float32))
    assert judged("whole_model_file", reopened(sound)).verdict is Verdict.FAIL


# --- NaN ---


def test_a_nan_that_went_in_and_is_there_passes_with_the_cells_that_hold_it(tmp_path: Path) -> None:
    judgement = judged("nan_preservation", nan_capture(tmp_path / "x", (NAN_AT, SILU, SWIGL)))
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.PASS, 0, 0)
    assert judgement.nodes == (NAN_AT, SILU, SWIGL)


def test_a_nan_that_went_in_and_is_gone_fails_at_its_cell(tmp_path: Path) -> None:
    judgement = judged("nan_preservation", nan_capture(tmp_path / "x", ()))
    assert (judgement.verdict, judgement.nodes) == (Verdict.FAIL, (NAN_AT,))


def test_a_nan_that_the_next_stage_has_lost_fails_there(tmp_path: Path) -> None:
    judgement = judged("nan_preservation", nan_capture(tmp_path / "x", (NAN_AT, SILU)))
    assert (judgement.verdict, judgement.nodes, judgement.number) == (Verdict.FAIL, (SWIGL,), 1)


def test_a_nan_that_the_writer_counted_and_the_file_lacks_fails(tmp_path: Path) -> None:
    capture = nan_capture(tmp_path / "x", (NAN_AT, SILU, SWIGL))
    path = capture.path / "manifest.json"
    written = json.loads(path.read_text())
    stats = {"count": 60, "nan": 3, "inf": 0, "min": 0, "max": 0, "absmax": 0, "mean": 0, "rms": 0}
    written["files"]["layer-1/ffn_up.bin"]["stats"] = stats
    path.write_text(json.dumps(written))
    judgement = judged("nan_preservation", reopened(capture))
    assert (judgement.verdict, judgement.nodes) == (Verdict.FAIL, (Node(1, "ffn_up"),))


def test_without_a_nan_nothing_is_judged(sound: Capture) -> None:
    judgement = judged("nan_preservation", sound)
    assert judgement.verdict is Verdict.UNKNOWN and "kind=nan" in judgement.reason


def test_a_nan_at_a_stage_that_was_not_captured_is_not_testable(tmp_path: Path) -> None:
    capture = nan_capture(tmp_path / "x", (), unplanned=("ffn_gate",), without=[Node(n, "ffn_gate") for n in range(3)])
    judgement = judged("nan_preservation", capture)
    assert judgement.verdict is Verdict.UNKNOWN and not judgement.testable


def test_a_nan_in_a_capture_of_another_engine_is_judged_by_what_follows_from_it(tmp_path: Path) -> None:
    kept = nan_capture(tmp_path / "kept", (NAN_AT, SILU, SWIGL), manifest=False)
    assert judged("nan_preservation", kept).verdict is Verdict.PASS
    lost = nan_capture(tmp_path / "lost", (NAN_AT, SWIGL), manifest=False)
    assert judged("nan_preservation", lost).nodes == (SILU,)


# --- what a capture holds ---


def test_a_capture_of_one_layer_is_a_subset_and_a_stale_file_of_another_is_not(tmp_path: Path) -> None:
    path = of_layers(write_capture(tmp_path / "x"), (1,))
    judgement = judged("layer_subset", Capture.open(path))
    assert judgement.verdict is Verdict.PASS and {node.layer for node in judgement.nodes} == {1}
    write_aprt(path / "layer-2" / "ffn_up.bin", 2, np.zeros(4, np.float32))
    judgement = judged("layer_subset", Capture.open(path))
    assert (judgement.verdict, judgement.nodes) == (Verdict.FAIL, (Node(2, "ffn_up"),))
    (path / "layer-2" / "ffn_up.bin").unlink()
    (path / "layer-1" / "ffn_up.bin").unlink()
    assert judged("layer_subset", Capture.open(path)).nodes == (Node(1, "ffn_up"),)


def test_a_capture_of_all_layers_says_nothing_of_subsets(sound: Capture) -> None:
    assert judged("layer_subset", sound).verdict is Verdict.UNKNOWN
    assert judged("layer_subset", sound, stages="ffn_gate", layers=1).verdict is Verdict.UNKNOWN


def test_without_a_manifest_a_subset_needs_to_be_named(tmp_path: Path) -> None:
    capture = Capture.open(write_capture(tmp_path / "x", manifest=False))
    assert judged("layer_subset", capture).verdict is Verdict.UNKNOWN


def test_of_several_stages_each_must_be_in_each_layer(sound: Capture) -> None:
    assert judged("multi_stage", sound, stages="embedding,ffn_gate").verdict is Verdict.PASS
    (sound.path / "layer-2" / "ffn_gate.bin").unlink()
    judgement = judged("multi_stage", reopened(sound), stages="embedding,ffn_gate")
    assert (judgement.verdict, judgement.nodes) == (Verdict.FAIL, (Node(2, "ffn_gate"),))
    (sound.path / "manifest.json").unlink()
    judgement = judged("multi_stage", reopened(sound), stages="embedding,ffn_gate")
    assert (judgement.verdict, judgement.nodes) == (Verdict.FAIL, (Node(2, "ffn_gate"),))
    assert judged("multi_stage", reopened(sound), stages="ffn_up").verdict is Verdict.UNKNOWN


def test_the_diff_of_a_file_with_itself_is_nothing(sound: Capture) -> None:
    judgement = judged("diff_identity", sound, stages="ffn_*", layers=0)
    assert judgement.verdict is Verdict.PASS and judgement.number == 0


@pytest.mark.parametrize(
    ("text", "completion", "verdict", "number"),
    [
        ("def f(n):", "\n    return n\n", Verdict.PASS, 0),
        ("def f(n):", "\n    return (n", Verdict.UNKNOWN, None),
        ("def f(n):", "\n    return n)", Verdict.FAIL, 1),
        ("def f(n):", "!!!!!!!!", Verdict.FAIL, 1),
        ("def f(n):", "", Verdict.UNKNOWN, None),
        ("a", "\x00", Verdict.FAIL, 1),
        ("", "(" * 5000, Verdict.FAIL, 1),
        ("a = 1\n", "(" * 50, Verdict.PASS, 0),
        ("def f(n): pass", None, Verdict.UNKNOWN, None),
        (None, "pass", Verdict.UNKNOWN, None),
    ],
)
def test_prompt_and_completion_are_parsed_together(
    sound: Capture, text: str | None, completion: str | None, verdict: Verdict, number: float | None
) -> None:
    path = sound.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "text": text, "completion": completion}))
    judgement = judged("completion_parses", reopened(sound))
    assert (judgement.verdict, judgement.number) == (verdict, number)


# --- pairs ---


def test_two_runs_with_the_same_bytes_are_deterministic(sound: Capture, tmp_path: Path) -> None:
    assert judged("determinism", sound, other(tmp_path)).verdict is Verdict.PASS


def test_one_changed_bit_is_no_determinism(sound: Capture, tmp_path: Path) -> None:
    node = Node(1, "attention")
    judgement = judged("determinism", sound, other(tmp_path, {node: changed((0, 0), 1.0)}))
    assert (judgement.verdict, judgement.nodes, judgement.number) == (Verdict.FAIL, (node,), 1)


@pytest.mark.parametrize("change", [{"mode": "q8"}, {"rounding": {"kv_cache": "f16"}}, {"faults": ("kind=nan",)}])
def test_runs_of_another_arithmetic_prove_no_indeterminism(sound: Capture, tmp_path: Path, change: object) -> None:
    edits, engine = {Node(1, "ffn_up"): changed((0, 0), 1.0)}, replace(ENGINE, **change)  # type: ignore[arg-type]
    judgement = judged("determinism", sound, other(tmp_path, edits, engine=engine))  # type: ignore[arg-type]
    assert judgement.verdict is Verdict.UNKNOWN and "the sides differ in" in judgement.reason


def test_a_capture_against_itself_or_on_other_tokens_proves_no_determinism(sound: Capture, tmp_path: Path) -> None:
    assert judged("determinism", sound, reopened(sound)).verdict is Verdict.UNKNOWN
    assert judged("determinism", sound, other(tmp_path, tokens=(5, 3, 9, 1, 2))).verdict is Verdict.UNKNOWN


def test_counts_must_agree(sound: Capture, tmp_path: Path) -> None:
    assert judged("count_parity", sound, other(tmp_path)).verdict is Verdict.PASS
    shorter = Capture.open(write_capture(tmp_path / "shorter", tokens=(5, 3, 9)))
    judgement = judged("count_parity", sound, shorter, stages="ffn_swigl", layers="all")
    assert judgement.verdict is Verdict.FAIL and judgement.number == 3


def test_a_cosine_below_its_floor_fails_at_its_cell(sound: Capture, tmp_path: Path) -> None:
    node = Node(1, "ffn_out")
    reference = other(tmp_path, {node: changed((0, 0), 9.0)})
    assert judged("cosine_floor", sound, reference, stages="ffn_up").verdict is Verdict.PASS
    judgement = judged("cosine_floor", sound, reference, stages="ffn_*", at_least=0.999)
    assert (judgement.verdict, judgement.nodes, judgement.bound) == (Verdict.FAIL, (node,), 0.999)
    assert judgement.number is not None and judgement.number < 0.999


def test_a_nan_on_one_side_fails_whatever_the_cosine(sound: Capture, tmp_path: Path) -> None:
    node = Node(1, "ffn_out")
    reference = other(tmp_path, {node: changed(ELEMENT, np.nan)})
    judgement = judged("cosine_floor", sound, reference, stages="ffn_out", at_least=-1)
    assert (judgement.verdict, judgement.nodes) == (Verdict.FAIL, (node,))


def test_captures_on_other_tokens_are_not_compared(sound: Capture, tmp_path: Path) -> None:
    reference = other(tmp_path, tokens=(5, 3, 9, 1, 2))
    assert judged("cosine_floor", sound, reference, stages="ffn_out").verdict is Verdict.UNKNOWN


def broken_from(first: int) -> dict[Node, object]:
    return {Node(0, name): changed((0, 0), 30.0) for name in CHAIN[first:]}


def test_one_fall_of_the_cosine_is_found_between_its_two_stages(sound: Capture, tmp_path: Path) -> None:
    judgement = judged("one_adjacent_pair", sound, other(tmp_path, broken_from(3)), stages=CHAIN, layers=0)
    assert judgement.verdict is Verdict.PASS
    assert judgement.nodes == (Node(0, "qkv_bias"), Node(0, "attention"))


def test_no_fall_two_falls_and_a_fall_before_the_first_stage_are_told_apart(sound: Capture, tmp_path: Path) -> None:
    none = Capture.open(write_capture(tmp_path / "none"))
    assert judged("one_adjacent_pair", sound, none, stages=CHAIN, layers=0).verdict is Verdict.UNKNOWN
    before = other(tmp_path, broken_from(0))
    assert judged("one_adjacent_pair", sound, before, stages=CHAIN, layers=0).verdict is Verdict.FAIL
    edits = {Node(0, name): changed((0, 0), 30.0) for name in (CHAIN[1], CHAIN[3])}
    two = Capture.open(write_capture(tmp_path / "two", edits=edits))
    judgement = judged("one_adjacent_pair", sound, two, stages=CHAIN, layers=0)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.FAIL, 2, 1)
    assert judged("one_adjacent_pair", sound, two, stages=CHAIN).verdict is Verdict.UNKNOWN


def test_a_divergence_is_localised_at_its_first_stage(sound: Capture, tmp_path: Path) -> None:
    assert judged("divergence_localised", sound, other(tmp_path), layers=0).verdict is Verdict.UNKNOWN
    broken = Capture.open(write_capture(tmp_path / "broken", edits=broken_from(2)))  # type: ignore[arg-type]
    assert judged("divergence_localised", sound, broken, layers=0).nodes == (Node(0, "qkv_bias"),)


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "PASS"), (1.9, "PASS"), (2.1, "FAIL"), (0.4, "FAIL")])
def test_spread_beyond_its_band_fails(sound: Capture, tmp_path: Path, factor: float, verdict: str) -> None:
    node = Node(1, "ffn_swigl")
    capture = other(tmp_path, {node: scaled(factor)})
    judgement = judged("sigma_band", capture, sound, stages="ffn_swigl", layers="all", low=0.5, high=2.0)
    assert judgement.verdict == verdict and judgement.number == pytest.approx(factor)
    assert (judgement.nodes == (node,)) is (verdict == "FAIL")


def test_another_first_token_fails(sound: Capture, tmp_path: Path) -> None:
    logits = Node(None, "lm_head")
    assert judged("argmax_parity", sound, other(tmp_path)).verdict is Verdict.PASS
    flipped = Capture.open(write_capture(tmp_path / "flipped", edits={logits: changed((0, 3), 99.0)}))
    judgement = judged("argmax_parity", flipped, sound)
    assert (judgement.verdict, judgement.number, judgement.nodes) == (Verdict.FAIL, 1, (logits,))


def test_equal_first_tokens_with_too_low_a_cosine_fail_where_one_is_asked_for(sound: Capture, tmp_path: Path) -> None:
    logits = Node(None, "lm_head")
    values = sound.values(logits)
    edit = changed((0, int(values[0].argmax())), 99.0)
    capture = other(tmp_path, {logits: edit})
    assert judged("argmax_parity", capture, sound).verdict is Verdict.PASS
    assert judged("argmax_parity", capture, sound, cosine_at_least=0.98).verdict is Verdict.FAIL


def test_logits_as_close_as_asked_for_pass_and_farther_ones_fail_with_their_distance(
    sound: Capture, tmp_path: Path
) -> None:
    logits = Node(None, "lm_head")
    judgement = judged("rel_l2_ceiling", sound, other(tmp_path), stages="lm_head", at_most=1e-4)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.PASS, 0, 1e-4)
    far = Capture.open(write_capture(tmp_path / "far", edits={logits: scaled(1.001)}))
    judgement = judged("rel_l2_ceiling", far, sound, stages="lm_head", at_most=1e-4)
    assert (judgement.verdict, judgement.nodes, judgement.bound) == (Verdict.FAIL, (logits,), 1e-4)
    assert judgement.number == pytest.approx(1e-3, rel=1e-3)


def test_too_few_positions_or_none_through_decode_are_unknown(sound: Capture, tmp_path: Path) -> None:
    same = other(tmp_path)
    few = judged("rel_l2_ceiling", sound, same, stages="lm_head", positions=8)
    assert (few.verdict, few.reason) == (Verdict.UNKNOWN, "lm_head: 1 position, at least 8 are asked for")
    assert judged("rel_l2_ceiling", sound, same, stages="ffn_up", positions=5).verdict is Verdict.PASS
    judgement = judged("rel_l2_ceiling", sound, same, stages="ffn_up", decoded=1)
    assert judgement.verdict is Verdict.UNKNOWN and "--decode-from" in judgement.reason


# --- what stands in the way ---


def test_a_stage_that_was_not_captured_is_not_testable(tmp_path: Path) -> None:
    path = write_capture(tmp_path / "x", unplanned=("ffn_gate",), without=[Node(n, "ffn_gate") for n in range(3)])
    judgement = judged("byte_format", Capture.open(path), stages="ffn_gate,ffn_up")
    assert judgement.verdict is Verdict.UNKNOWN and not judgement.testable
    assert judgement.reason == "not testable: stage not captured: ffn_gate"


def test_a_layer_that_the_model_lacks_is_not_testable(sound: Capture) -> None:
    judgement = judged("byte_format", sound, stages="ffn_gate", layers=3)
    assert not judgement.testable and "layer 3" in judgement.reason


def test_a_pass_on_a_part_of_what_is_claimed_is_no_pass_and_a_failure_is_one(sound: Capture) -> None:
    (sound.path / "layer-2" / "ffn_up.bin").unlink()
    assert judged("byte_format", reopened(sound), stages="ffn_up").verdict is Verdict.PASS
    assert judged("byte_format", reopened(sound), stages="ffn_up", layers="all").verdict is Verdict.UNKNOWN
    sound.files[Node(1, "ffn_up")].path.write_bytes(b"APRX")
    assert judged("byte_format", reopened(sound), stages="ffn_up", layers="all").verdict is Verdict.FAIL


def test_a_broken_file_makes_other_checks_unknown_with_its_error(sound: Capture) -> None:
    sound.files[Node(1, "ffn_up")].path.write_bytes(b"APRX")
    judgement = judged("diff_identity", reopened(sound))
    assert judgement.verdict is Verdict.UNKNOWN and "ffn_up.bin" in judgement.reason


def test_a_claim_about_two_devices_is_not_judged_on_one(sound: Capture, tmp_path: Path) -> None:
    same = other(tmp_path)
    assert judged("argmax_parity", sound, same).verdict is Verdict.PASS
    numpy = Capture.open(write_capture(tmp_path / "numpy", engine=replace(ENGINE, backend="numpy")))
    for capture in (same, numpy):
        judgement = judged("argmax_parity", sound, capture, devices_differ=True)
        assert judgement.verdict is Verdict.UNKNOWN and "one device: the claim is about two" in judgement.reason
    device = Capture.open(write_capture(tmp_path / "device", engine=replace(ENGINE, backend="cuda")))
    foreign = Capture.open(write_capture(tmp_path / "foreign", manifest=False))
    for capture in (device, foreign):
        assert judged("argmax_parity", capture, sound, devices_differ=True).verdict is Verdict.PASS


CPU_AND_CUDA = ["cpu", "cuda"]


def test_a_claim_about_named_backends_is_judged_on_those_alone(
    sound: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "detect", lambda: Detection(devices=(CudaDevice(0, "GPU", (8, 0), 1),)))
    device = Capture.open(write_capture(tmp_path / "device", engine=replace(ENGINE, backend="cuda")))
    assert judged("argmax_parity", device, sound, backends=CPU_AND_CUDA).verdict is Verdict.PASS
    assert judged("argmax_parity", sound, device, backends=CPU_AND_CUDA).verdict is Verdict.PASS
    (tmp_path / "unknown").mkdir()
    foreign = Capture.open(write_capture(tmp_path / "unknown", manifest=False))
    for pair in ((sound, other(tmp_path)), (device, foreign)):
        judgement = judged("argmax_parity", *pair, backends=CPU_AND_CUDA)
        assert judgement.verdict is Verdict.UNKNOWN and "the claim is about cpu and cuda" in judgement.reason
    assert judged("argmax_parity", backends=CPU_AND_CUDA).reason.startswith("no capture is at hand")


def test_a_claim_about_a_device_that_is_not_there_is_not_testable(
    sound: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "detect", lambda: Detection(obstacle=Obstacle.NO_DRIVER, problem="no driver"))
    for pair in ((), (sound,), (sound, other(tmp_path))):
        judgement = judged("argmax_parity", *pair, backends=CPU_AND_CUDA)
        assert (judgement.verdict, judgement.testable) == (Verdict.UNKNOWN, False)
        assert judgement.reason == "not testable: no CUDA device: no driver"
    assert judged("argmax_parity", sound, other(tmp_path / "x"), backends=["cpu", "cpu"]).verdict is Verdict.PASS


@pytest.mark.parametrize("check", CHECKS)
def test_no_check_passes_without_what_it_needs(check: str, sound: Capture) -> None:
    if check != "contract_valid":
        assert judged(check).verdict is Verdict.UNKNOWN
        if "second capture" in judged(check, sound).reason:
            assert judged(check, sound).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("check", "parameters", "reason"),
    [
        ("no_such_check", {}, "no check is called"),
        ("byte_format", {"at_least": 1}, "takes no 'at_least'"),
        ("byte_format", {"stages": 3}, "expected names of stages"),
        ("byte_format", {"layers": "x"}, "is not a layer"),
        ("cosine_floor", {"at_least": "high"}, "is not a number"),
        ("sigma_band", {"low": 2, "high": 1}, "no band"),
    ],
)
def test_a_check_that_is_asked_wrongly_says_so(
    sound: Capture, tmp_path: Path, check: str, parameters: dict[str, object], reason: str
) -> None:
    judgement = judged(check, sound, other(tmp_path), **parameters)
    assert judgement.verdict is Verdict.UNKNOWN and reason in judgement.reason
