"""The records are what docs/diff-json.md says they are, no field more and none less."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.context import state_context
from aprtui.compare.report.records import SCHEMA, comparison_records
from aprtui.compare.verdict import parse_tolerance
from aprtui.trace.capture import Capture
from aprtui.trace.graph import Node
from tests.compare.synthetic import HEADS_OF_16, reordered, scaled, write_capture

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
    return list(comparison_records("a", "b", state_context(a, b), compare_captures(a, b, options)))


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
