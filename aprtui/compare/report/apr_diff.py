"""The record `apr-stage-diff-v1` of two stage files, as `apr diff --values --json` prints it, and a few more fields.

Its definitions are not those of `metrics`: differences are taken in float32, a NaN makes rms and cosine NaN, and the
cosine of a zero vector is 0. They stay as they are, so that scripts written for `apr` read the same numbers here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from aprtui.compare.files import check_comparable
from aprtui.compare.metrics.blocks import blocks
from aprtui.compare.metrics.measure import compare_values
from aprtui.compare.verdict import Verdict
from aprtui.trace.aprt import AprtFile

SCHEMA = "apr-stage-diff-v1"


def apr_stage_diff(a: AprtFile, b: AprtFile, limit: int, verdict: Verdict) -> dict[str, Any]:
    """The record for two files; non-finite numbers are None. `limit` elements are listed, at least one.

    `max_abs_diff` passes over NaN; `rms_diff` is a float64 sum rounded to float32. After upstream's fields follow
    `nan_a`, `nan_b`, `inf_a`, `inf_b` and `verdict`. Raises `UsageError` for files of another layer or size.
    """
    check_comparable(a, b)
    counts = compare_values(a.values, b.values)
    largest, index, squares = np.float32(0), 0, 0.0
    dot, squares_a, squares_b = 0.0, 0.0, 0.0
    top: list[tuple[float, int]] = []
    with np.errstate(invalid="ignore", over="ignore"):
        for (part_a, positions), (part_b, _) in zip(blocks(a.values, False), blocks(b.values, False), strict=True):
            d = np.abs(part_a - part_b)
            ranked = np.where(np.isnan(d), np.float32(-1), d)
            at = int(ranked.argmax())
            if ranked[at] > largest:
                largest, index = ranked[at], int(positions[at])
            wide, wide_a, wide_b = d.astype(np.float64), part_a.astype(np.float64), part_b.astype(np.float64)
            squares += float(wide @ wide)
            dot += float(wide_a @ wide_b)
            squares_a += float(wide_a @ wide_a)
            squares_b += float(wide_b @ wide_b)
            chosen = np.argsort(-ranked, kind="stable")[: max(1, limit)]
            top += [(float(ranked[at]), int(positions[int(at)])) for at in chosen]
            # Stable, as upstream's sort: of equal differences the first in the file comes first. NaN comes last.
            top = sorted(top, key=lambda entry: -entry[0])[: max(1, limit)]
        rms = float(np.float32(math.sqrt(squares / a.values.size))) if a.values.size else math.nan
    return {
        "schema": SCHEMA,
        "path_a": str(a.path),
        "path_b": str(b.path),
        "layer": "whole-model" if a.layer is None else a.layer,
        "dim_product": int(a.values.size),
        "max_abs_diff": _finite(float(largest)),
        "max_abs_diff_index": index,
        "rms_diff": _finite(rms),
        "cosine_sim": _finite(_cosine(dot, squares_a, squares_b)),
        "top_diffs": [_element(a, b, at, difference) for difference, at in top],
        "nan_a": counts.nan_a,
        "nan_b": counts.nan_b,
        "inf_a": counts.inf_a,
        "inf_b": counts.inf_b,
        "verdict": verdict.value,
    }


def _element(a: AprtFile, b: AprtFile, index: int, difference: float) -> dict[str, Any]:
    left, right = float(a.values[index]), float(b.values[index])
    return {
        "index": index,
        "a": _finite(left),
        "b": _finite(right),
        "abs_diff": None if difference < 0 else _finite(difference),
    }


def _cosine(dot: float, squares_a: float, squares_b: float) -> float:
    norms = math.sqrt(squares_a * squares_b)
    if math.isnan(norms):
        return math.nan
    return 0.0 if norms == 0 else dot / norms


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
