"""`aprtui stats` as users and scripts see it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from aprtui.cli.stats import command
from aprtui.errors import UnreadableError, UsageError
from aprtui.model.model import load_model
from aprtui.resources import embedded_model
from aprtui.trace.aprt import write_aprt
from aprtui.trace.graph.stage import Node
from tests.cli.conftest import Outcome
from tests.compare.synthetic import NODES, TOKENS, changed, stage_values, write_capture
from tests.model.gguf_files import write_model

FIELDS = ["layer", "stage", "shape", "count", "nan", "inf", "min", "max", "absmax", "mean", "rms"]


def stats(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(command, [str(word) for word in arguments], standalone_mode=False)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def records(*arguments: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stats(*arguments, "--json").stdout.splitlines()]


def test_every_stage_has_an_object_with_the_documented_fields(tmp_path: Path) -> None:
    lines = records(write_capture(tmp_path / "a"))
    assert len(lines) == NODES
    assert all(list(line) == FIELDS for line in lines)
    assert (lines[0]["layer"], lines[0]["stage"], lines[0]["shape"]) == (0, "embedding", [len(TOKENS), 8])
    assert (lines[-1]["layer"], lines[-1]["stage"], lines[-1]["shape"]) == (None, "lm_head", [1, 20])


def test_numbers_are_those_of_the_values(tmp_path: Path) -> None:
    node = Node(1, "ffn_up")
    (line,) = records(write_capture(tmp_path / "a"), "--stage", "ffn_up", "--layers", "1..2")
    values = stage_values(node, (len(TOKENS), 12), TOKENS).astype(np.float64)
    assert line["count"] == values.size
    assert (line["min"], line["max"], line["absmax"]) == (values.min(), values.max(), np.abs(values).max())
    assert line["mean"] == pytest.approx(values.mean(), rel=1e-12)
    assert line["rms"] == pytest.approx(np.sqrt((values**2).mean()), rel=1e-12)


def test_attention_maps_count_key_up_to_query(tmp_path: Path) -> None:
    edits = {Node(0, "attn_softmax"): changed((0, 1, 3), 50.0)}  # key 3 > query 1: no value of the model
    (line,) = records(write_capture(tmp_path / "a", edits=edits), "--stage", "attn_softmax", "--layers", "0")
    t = len(TOKENS)
    assert line["count"] == 2 * t * (t + 1) // 2
    assert line["max"] == 1.0
    assert line["mean"] == pytest.approx(2 * t / line["count"], rel=1e-6)


def test_nan_and_inf_are_counted_and_stay_out_of_the_rest(tmp_path: Path) -> None:
    edits = {Node(2, "ffn_out"): changed((0, 0), np.nan), Node(2, "ffn_up"): changed((1, 1), -np.inf)}
    capture = write_capture(tmp_path / "a", edits=edits)
    lines = {line["stage"]: line for line in records(capture, "--layers", "2")}
    assert (lines["ffn_out"]["nan"], lines["ffn_out"]["inf"]) == (1, 0)
    assert (lines["ffn_up"]["nan"], lines["ffn_up"]["inf"]) == (0, 1)
    assert all(np.isfinite(lines[stage]["rms"]) for stage in ("ffn_out", "ffn_up"))
    assert any(line.endswith("NaN 1 Inf 0") for line in stats(capture).output.splitlines())


def test_capture_without_manifest_has_the_same_numbers(tmp_path: Path) -> None:
    with_manifest = records(write_capture(tmp_path / "a"))
    without = records(write_capture(tmp_path / "b", manifest=False))
    for left, right in zip(with_manifest[:-1], without[:-1], strict=True):
        assert left == right
    # Nothing tells whether 20 logits are four of five tokens or twenty of the last one.
    assert without[-1]["shape"] == [20]


def test_single_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "lm_head.bin"
    write_aprt(path, None, np.array([3, -4], np.float32))
    (line,) = records(path)
    assert (line["layer"], line["stage"], line["shape"]) == (None, "lm_head", [2])
    assert (line["absmax"], line["rms"]) == (4.0, pytest.approx(np.sqrt(12.5)))
    with pytest.raises(UsageError):
        stats(path, "--stage", "lm_head")


def test_file_without_values_has_no_numbers(tmp_path: Path) -> None:
    path = tmp_path / "ffn_up.bin"
    write_aprt(path, 0, np.empty(0, np.float32))
    (line,) = records(path)
    assert (line["count"], line["min"], line["rms"]) == (0, None, None)


def test_broken_file_is_named_after_the_rest_was_printed(tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "a")
    broken = capture / "layer-1/ffn_up.bin"
    broken.write_bytes(broken.read_bytes()[:-4])
    words = [sys.executable, "-m", "aprtui", "stats", str(capture), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert len(done.stdout.splitlines()) == NODES - 1
    assert "layer-1/ffn_up.bin: byte" in done.stderr
    assert "truncated" in done.stderr
    assert "Traceback" not in done.stderr


def test_file_that_is_gone_is_an_error_like_a_broken_one(tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "a", without=[Node(1, "ffn_up")])
    result = stats(capture)
    assert result.return_value == 3
    assert result.stderr.count("layer-1/ffn_up.bin") == 1
    assert len(result.stdout.splitlines()) == NODES
    assert stats(capture, "--layers", "0").return_value == 0


def test_unfinished_capture_shows_what_was_written(tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "a", complete=False, without=[Node(2, "ffn_up")])
    for layer in (0, 1):
        (capture / f"layer-{layer}/ffn_up.bin").write_bytes(bytes(300))
    result = stats(capture)
    assert result.return_value == 0
    assert len(result.stdout.splitlines()) == 1 + NODES - 3
    assert "aprtui: layers 0–2 ffn_up:  not written: the run did not finish" in result.stderr.splitlines()


def test_stale_files_are_named_and_not_counted(tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "a")
    write_aprt(capture / "layer-9/ffn_up.bin", 9, np.zeros(3, np.float32))
    result = stats(capture)
    assert "layer-9/ffn_up.bin: stale" in result.stderr
    assert len(result.stdout.splitlines()) == 1 + NODES


def test_unknown_stage_and_missing_capture_are_errors(tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "a")
    with pytest.raises(UsageError, match="no stage"):
        stats(capture, "--stage", "ffn_sideways")
    for option in ("--stage", "--layers"):
        with pytest.raises(UsageError):
            stats(capture, option, "")
        with pytest.raises(UsageError):
            stats(capture / "layer-0/ffn_up.bin", option, "")
    with pytest.raises(UnreadableError, match="does not exist"):
        stats(tmp_path / "nowhere")


def test_table_fits_a_terminal(tmp_path: Path) -> None:
    edits = {Node(1, "post_ffn_residual"): changed((1, 1), np.nan)}
    lines = stats(write_capture(tmp_path / "a", edits=edits)).output.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["layer", "stage", "shape", "min", "max", "mean", "rms"]


def test_a_model_is_a_line_for_each_tensor() -> None:
    lines = stats(embedded_model()).output.splitlines()
    weights = load_model(embedded_model()).weights
    assert len(lines) == 1 + len(weights)
    assert lines[0].split() == ["tensor", "type", "shape", "d", "max", "dmin", "max", "absmax", "rms"]
    assert max(map(len, lines)) <= 80
    found = {record["tensor"]: record for record in records(embedded_model())}
    assert found.keys() == weights.keys()
    record = found["blk.0.ffn_down.weight"]
    values = weights["blk.0.ffn_down.weight"].dequantize()
    assert (record["shape"], record["min"], record["max"]) == (list(values.shape), values.min(), values.max())
    assert list(record["scales"]) == (["d", "dmin"] if record["type"] == "Q4_K" else ["d"])


def test_a_truncated_model_names_the_tensors_that_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(embedded_model().read_bytes()[:-1000])
    result = stats(path)
    assert result.return_value == 3
    assert "truncated: tensor" in result.stderr
    assert len(result.stdout.splitlines()) == len(load_model(embedded_model()).weights)
    with pytest.raises(UsageError, match="leave them out"):
        stats(path, "--stage", "ffn_up")


def test_single_values_are_printed_with_their_bits_and_their_place(tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "a", edits={Node(1, "ffn_up"): changed((2, 7), -np.inf)})
    (line,) = records(capture, "--stage", "ffn_up", "--layers", "1", "--values", "2,7")
    assert line == {
        "layer": 1, "stage": "ffn_up", "index": [2, 7], "value": "-inf", "bits": "0xff800000",
        "file": str(capture / "layer-1/ffn_up.bin"), "offset": 12 + 4 * (2 * 12 + 7),
    }  # fmt: skip
    (softmax,) = records(capture, "--layers", "0", "--values", "1,3,2")[1:]
    assert (softmax["stage"], softmax["index"]) == ("attn_softmax", [1, 3, 2])
    text = stats(capture, "--stage", "ffn_*", "--values", "0,0").stdout.splitlines()
    assert len(text) == 3 * 6 and text[0].startswith("layer 0 ffn_norm") and max(map(len, text)) <= 80


def test_a_place_without_a_value_is_an_error(tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "a")
    for place, words in (("9,9999", "no selected stage"), ("1", "expected TOKEN"), ("-1,2", "expected TOKEN")):
        with pytest.raises(UsageError, match=words):
            stats(capture, "--values", place)
    with pytest.raises(UsageError, match="for captures"):
        stats(capture / "layer-0/ffn_up.bin", "--values", "0,0")
    with pytest.raises(UsageError, match="for captures"):
        stats(embedded_model(), "--values", "0,0")
    (capture / "layer-0/ffn_up.bin").write_bytes(b"APRT")
    assert stats(capture, "--stage", "ffn_up", "--values", "0,0").return_value == 3


def test_layers_with_experts_say_how_they_were_chosen(aprtui: Callable[..., Outcome], tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", architecture="qwen3moe", experts=8, experts_used=2)
    capture = tmp_path / "capture"
    assert aprtui("trace", model, "--tokens", "1,5,9,200,33", "--save-tensor-dir", capture).code == 0
    found = {(line["layer"], line["stage"]): line for line in records(capture)}
    assert {node for node, line in found.items() if "experts" in line} == {
        (0, "moe_router_indices"),
        (1, "moe_router_indices"),
    }
    experts = found[1, "moe_router_indices"]["experts"]
    assert list(experts) == [
        "load", "busiest", "even", "choices", "dropped", "never_chosen", "entropy", "most_entropy"
    ]  # fmt: skip
    assert (len(experts["load"]), sum(experts["load"]), experts["choices"]) == (8, pytest.approx(1), 10)
    assert 0 < experts["entropy"] <= experts["most_entropy"] == pytest.approx(np.log(8))
    text = stats(capture, "--layers", "1").stdout.splitlines()
    (at,) = (number for number, line in enumerate(text) if "moe_router_indices" in line)
    share = f"{100 * max(experts['load']):.0f} %"
    assert text[at + 1].startswith(f"      experts: load max {share} (even: 12 %), entropy")
    (capture / "layer-1" / "moe_router.bin").write_bytes(b"")
    without = {(line["layer"], line["stage"]): line for line in records(capture)}[1, "moe_router_indices"]["experts"]
    assert without == experts | {"entropy": None}, "the choices are known without the router"


def test_a_wrong_stage_is_told_before_anything_is_printed(tmp_path: Path, aprtui: Callable[..., Outcome]) -> None:
    refused = aprtui("stats", write_capture(tmp_path / "a"), "--stage", "nosuch")
    assert refused.code == 2 and refused.out == "" and refused.err.count("\n") == 1
