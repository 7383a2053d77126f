"""A mapping file says how another engine's names, layers and orders correspond; mistakes in it are named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from aprtui.compare.align.mapping import read_mapping
from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.errors import UsageError
from aprtui.trace.aprt import read_aprt, write_aprt
from aprtui.trace.capture import Capture
from tests.compare.synthetic import CONFIG, TOKENS, write_capture


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return write_capture(tmp_path / "a")


@pytest.fixture
def b(tmp_path: Path) -> Path:
    return write_capture(tmp_path / "b", manifest=False)


def compared(a: Path, b: Path, text: str) -> Comparison:
    path = a.parent / "mapping.yaml"
    path.write_text(text)
    options = DiffOptions(tokens=TOKENS, mapping=read_mapping(path))
    return compare_captures(Capture.open(a), Capture.open(b), options)


def test_files_of_another_name_are_compared_as_the_stage_they_are(a: Path, b: Path) -> None:
    for layer in range(CONFIG.layers):
        shutil.move(b / f"layer-{layer}" / "ffn_silu.bin", b / f"layer-{layer}" / "hidden_act.bin")
    assert compared(a, b, "{}").verdict is Verdict.UNKNOWN
    result = compared(a, b, "stages: {ffn_silu: hidden_act}")
    assert (result.verdict, result.compared) == (Verdict.PASS, result.expected)


def test_layers_that_count_from_one_are_shifted(a: Path, b: Path) -> None:
    for layer in reversed(range(CONFIG.layers)):
        shutil.move(b / f"layer-{layer}", b / f"layer-{layer + 1}")
        for path in (b / f"layer-{layer + 1}").glob("*.bin"):
            write_aprt(path, layer + 1, read_aprt(path).values.copy())
    result = compared(a, b, "layers: {offset: 1}")
    assert (result.verdict, result.compared) == (Verdict.PASS, result.expected)


def test_a_name_that_is_no_file_leaves_the_stage_missing(a: Path, b: Path) -> None:
    result = compared(a, b, "stages: {ffn_silu: nothing}")
    assert result.verdict is Verdict.UNKNOWN
    assert {skip.node.stage for skip in result.skipped} == {"ffn_silu"}


def test_a_manifest_needs_no_mapping(a: Path) -> None:
    with pytest.raises(UsageError, match="states its stages in a manifest"):
        compared(a, a, "stages: {ffn_silu: x}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "expected the fields"),
        ("names: {}", "no field 'names'"),
        ("stages: [x]", "expected stages with a name each"),
        ("stages: {nothing: x}", "no stage 'nothing'"),
        ("stages: {ffn_up: ../../etc/passwd}", "without folder"),
        ("layers: {offset: many}", "whole number"),
        ("layers: 1", "layers: expected the fields offset"),
        ("layout: {q_post_rope: inside-out}", "is none that it can have"),
    ],
)
def test_a_mistake_is_named(a: Path, b: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        compared(a, b, text)
