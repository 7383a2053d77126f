"""The records are what docs/diff-json.md says they are, no field more and none less."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprtui.compare.captures import Criteria, DiffOptions, compare_captures
from aprtui.compare.files import compare_files
from aprtui.compare.manifests import compare_manifests
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.report.records import SCHEMA, comparison_records, read_comparison
from aprtui.compare.verdict import Signal, StageVerdict, Verdict, parse_tolerance
from aprtui.trace.aprt import read_aprt, write_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from aprtui.trace.json_value import json_value
from tests.compare.recorded import FAULT, records_of, two_captures
from tests.compare.synthetic import HEADS_OF_16, Edit, changed, reordered, scaled, write_capture

DOCUMENT = (Path(__file__).parents[2] / "docs" / "diff-json.md").read_text()


def documented(kind: str) -> set[str]:
    section = re.search(rf"## `{kind}`\n(.*?)(?=\n## |\Z)", DOCUMENT, re.DOTALL)
    assert section is not None, f"no section on {kind}"
    rows = re.findall(r"^\| (`.*?) \|", section.group(1), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)} | {"record"}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Every kind of record: a divergence, a pattern, a stage that is missing."""
    folder = tmp_path_factory.mktemp("records")
    a = Capture.open(write_capture(folder / "a", config=HEADS_OF_16))
    edits = reordered((1, 2)) | {Node(0, "ffn_up"): scaled(2)}
    b = Capture.open(write_capture(folder / "b", config=HEADS_OF_16, edits=edits, unplanned=["attn_out"]))
    options = DiffOptions(tolerances=(parse_tolerance("rel_l2=0.1"),), extras=True)
    return list(comparison_records("a", "b", compare_manifests(a, b), compare_captures(a, b, options)))


@pytest.mark.parametrize("kind", ["header", "comparison", "skip", "hint", "hypothesis", "extras", "summary"])
def test_every_field_is_documented_and_every_documented_one_is_there(records: list[dict[str, Any]], kind: str) -> None:
    found = [record for record in records if record["record"] == kind]
    assert found, f"no {kind} in the example"
    for record in found:
        assert set(record) == documented(kind)


def test_the_fields_of_a_divergence_are_documented(records: list[dict[str, Any]]) -> None:
    named = set(re.findall(r"`(\w+)`", DOCUMENT.split("`first_divergence`:")[1]))
    assert set(records[-1]["first_divergence"]) <= named


def test_the_schema_is_named_first_and_the_summary_comes_last(records: list[dict[str, Any]]) -> None:
    assert records[0]["schema"] == SCHEMA
    assert SCHEMA in DOCUMENT
    assert records[-1]["record"] == "summary"


def printed(records: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Records as they come out of a JSON reader: `"nan"` and `"inf"` for numbers that are not finite."""
    return [json.loads(json.dumps(json_value(record))) for record in records]


@pytest.mark.parametrize("tolerance", ["rel_l2=0.1", "cosine=0.5", None])
@pytest.mark.parametrize(
    "edits",
    [
        {},
        reordered((1, 2)) | {Node(0, "ffn_up"): scaled(2)},
        {Node(1, "attn_scores"): changed((0, 3, 2), np.inf), Node(2, "ffn_up"): changed((1, 2), np.nan)},
        {Node(0, "embedding"): scaled(0.0), Node(None, "lm_head"): changed((2, 5), 50.0)},
    ],
)
def test_what_is_read_back_is_written_as_the_same_records(
    tmp_path: Path, edits: dict[Node, Edit], tolerance: str | None
) -> None:
    paths = (
        write_capture(tmp_path / "a", config=HEADS_OF_16, all_logits=True),
        write_capture(tmp_path / "b", config=HEADS_OF_16, all_logits=True, edits=edits, unplanned=["attn_out"]),
    )
    a, b = map(Capture.open, paths)
    options = DiffOptions(tolerances=(parse_tolerance(tolerance),) if tolerance else (), extras=True)
    manifests = compare_manifests(a, b)
    written = printed(comparison_records(*paths, manifests, compare_captures(a, b, options)))
    assert printed(comparison_records(*paths, manifests, read_comparison(written))) == written


def test_a_comparison_of_two_stage_files_is_read_back(tmp_path: Path) -> None:
    for name, values in (("a", [1.0, 2.0, np.nan]), ("b", [1.0, np.inf, np.nan])):
        write_aprt(tmp_path / f"{name}.aprt", 3, np.array(values, np.float32))
    a, b = read_aprt(tmp_path / "a.aprt"), read_aprt(tmp_path / "b.aprt")
    written = printed(comparison_records("a", "b", None, compare_files(a, b, (), 5)))
    comparison = read_comparison(written)
    assert comparison.verdict is Verdict.FAIL
    assert printed(comparison_records("a", "b", None, comparison)) == written


def test_a_record_that_lacks_a_field_or_is_missing_is_a_key_error(records: list[dict[str, Any]]) -> None:
    with pytest.raises(KeyError):
        read_comparison(records[1:])
    with pytest.raises(KeyError):
        read_comparison([{**record, "state": None} for record in records if record["record"] != "summary"])


def test_what_a_replay_found_of_each_side_is_read_back(tmp_path: Path) -> None:
    a, b = two_captures(tmp_path)
    added = StageVerdict(FAULT, Verdict.FAIL, Metric.TOKEN_REL_L2, 0.5, 3e-7, 2e-6, "", Signal.INJECTED)
    clean = replace(added, verdict=Verdict.PASS, error=0.0)
    criteria = Criteria(injected={FAULT: (clean, added), Node(1, "ffn_silu"): (clean, clean)})
    comparison = compare_captures(Capture.open(a), Capture.open(b), DiffOptions(), None, criteria)
    written = printed(comparison_records(a, b, None, comparison))
    found = read_comparison(written)
    assert printed(comparison_records(a, b, None, found)) == written
    stage = next(stage for stage in found.stages if stage.node == FAULT)
    assert stage.injected == (clean, added) and stage.verdict.signal is Signal.INJECTED
    assert found.first_divergence is not None and found.first_divergence.verdict == stage.verdict


def test_fields_that_a_later_version_adds_are_ignored(tmp_path: Path) -> None:
    a, b = two_captures(tmp_path)
    written = records_of(a, b)
    later = [
        {**record, "added": 1, "logits": record.get("logits") and {**record["logits"], "added": 1}}
        for record in written
    ]
    assert printed(comparison_records(a, b, None, read_comparison(later)))[1:] == written[1:]
