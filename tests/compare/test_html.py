"""Reports as files: one page that needs nothing else, one picture, both from the records alone."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.report.html import render_html
from aprtui.compare.report.records import comparison_records
from aprtui.compare.report.svg import render_svg
from aprtui.compare.verdict import parse_tolerance
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.compare.synthetic import changed, scaled, write_capture

Records = list[dict[str, Any]]
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def records(tmp_path: Path) -> Records:
    edits = {Node(1, "ffn_gate"): scaled(2), Node(2, "ffn_up"): changed((1, 2), math.nan)}
    a, b = write_capture(tmp_path / "a"), write_capture(tmp_path / "b", edits=edits, unplanned=["attn_out"])
    options = DiffOptions(tolerances=(parse_tolerance("rel_l2=0.1"),))
    comparison = compare_captures(Capture.open(a), Capture.open(b), options)
    return list(comparison_records(f"a/{HOSTILE}", "b", None, comparison))


class Page(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.rows = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        self.rows += tag == "tr"


def test_a_page_refers_to_nothing_outside(records: Records) -> None:
    text = render_html(records)
    assert Page(text).references == []
    assert "url(" not in text and "@import" not in text


def test_the_verdict_stands_first(records: Records) -> None:
    text = render_html(records)
    assert text.index("FAIL: layer 1 ffn_gate, token ") < text.index("<svg")
    assert "token 0, channel" in text


def test_every_stage_is_a_row(records: Records) -> None:
    compared = sum(record["record"] == "comparison" for record in records)
    assert Page(render_html(records)).rows >= compared
    assert render_html(records).count("not compared") >= 3


def test_what_comes_from_outside_is_escaped(records: Records) -> None:
    for record in records:
        if record["record"] == "comparison":
            record["reason"] = HOSTILE
    assert HOSTILE not in render_html(records)
    assert HOSTILE not in render_svg(records)


def test_records_of_other_kinds_are_left_out(records: Records) -> None:
    assert render_html([*records[:-1], {"record": "from the future"}, records[-1]])


def test_hypotheses_are_listed_where_there_are_any(records: Records) -> None:
    entry = {
        "record": "hypothesis",
        "name": "a doubled scale",
        "state": "supported",
        "evidence": "B = 2 A",
        "cause": "x",
    }
    assert "a doubled scale" in render_html([*records[:-1], entry, records[-1]])
    assert "What it looks like" not in render_html([r for r in records if r["record"] != "hypothesis"])


def test_the_picture_is_a_document_with_a_cell_for_each_stage(records: Records) -> None:
    root = ET.fromstring(render_svg(records).encode())  # noqa: S314 - our own picture
    titles = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == sum(record["record"] in ("comparison", "skip") for record in records)
    assert any(re.search(r"layer 1 ffn_gate: FAIL, rel_l2", title) for title in titles)


def test_a_bit_equal_pair_is_a_page_too(tmp_path: Path) -> None:
    a = Capture.open(write_capture(tmp_path / "a"))
    found = list(comparison_records("a", "a", None, compare_captures(a, a, DiffOptions())))
    assert "PASS" in render_html(found) and "PASS" in render_svg(found)
