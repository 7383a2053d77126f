"""The record that `apr diff --values --json` prints for two stage files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.metrics import blocks as blocks_module
from aprtui.compare.report.apr_diff import apr_stage_diff
from aprtui.compare.verdict import Verdict
from aprtui.errors import UsageError
from aprtui.trace.aprt import AprtFile, read_aprt, write_aprt

FIELDS = [
    "schema", "path_a", "path_b", "layer", "dim_product", "max_abs_diff", "max_abs_diff_index", "rms_diff",
    "cosine_sim", "top_diffs", "nan_a", "nan_b", "inf_a", "inf_b", "verdict",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def stage_file(folder: Path, name: str, values: list[float], layer: int | None = 3) -> AprtFile:
    write_aprt(folder / name, layer, np.array(values, np.float32))
    return read_aprt(folder / name)


def test_fields_and_their_order_are_those_of_the_schema(folder: Path) -> None:
    a, b = stage_file(folder, "a.bin", [1, 2, 3]), stage_file(folder, "b.bin", [1, 2.5, 2])
    record = apr_stage_diff(a, b, 2, Verdict.UNKNOWN)
    assert list(record) == FIELDS
    assert record["schema"] == "apr-stage-diff-v1"
    assert (record["layer"], record["dim_product"]) == (3, 3)
    assert (record["max_abs_diff"], record["max_abs_diff_index"]) == (1.0, 2)
    assert record["rms_diff"] == float(np.float32(np.sqrt(1.25 / 3)))
    assert record["cosine_sim"] == pytest.approx(12 / np.sqrt(14 * 11.25), rel=1e-15)
    assert record["top_diffs"] == [
        {"index": 2, "a": 3.0, "b": 2.0, "abs_diff": 1.0},
        {"index": 1, "a": 2.0, "b": 2.5, "abs_diff": 0.5},
    ]
    assert record["verdict"] == "UNKNOWN"


def test_equal_files_differ_by_nothing(folder: Path) -> None:
    a = stage_file(folder, "a.bin", [1, -2], None)
    record = apr_stage_diff(a, a, 1, Verdict.PASS)
    assert (record["max_abs_diff"], record["max_abs_diff_index"], record["rms_diff"]) == (0.0, 0, 0.0)
    assert record["cosine_sim"] == 1.0
    assert record["layer"] == "whole-model"


def test_first_of_equal_differences_is_the_one_named_and_listed_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks_module, "BLOCK_VALUES", 2)
    a, b = stage_file(folder, "a.bin", [0, 0, 0, 0, 0]), stage_file(folder, "b.bin", [0, 1, 0, 1, 1])
    record = apr_stage_diff(a, b, 3, Verdict.UNKNOWN)
    assert record["max_abs_diff_index"] == 1
    assert [entry["index"] for entry in record["top_diffs"]] == [1, 3, 4]
    assert record["cosine_sim"] == 0.0


def test_differences_are_taken_in_float32(folder: Path) -> None:
    a, b = stage_file(folder, "a.bin", [1e8]), stage_file(folder, "b.bin", [1e-3])
    assert apr_stage_diff(a, b, 1, Verdict.UNKNOWN)["max_abs_diff"] == 1e8


def test_non_finite_numbers_are_null_and_counted(folder: Path) -> None:
    a = stage_file(folder, "a.bin", [float("nan"), 1, float("inf"), 2])
    b = stage_file(folder, "b.bin", [0, 1, 1, 5])
    record = apr_stage_diff(a, b, 4, Verdict.FAIL)
    assert (record["rms_diff"], record["cosine_sim"], record["max_abs_diff"]) == (None, None, None)
    assert record["max_abs_diff_index"] == 2
    assert (record["nan_a"], record["nan_b"], record["inf_a"], record["inf_b"]) == (1, 0, 1, 0)
    assert [entry["index"] for entry in record["top_diffs"]] == [2, 3, 1, 0]
    assert record["top_diffs"][-1] == {"index": 0, "a": None, "b": 0.0, "abs_diff": None}
    json.dumps(record, allow_nan=False)


def test_maximum_passes_over_nan(folder: Path) -> None:
    a, b = stage_file(folder, "a.bin", [float("nan"), 1]), stage_file(folder, "b.bin", [0, 3])
    record = apr_stage_diff(a, b, 1, Verdict.FAIL)
    assert (record["max_abs_diff"], record["max_abs_diff_index"]) == (2.0, 1)


def test_files_without_values_have_a_record(folder: Path) -> None:
    a = stage_file(folder, "a.bin", [])
    record = apr_stage_diff(a, a, 5, Verdict.UNKNOWN)
    assert (record["dim_product"], record["rms_diff"], record["top_diffs"]) == (0, None, [])


def test_other_layer_or_size_is_refused(folder: Path) -> None:
    a = stage_file(folder, "a.bin", [1, 2])
    with pytest.raises(UsageError, match=r"^APRT layer mismatch"):
        apr_stage_diff(a, stage_file(folder, "b.bin", [1, 2], 4), 1, Verdict.PASS)
    with pytest.raises(UsageError, match=r"^APRT layer mismatch"):
        apr_stage_diff(a, stage_file(folder, "c.bin", [1, 2], None), 1, Verdict.PASS)
    with pytest.raises(UsageError, match=r"^APRT dim_product mismatch"):
        apr_stage_diff(a, stage_file(folder, "d.bin", [1, 2, 3]), 1, Verdict.PASS)
