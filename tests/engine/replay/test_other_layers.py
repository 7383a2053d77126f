"""A segment that errs by more than runs of its rounding part by: a fault in one layer, nothing settled in many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.evaluation.arithmetics import ARITHMETICS, stage_tensors
from aprtui.engine.evaluation.bug_detection import buggy_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, CaptureKind, write_kind
from aprtui.engine.evaluation.porting_bugs.table import PORTING_BUGS
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.other_layers import GROWN
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model
from aprtui.trace.graph.stage import LAYER_OUTPUT, Node
from tests.engine.embedded_captures import TOKENS


@pytest.fixture
def replayed(model: Model, evaluators: Evaluators, tmp_path: Path) -> Callable[..., Comparison]:
    def run(arithmetic: str, kind: str, bug: str | None = None) -> Comparison:
        engine = ARITHMETICS[arithmetic]
        if bug is None:
            tensors = stage_tensors(engine, model, TOKENS, evaluators)
        else:
            tensors = buggy_tensors(PORTING_BUGS[bug], engine, model, TOKENS, evaluators)
        capture = write_kind(CAPTURE_KINDS[kind], tensors, model.graph, TOKENS, tmp_path / "capture")
        return replay_capture(capture, model, ReplayOptions(), evaluators)

    return run


def test_a_fault_in_one_layer_fails_where_no_other_layer_errs_so(replayed: Callable[..., Comparison]) -> None:
    result = replayed("bfloat16", "layer outputs", "last channels zero")
    assert result.verdict is Verdict.FAIL
    divergence = result.first_divergence
    assert divergence is not None and divergence.verdict.node == Node(2, LAYER_OUTPUT)
    assert "what runs of this rounding part by here; 3 other layers within it" in divergence.verdict.reason


def test_what_every_layer_errs_by_is_no_pass_and_no_fault(replayed: Callable[..., Comparison]) -> None:
    result = replayed("llama.cpp, f16 K/V", "layer outputs", "hard SiLU")
    assert result.verdict is Verdict.UNKNOWN
    assert any(GROWN in reason for reason in result.reasons)


@pytest.mark.parametrize("arithmetic", ["llama.cpp, f16 K/V", "bfloat16", "bfloat16, int8 a token", "q8_1"])
@pytest.mark.parametrize("kind", ["layer outputs", "two stages a layer"])
def test_layers_of_an_honest_engine_are_what_runs_of_it_are(
    replayed: Callable[..., Comparison], arithmetic: str, kind: str
) -> None:
    result = replayed(arithmetic, kind)
    assert result.verdict is Verdict.PASS, result.reasons


def test_a_layer_that_errs_as_others_do_stands_out_by_nothing(
    model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    """Storage in float16 turned levels of keys in Q4_0 in three of four layers, and our runs show it in two."""
    tokens = [int(token) % 2048 for token in np.random.default_rng(4).integers(0, 1 << 20, 16)]
    tensors = stage_tensors(ARITHMETICS["q8, q4_0 K/V"], model, tokens, evaluators)
    kind = CaptureKind(lambda node, graph: node.stage not in ("attn_scores", "qkv_matmul"), stored="f16")
    capture = write_kind(kind, tensors, model.graph, tokens, tmp_path / "capture")
    result = replay_capture(capture, model, ReplayOptions(), evaluators)
    assert result.verdict is Verdict.PASS, result.reasons
