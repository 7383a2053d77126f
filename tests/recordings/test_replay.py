"""Replays of recordings: ops against formulas written out here, faults that are named, honest ones that are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from click.testing import CliRunner, Result

from aprtui.cli.main import cli
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import Verdict
from aprtui.errors import ExitCode, UnreadableError, UsageError
from aprtui.recordings.judging import beyond, measured
from aprtui.recordings.ops.table import OPS, named_params
from tests.recordings.made import FAULTS, documented_recorder, edited, plant, recorded, replayed

RNG = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return RNG.normal(size=shape).astype(np.float32)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], standalone_mode=False)


def softmax(x: Any) -> Any:
    shares = np.exp(x - x.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


X, Y, W = normal(5, 64), normal(5, 64), normal(32, 64)
HEADS = normal(3, 5, 2, 16)
POSITIONS = np.arange(5, dtype=np.int32)
MASK = np.where(np.tri(5, dtype=bool), 0, -np.inf).astype(np.float32)


def rotated(x: Any) -> Any:
    """Halves of heads of 16 channels, base 100."""
    angles = POSITIONS[:, None] * 100.0 ** (-np.arange(8) / 8)
    c, s = np.cos(angles)[:, None], np.sin(angles)[:, None]
    low, high = x[..., :8], x[..., 8:]
    return np.concatenate([low * c - high * s, low * s + high * c], -1).astype(np.float32)


ROPE = {
    "dimensions": 16, "mode": 2, "original_context": 0, "base": 100.0, "scale": 1.0, "extrapolation": 0.0,
    "magnitude": 1.0, "beta_fast": 32.0, "beta_slow": 1.0, "first": 0,
}  # fmt: skip

HONEST: dict[str, tuple[str, Any, tuple[Any, ...], dict[str, Any]]] = {
    "add": ("ADD", X + Y, (X, Y), {}),
    "mul, repeated": ("MUL", X * Y[:1], (X, Y[:1]), {}),
    "scale": ("SCALE", X * np.float32(0.5) + np.float32(2), (X,), {"scale": 0.5, "bias": 2.0}),
    "layer norm": (
        "NORM", (X - X.mean(-1, keepdims=True)) / np.sqrt(X.var(-1, keepdims=True) + np.float32(1e-5)), (X,),
        {"epsilon": 1e-5},
    ),
    "product": ("MUL_MAT", X @ W.T, (W, X), {}),
    "softmax with a mask": (
        "SOFT_MAX", softmax(0.3 * X[:, :5] + MASK), (X[:, :5].copy(), MASK), {"scale": 0.3, "max_bias": 0.0},
    ),
    "swiglu": ("GLU", X / (1 + np.exp(-X)) * Y, (X, Y), {"function": "SWIGLU"}),
    "gelu exactly": (
        "UNARY", 0.5 * X * (1 + np.tanh(np.sqrt(2 / np.pi).astype(np.float32) * (X + np.float32(0.044715) * X**3))),
        (X,), {"function": "GELU"},
    ),
    "rope": ("ROPE", rotated(HEADS[0]), (HEADS[0].copy(), POSITIONS), ROPE),
    "concat": ("CONCAT", np.concatenate([X, Y], -1), (X, Y), {"dimension": 0}),
    "top k": ("TOP_K", np.argsort(-X, -1)[:, :4].astype(np.int32), (X,), {}),
    "sum of rows": ("SUM_ROWS", X.sum(-1, keepdims=True), (X,), {}),
    "pooled": (
        "POOL_2D", X[:4].reshape(2, 2, 32, 2).max((1, 3)), (X[:4].copy(),),
        {"kind": 0, "width": 2, "height": 2, "step_x": 2, "step_y": 2, "before_x": 0, "before_y": 0},
    ),
    "to float16": ("CPY", X.astype(np.float16), (X,), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_op_passes(tmp_path: Path, name: str) -> None:
    op, output, sources, params = HONEST[name]
    kept = output.astype(np.float32) if output.dtype == np.float64 else output
    replay = replayed(recorded(tmp_path, op, kept, *sources, **params))
    assert replay.verdict is Verdict.PASS, (replay.unknown, replay.first)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", [name for name in HONEST if name not in ("top k", "to float16")])
def test_a_fault_in_an_output_is_named(tmp_path: Path, name: str, fault: str) -> None:
    op, output, sources, params = HONEST[name]
    recorded(tmp_path, op, output.astype(np.float32), *sources, **params)
    plant(tmp_path, 0, 0, fault)
    replay = replayed(tmp_path)
    assert replay.verdict is Verdict.FAIL
    assert replay.first is not None
    assert replay.first.error is not None
    assert replay.first.bound is not None
    assert replay.first.error > replay.first.bound


@pytest.mark.parametrize("places", [[0, 0, 1, 2], [0, 1, 2, 900], [5, 6, 7, 8]])
def test_a_choice_of_other_places_is_wrong(tmp_path: Path, places: list[int]) -> None:
    values = np.arange(64, 0, -1, dtype=np.float32).reshape(1, 64)
    assert replayed(recorded(tmp_path, "TOP_K", np.array([places], np.int32), values)).verdict is Verdict.FAIL


def test_a_choice_among_equal_values_is_free(tmp_path: Path) -> None:
    values = np.array([[1, 3, 3, 3, 0]], np.float32)
    assert replayed(recorded(tmp_path, "TOP_K", np.array([[3, 1]], np.int32), values)).verdict is Verdict.PASS


def test_sums_that_cancel_are_ill_conditioned_not_wrong(tmp_path: Path) -> None:
    x = normal(1, 4096) * np.float32(1000)
    x[0, -1] = -x[0, :-1].astype(np.float64).sum()
    total = x.sum()
    honest = np.array([[total]], np.float32)
    exact = x.astype(np.float64).sum()
    assert abs(total - exact) > 1e-5 * abs(exact), "the float32 sum is not that good"
    assert replayed(recorded(tmp_path / "a", "SUM_ROWS", honest, x)).verdict is Verdict.PASS
    assert replayed(recorded(tmp_path / "b", "SUM_ROWS", honest + np.float32(1), x)).verdict is Verdict.FAIL


def test_nan_on_one_side_is_wrong_and_on_both_unknown(tmp_path: Path) -> None:
    output = X + Y
    output[2, 3] = np.nan
    replay = replayed(recorded(tmp_path / "a", "ADD", output, X, Y))
    assert replay.first is not None
    assert (replay.first.metric, replay.first.place) == (Metric.NON_FINITE, "row 2, channel 3")
    nothing = np.full_like(X, np.nan)
    assert replayed(recorded(tmp_path / "b", "ADD", nothing.copy(), nothing, Y)).verdict is Verdict.UNKNOWN


def test_an_empty_op_is_no_fault(tmp_path: Path) -> None:
    none = np.zeros((0, 64), np.float32)
    assert replayed(recorded(tmp_path, "SCALE", none, none, scale=2.0, bias=0.0)).verdict is Verdict.PASS


def test_a_short_float_may_be_half_a_step_off() -> None:
    expected = np.array([[1.0, 2.0003, -3.1]])
    found = expected.astype(np.float16).astype(np.float64)
    assert measured(expected, found, "f16").whole == 0
    assert measured(expected, found, "f32").whole > 1e-5
    assert measured(expected, found + 0.01, "f16").whole > 1e-3


def test_a_single_wrong_channel_is_found_in_the_noise_of_large_ones() -> None:
    expected = np.ones((4, 8))
    expected[:, 0] = 1e5
    found = expected.copy()
    found[:, 5] = 0.5
    wrong = beyond(measured(expected, found, "f32"), 3e-6)
    assert wrong is not None


def model_recording(folder: Path) -> Path:
    """A product with a weight of a model file, by name."""
    rows = gguf.quants.quantize(normal(32, 256), gguf.GGMLQuantizationType.Q4_0)
    writer = gguf.GGUFWriter(str(folder / "model.gguf"), "some")
    writer.add_tensor("blk.3.ffn_up.weight", rows, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    x = normal(5, 256)
    blocks = x.reshape(5, 8, 32)
    scale = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    rounded = (np.rint(blocks / scale) * scale.astype(np.float16).astype(np.float32)).reshape(5, 256)
    weight = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType.Q4_0)
    recorder = documented_recorder()(folder / "made", [1, 2, 3, 4, 5])
    named = recorder.array(rows, "weight", "blk.3.ffn_up.weight") if rows.dtype == np.float32 else None
    assert named is None
    recorder.array(x, "input")
    recorder.array(stand_in := np.zeros((32, 256), np.float32), "input")
    recorder.op("MUL_MAT", rounded @ weight.T, stand_in, x, name="node_7")
    recorder.finish("test")

    def by_name(document: dict[str, Any]) -> None:
        graph = document["graphs"][0]
        graph["roots"][1] = {"kind": "weight", "bytes": rows.nbytes, "name": "blk.3.ffn_up.weight"}
        graph["tensors"][1] |= {"type": "q4_0", "strides": [144, 18]}
        document["model"] = {"path": str(folder / "model.gguf")}

    return edited(folder / "made", by_name)


def test_a_weight_is_read_from_the_model_and_its_rounding_found(tmp_path: Path) -> None:
    replay = replayed(model_recording(tmp_path))
    assert replay.verdict is Verdict.PASS
    assert replay.results[0].rounding == "input in q8_0"
    assert str(replay.results[0].name) == "layer 3 ffn_up (node_7)"


def test_another_model_or_none_is_refused(tmp_path: Path) -> None:
    made = model_recording(tmp_path)
    edited(made, lambda d: d["model"].update(sha256="0" * 64))
    with pytest.raises(UsageError, match="is not the model that was recorded"):
        replayed(made)
    edited(made, lambda d: d.update(model={"path": "/nowhere/model.gguf"}))
    with pytest.raises(UnreadableError, match="give it with --model"):
        replayed(made)
    edited(made, lambda d: d.update(model=None))
    with pytest.raises(UsageError, match="names no model"):
        replayed(made)


def test_a_state_that_goes_on_is_what_the_graph_before_left(tmp_path: Path) -> None:
    cache, row, index = np.zeros((4, 8), np.float32), normal(1, 8), np.array([2], np.int64)
    recorder = documented_recorder()(tmp_path, [1, 2])
    for array, kind in ((cache, "state"), (row, "input"), (index, "input")):
        recorder.array(array, kind)
    recorder.op("SET_ROWS", row.copy(), row, index)
    recorder.finish("test")

    def two_graphs(document: dict[str, Any]) -> None:
        first = document["graphs"][0]
        first["count"] = 1
        first["nodes"][0] |= {"outputs": [0], "rows": True}
        second = json.loads(json.dumps(first)) | {"position": 1}
        del second["roots"][0]["blob"]
        second["roots"][0]["carried"] = 0
        second["nodes"] = [{"op": "GET_ROWS", "sources": [0, 2], "outputs": [3], "blobs": first["nodes"][0]["blobs"]}]
        document["graphs"].append(second)

    replay = replayed(edited(tmp_path, two_graphs))
    assert [result.verdict for result in replay.results] == [Verdict.PASS, Verdict.PASS]

    def changed(document: dict[str, Any]) -> None:
        document["graphs"][1]["roots"][0]["digest"] = "0" * 32

    replay = replayed(edited(tmp_path, changed))
    assert replay.verdict is Verdict.UNKNOWN
    assert "was changed between the graphs" in replay.reason


def test_parameters_of_ggml_have_names() -> None:
    words = np.zeros(16, np.int32)
    words[5:8].view(np.float32)[:2] = 10000, 0.5
    assert named_params("ROPE", words.tobytes())["base"] == 10000
    assert named_params("NEVER_HEARD_OF", words.tobytes())["words"][0] == 0
    assert all(len(row.params) <= 16 for row in OPS.values())


def test_replay_of_a_recording_prints_a_verdict(tmp_path: Path) -> None:
    honest = recorded(tmp_path / "honest", "ADD", X + Y, X, Y)
    shutil.copytree(honest, tmp_path / "wrong")
    plant(tmp_path / "wrong", 0, 0, "zero tail")
    result = run("replay", honest)
    assert result.return_value == ExitCode.PASS
    assert "PASS" in result.stdout
    assert "wrong but faithfully" in result.stdout
    assert f"aprtui diff reference {honest}" in result.stdout
    result = run("replay", tmp_path / "wrong", "--json")
    assert result.return_value == ExitCode.DIVERGENCE
    header, op, summary = map(json.loads, result.stdout.splitlines())
    assert header["schema"] == "aprtui-recording-v1"
    assert op["verdict"] == summary["verdict"] == "FAIL"
    assert summary["first_divergence"] == {key: value for key, value in op.items() if key != "record"}
    assert run("replay", tmp_path / "wrong", "--tolerance", "rel_l2=1").return_value == ExitCode.PASS


def test_options_that_mean_nothing_for_a_recording_are_refused(tmp_path: Path) -> None:
    honest = recorded(tmp_path / "honest", "ADD", X + Y, X, Y)
    for options in (["--stage", "ffn*"], ["--rounding", "matmul_input=q8_k"], ["--tolerance", "max_abs=1"]):
        result = run("replay", honest, *options)
        assert isinstance(result.exception, UsageError)
