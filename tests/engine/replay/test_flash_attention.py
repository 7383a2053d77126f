"""llama.cpp's flash attention: the turned K/V, and sums of values in float16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.align.hadamard import hadamard
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.evaluation.arithmetics import EngineArithmetic, stage_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, write_kind
from aprtui.engine.replay import identify
from aprtui.engine.replay.arithmetic import UNROUNDED, Recomputation, kept_type, parse_rounding
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.flash_attention import (
    ONLINE_F16,
    attend_online_f16,
    rotated_inputs,
    turned_channels,
)
from aprtui.engine.replay.recompute import CapturedStages, Recomputer
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.engine.replay.spread import HONEST_ROUNDINGS
from aprtui.engine.rounding import round_q4_0, round_q8_0
from aprtui.errors import UsageError
from aprtui.model.model import Model, load_model
from aprtui.oracle.llamacpp_capture import LlamaCppOptions, write_llamacpp_captures
from aprtui.oracle.requests import Evaluation
from aprtui.progress import no_progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
from tests.model.gguf_files import write_model

CONFIG = GraphConfig("qwen2", 1, 256, 4, 2, 64, 64, 32)


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("size", [64, 128])
def test_turning_twice_changes_nothing(size: int) -> None:
    x = _random(5, 256)
    turned = hadamard(x, size)
    assert np.abs(turned - x).max() > 0.1
    np.testing.assert_allclose(hadamard(turned, size), x, atol=1e-5)


def test_the_turned_block_grows_with_the_head() -> None:
    assert [turned_channels(dim) for dim in (64, 128, 192, 256)] == [64, 128, 64, 256]


def test_a_turned_cache_spreads_an_outlier_channel() -> None:
    keys = _random(8, CONFIG.kv_width)
    keys[:, 3] *= 100
    turned = rotated_inputs(Op.ATTEND, [_random(4, 8, 8), keys], "q4_0", CONFIG)[1]
    others = np.arange(CONFIG.kv_width) != 3
    plain = np.abs(round_q4_0(keys) - keys)[:, others][:, :31].mean()
    assert np.abs(turned - keys)[:, others][:, :31].mean() < plain


def test_heads_that_64_does_not_divide_are_not_turned() -> None:
    config = replace(CONFIG, head_dim=32)
    query, keys = _random(3, config.q_width), _random(8, config.kv_width)
    rounded = rotated_inputs(Op.SCORES, [query, keys], "q8_0", config)
    np.testing.assert_array_equal(rounded[0], round_q8_0(query))
    np.testing.assert_array_equal(rounded[1], round_q8_0(keys))


def test_sums_in_float16_are_the_attention_to_its_digits() -> None:
    scores = _random(4, 6, 6)
    visible = np.tril(np.ones((6, 6), np.bool_))
    powers = np.where(visible, np.exp(scores), 0)
    maps = (powers / powers.sum(-1, keepdims=True)).astype(np.float32)
    values = _random(6, CONFIG.kv_width)
    found = attend_online_f16(maps, values, CONFIG)
    by_head = values.reshape(6, 2, 64).repeat(2, 1)
    exact = np.einsum("hnt,thd->nhd", maps.astype(np.float64), by_head).reshape(6, -1)
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 1e-5 < error < 2e-3


def test_nan_of_a_value_reaches_the_queries_that_see_it_only() -> None:
    maps = np.tril(np.ones((4, 3, 3), np.float32)) / np.arange(1, 4, dtype=np.float32)[:, None]
    values = _random(3, CONFIG.kv_width)
    values[2, 0] = np.nan
    found = attend_online_f16(maps, values, CONFIG)
    assert np.isfinite(found[:2]).all()
    assert np.isnan(found[2]).any()


def test_keys_and_values_may_be_kept_in_different_types() -> None:
    for stated, keys, values in (("q8_0", "q8_0", "q8_0"), ("q8_0_rotated+f16", "q8_0_rotated", "f16")):
        rounding = replace(UNROUNDED, kv_cache=stated)
        assert (kept_type(Op.SCORES, rounding), kept_type(Op.ATTEND, rounding)) == (keys, values)
    assert parse_rounding("kv_cache=q8_0_query+q4_0_query") == {"kv_cache": "q8_0_query+q4_0_query"}
    for text, what in (("kv_cache=q8_0+f16+f16", "2 at most"), ("softmax=f16+f32", "1 at most")):
        with pytest.raises(UsageError, match=what):
            parse_rounding(text)


@pytest.mark.parametrize("choice", [*HONEST_ROUNDINGS, *identify._ATTENTION, *identify._TOGETHER], ids=str)
def test_every_rounding_that_is_tried_could_be_stated(choice: Mapping[str, str]) -> None:
    stated = ",".join(f"{name}={kind}" for name, kind in choice.items())
    assert parse_rounding(stated) == dict(choice)


TOKENS = tuple(range(20, 33))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(write_model(tmp_path_factory.mktemp("flash") / "model.gguf", layers=3))


@pytest.fixture(scope="module")
def evaluators(model: Model) -> Iterator[Evaluators]:
    with Evaluators(model) as found:
        yield found


def _replayed_turned(model: Model, evaluators: Evaluators, directory: Path, kept: str, wrong_layer: int) -> Comparison:
    """The replay of an engine that turns queries, keys and values, keeps them as `kept`, and captures its attention
    before it is turned back; in `wrong_layer` it is not turned at all."""
    arithmetic = EngineArithmetic(replace(UNROUNDED, kv_cache=kept))
    tensors = stage_tensors(arithmetic, model, TOKENS, evaluators)
    for node, values in tensors.items():
        if node.stage == "attention" and node.layer != wrong_layer:
            tensors[node] = hadamard(values, 64)
    capture = write_kind(CAPTURE_KINDS["no attention maps"], tensors, model.graph, TOKENS, directory)
    return replay_capture(capture, model, ReplayOptions(), evaluators)


@pytest.mark.parametrize(
    ("kept", "softmax"),
    [
        ("q8_0_query", "f32"), ("q4_0_query", "f32"), ("q8_0_rotated+f16", "f16"), ("q8_0_query+f16", ONLINE_F16),
        ("q4_0_rotated+f16", ONLINE_F16), ("q8_0_rotated+q4_0_rotated", "f32"),
    ],
)  # fmt: skip
def test_the_types_of_keys_and_values_are_found_by_trying(
    model: Model, evaluators: Evaluators, tmp_path: Path, kept: str, softmax: str
) -> None:
    arithmetic = EngineArithmetic(replace(UNROUNDED, matmul_input="q8", kv_cache=kept, softmax=softmax))
    tensors = stage_tensors(arithmetic, model, TOKENS, evaluators)
    capture = write_kind(CAPTURE_KINDS["complete"], tensors, model.graph, TOKENS, tmp_path / "found")
    result = replay_capture(capture, model, ReplayOptions(), evaluators)
    assert result.verdict is Verdict.PASS, result.first_divergence
    assert any(
        f"kv_cache={kept}," in statement and f"softmax={softmax}" in statement for statement in result.statements
    )


@pytest.mark.parametrize("kept", ["q8_0_rotated", "q4_0_rotated"])
def test_attention_captured_before_it_is_turned_back_is_recognised(
    model: Model, evaluators: Evaluators, tmp_path: Path, kept: str
) -> None:
    result = _replayed_turned(model, evaluators, tmp_path / "turned", kept, wrong_layer=-1)
    assert result.verdict is Verdict.PASS, result.first_divergence
    assert any("Walsh-Hadamard" in statement for statement in result.statements)


def test_a_layer_that_alone_is_not_turned_is_wrong(model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    result = _replayed_turned(model, evaluators, tmp_path / "turned", "q8_0_rotated", wrong_layer=1)
    assert result.verdict is Verdict.FAIL
    assert result.first_divergence is not None
    assert result.first_divergence.verdict.node == Node(1, "attention")


@pytest.mark.slow
@pytest.mark.group("llama_cpp")
@pytest.mark.parametrize("architecture", ["qwen3", "glm4moe", "deepseek2"])
def test_what_llama_cpp_sums_in_float16_comes_out_but_for_single_steps(architecture: str, tmp_path: Path) -> None:
    """Last bits of a probability decide some roundings to float16; all other values are as near as those of float32."""
    model = load_model(write_model(tmp_path / "model.gguf", architecture=architecture))
    work = {tmp_path / "capture": Evaluation((5, 7, 11, 13, 17, 19, 23, 29, 31, 37), None, 10)}
    write_llamacpp_captures(model, work, LlamaCppOptions(flash_attention=True, threads=1), no_progress)
    capture = Capture.open(tmp_path / "capture")
    stages = CapturedStages(capture, model, capture.tokens or ())
    with Evaluators(model) as evaluators:
        known = identify.identify(stages, {}, evaluators).arithmetic
        assert known.rounding.softmax == ONLINE_F16
        run = Recomputer(model, stages, Recomputation(model, known.rounding, evaluators, known.outputs))
        for node in model.graph.nodes:
            if model.graph[node.stage].op is Op.ATTEND:
                expected = run.recompute(node, stages.rows(node)).values
                error, size = np.abs(stages.values(node) - expected), np.sqrt((expected**2).mean(1, keepdims=True))
                is_step = error > 2e-6 * size
                assert is_step.mean() < 0.01 and error.max() < 2**-10 * np.abs(expected).max()
                assert (np.where(is_step, 0, error) / size).max() < 2e-6
