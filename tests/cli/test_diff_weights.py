"""The text and the records of a comparison of two model files, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aprtui.cli.comparison.weights import diff_weights
from aprtui.compare.align.coverage import Selection
from aprtui.compare.verdict import parse_tolerance
from aprtui.errors import ExitCode
from aprtui.model.weight_types import WeightType
from tests.model.gguf_files import Tensor, model_file, random_blocks

GATE, UP = "blk.1.ffn_gate.weight", "blk.1.ffn_up.weight"


def _run(a: Path, b: Path, *, as_json: bool = False, limit: int = 10, tolerance: str | None = None) -> int:
    tolerances = () if tolerance is None else (parse_tolerance(tolerance),)
    return diff_weights(a, b, Selection(), tolerances, limit, as_json)


@pytest.fixture
def swapped(tmp_path: Path, tiny_model: Path) -> tuple[Path, Path]:
    """The tiny model, and a copy with gate and up of layer 1 swapped and another RoPE base."""
    file = model_file()
    file.tensors[GATE], file.tensors[UP] = file.tensors[UP], file.tensors[GATE]
    file.metadata["qwen2.rope.freq_base"] = 500000.0
    return tiny_model, file.write(tmp_path / "swapped.gguf")


@pytest.fixture
def requantised(tmp_path: Path, tiny_model: Path) -> tuple[Path, Path]:
    """The tiny model, and a copy with one quant of each row of a tensor a step off: one type, within its rounding."""
    file = model_file()
    tensor = file.tensors[GATE]
    data = tensor.data.copy()
    data[:, 100] ^= 1
    file.tensors[GATE] = Tensor(data, tensor.type)
    return tiny_model, file.write(tmp_path / "requantised.gguf")


def test_a_model_against_itself_passes(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(tiny_model, tiny_model) == ExitCode.PASS
    out = capsys.readouterr().out
    assert "PASS  every compared tensor is bit-equal, and no metadata change numbers" in out
    assert "coverage  27 of 27 tensors compared, 27 of them bit-equal" in out


def test_a_swap_and_a_rope_base_are_named(swapped: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(*swapped) == ExitCode.DIVERGENCE
    out = capsys.readouterr().out
    assert "qwen2.rope.freq_base:  changes numbers: A 10000.0 · B 500000.0" in out
    flat = " ".join(out.split())
    assert f"layer 1 ffn_gate, {GATE}: more than rounding to Q4_K explains" in flat
    assert f"swapped with {UP}: each holds the other's bytes in B" in flat
    row = next(line for line in out.splitlines() if line.startswith("ffn_gate.weight"))
    assert row.split()[:5] == ["ffn_gate.weight", "FAIL", "1", "1", "Q4_K"]


def test_no_line_is_wider_than_80_columns(swapped: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    _run(*swapped)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if not line.startswith(("A  ", "B  "))) <= 80


def test_more_than_the_limit_is_counted(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = model_file(seed=1).write(tmp_path / "other.gguf")
    assert _run(tiny_model, other, limit=2) == ExitCode.DIVERGENCE
    out = capsys.readouterr().out
    assert "and 25 more tensors: FAIL; see them all with --limit" in out
    assert _run(tiny_model, other, limit=27) == ExitCode.DIVERGENCE
    assert "see them" not in capsys.readouterr().out


def test_one_type_within_its_rounding_is_unknown_and_the_shown_tolerance_passes(
    requantised: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(*requantised) == ExitCode.UNKNOWN
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "next  accept these differences:"
    words = lines[-1].split()
    assert words[:2] == ["aprtui", "diff"] and words[4:6] == ["--weights", "--tolerance"]
    assert _run(*requantised, tolerance=words[6]) == ExitCode.PASS
    assert _run(*requantised, tolerance="rel_l2=1e-9") == ExitCode.DIVERGENCE


def test_nothing_in_common_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for name in ("one", "two"):
        file = model_file()
        blocks = random_blocks(WeightType.F32, 4, 32, np.random.default_rng(0))
        file.architecture, file.tensors = "other", {name: Tensor(blocks, WeightType.F32)}
        file.metadata = {"general.name": "same"}
        paths.append(file.write(tmp_path / f"{name}.gguf"))
    assert _run(*paths) == ExitCode.UNKNOWN
    out = capsys.readouterr().out
    assert "UNKNOWN  no tensor was compared" in out
    assert "one:  not compared: only in A; its bytes are those of two in the other file" in out


def test_records_are_a_header_a_record_for_each_tensor_and_a_summary(
    swapped: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(*swapped, as_json=True) == ExitCode.DIVERGENCE
    header, *rest, summary = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert header["record"] == "header" and header["kind"] == "weights"
    assert header["differences"] == [
        {"what": "qwen2.rope.freq_base", "a": "10000.0", "b": "500000.0", "changes_numbers": True}
    ]
    assert len(rest) == 27 and {record["record"] for record in rest} == {"comparison"}
    gate = next(record for record in rest if record["tensor"] == GATE)
    assert gate["nodes"] == [{"layer": 1, "stage": "ffn_gate"}]
    assert gate["shape_a"] == [512, 256] and gate["type_b"] == "Q4_K" and gate["verdict"] == "FAIL"
    assert gate["bytes_difference"]["blocks"] == 512 and gate["metrics"]["rel_l2"] == gate["error"]
    assert summary["verdict"] == "FAIL" and summary["number_changing_metadata"] == ["qwen2.rope.freq_base"]
    first = summary["first_divergence"]
    assert (first["layer"], first["stage"], first["tensor"]) == (1, "ffn_gate", GATE)
    assert (summary["compared"], summary["bit_equal"], summary["expected"]) == (27, 25, 27)


def test_a_missing_tensor_is_a_skip_record(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = model_file()
    del file.tensors["blk.0.attn_q.bias"]
    assert _run(tiny_model, file.write(tmp_path / "b.gguf"), as_json=True) == ExitCode.UNKNOWN
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    skips = [record for record in records if record["record"] == "skip"]
    assert [(skip["tensor"], skip["side"], skip["reason"]) for skip in skips] == [
        ("blk.0.attn_q.bias", "A", "only in A")
    ]
    assert records[-1]["first_divergence"] is None
    assert (records[-1]["compared"], records[-1]["expected"]) == (26, 27)


def test_names_of_a_hostile_file_cannot_move_the_cursor(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = model_file()
    file.tensors["evil\x1b[2J"] = file.tensors["blk.0.attn_q.bias"]
    file.metadata["qwen2.\x1b[31m"] = "\x1b[0m"
    _run(tiny_model, file.write(tmp_path / "b.gguf"))
    assert "\x1b" not in capsys.readouterr().out
