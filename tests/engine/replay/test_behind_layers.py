"""What stages behind whole layers pass by is no evidence where it is a coarse type that nothing else shows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.evaluation.arithmetics import ARITHMETICS
from aprtui.engine.evaluation.bug_detection import buggy_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, write_kind
from aprtui.engine.evaluation.porting_bugs.bug import PortingBug
from aprtui.engine.replay.arithmetic import UNROUNDED
from aprtui.engine.replay.behind_layers import doubted_behind_layers
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.recompute import CapturedStages
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.engine.rounding import ROUND
from aprtui.model.model import Model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import LAYER_OUTPUT, Node
from aprtui.trace.manifest import relative_path
from tests.engine.embedded_captures import TOKENS, edit

LOGITS = Node(None, "lm_head")
KINDS = {"f32": "none", "f16": "f16"}
PROMPT = (1704, 1162, 112, 1741, 1130, 1662, 1577, 199, 50, 1290)
Replay = Callable[..., Comparison]


def _kept(folder: Path, nodes: Collection[Node]) -> Path:
    for path in folder.rglob("*.bin"):
        if path not in {folder / relative_path(node) for node in nodes}:
            path.unlink()
    return folder


def _verdicts(
    stages: CapturedStages,
    result: Comparison,
    rounding: Mapping[str, str],
    told: Collection[str] = (),
    error: float = 0.02,
) -> set[Verdict]:
    """What is said of the stages of `result`, had they passed with such an error by such a rounding."""
    compared = [replace(stage, verdict=replace(stage.verdict, error=error)) for stage in result.stages]
    found = replace(UNROUNDED, **rounding)
    return {stage.verdict.verdict for stage in doubted_behind_layers(compared, stages, found, told)}


@pytest.mark.parametrize("stored", ["f32", pytest.param("f16", marks=pytest.mark.slow)])
def test_a_coarse_type_that_logits_alone_show_settles_nothing(
    stored: str, model: Model, without_manifest: Path, replay: Replay
) -> None:
    """Nor does an 8-bit one that the logits refute, where they are stored in enough digits to do so."""
    edit(without_manifest, LOGITS, ROUND[KINDS[stored]])
    folder = _kept(without_manifest, [LOGITS])
    stages, result = CapturedStages(Capture.open(folder), model, TOKENS), replay(folder, tokens=TOKENS)
    assert result.verdict is Verdict.PASS
    for rounding in ({"kv_cache": "q4_0"}, {"kv_cache": "q8_0_rotated+q4_0_rotated"}, {"matmul_input": "int8_row"}):
        assert _verdicts(stages, result, rounding) == {Verdict.UNKNOWN}
        assert _verdicts(stages, result, rounding, told=rounding) == {Verdict.PASS}
        assert _verdicts(stages, result, rounding, error=1e-6) == {Verdict.PASS}
    assert _verdicts(stages, result, {"kv_cache": "f16"}) == {Verdict.PASS}
    refuted = Verdict.UNKNOWN if stored == "f32" else Verdict.PASS
    assert _verdicts(stages, result, {"matmul_input": "q8"}) == {refuted}


def test_more_stages_tell_more(model: Model, without_manifest: Path, replay: Replay) -> None:
    folder = _kept(without_manifest, [LOGITS, *(Node(layer, LAYER_OUTPUT) for layer in (1, 2))])
    stages, result = CapturedStages(Capture.open(folder), model, TOKENS), replay(folder, tokens=TOKENS)
    assert _verdicts(stages, result, {"kv_cache": "q4_0"}) == {Verdict.PASS}


def _other_base(call: StageCall) -> Array:
    rope = call.model.config.rope
    return call.with_config(rope=replace(rope, theta=50000.0))


@pytest.mark.slow
@pytest.mark.parametrize("stated", [False, True])
def test_another_base_of_rope_in_bfloat16_does_not_pass_by_keys_in_fp8(
    stated: bool, model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    bug = PortingBug(_other_base, (Op.ROPE,))
    tensors = buggy_tensors(bug, ARITHMETICS["bfloat16"], model, PROMPT, evaluators)
    capture = write_kind(CAPTURE_KINDS["logits"], tensors, model.graph, PROMPT, tmp_path / "capture")
    options = ReplayOptions(rounding={"kv_cache": "fp8_e5m2"} if stated else {})
    result = replay_capture(capture, model, options, evaluators)
    assert result.verdict is (Verdict.PASS if stated else Verdict.UNKNOWN)
    assert stated or any("reproduced by kv_cache=fp8_e5m2" in reason for reason in result.reasons)
