"""Captures of very many stages: a comparison does work in proportion to them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from aprtui.cli.main import main
from aprtui.model.weight_types import WeightType
from tests.faults.children import count_lines, said
from tests.model.gguf_files import write_model

DIFF = "diff A B --tolerance rel_l2=2"
STATS = "stats A"
REPLAY = "replay A --model m.gguf --backend numpy"


def write_captures(folder: Path, layers: int) -> Path:
    """A narrow model of so many layers in `folder`, and two captures of it, which differ by rounding."""
    folder.mkdir()
    sizes = {"hidden": 32, "heads": 2, "kv_heads": 1, "ffn": 32, "weight_type": WeightType.Q8_0}
    write_model(folder / "m.gguf", layers=layers, **sizes)
    for name, mode in (("A", "exact"), ("B", "q8")):
        words = f"trace m.gguf --tokens 1,2 --backend numpy --mode {mode} --save-tensor-dir {name}"
        assert said(words, folder).code == 0
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Captures of 5 and of 10 layers."""
    root = tmp_path_factory.mktemp("layers")
    return write_captures(root / "5", 5), write_captures(root / "10", 10)


def lines_of(words: str, folder: Path) -> int:
    def command() -> None:
        with contextlib.suppress(SystemExit):
            main(words.split())

    with contextlib.chdir(folder):
        return count_lines(command)


@pytest.mark.parametrize("words", [DIFF, STATS, pytest.param(REPLAY, marks=pytest.mark.slow)])
def test_twice_the_layers_are_no_more_than_twice_the_work(
    words: str, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    lines_of(words, folders[0])  # what is imported and remembered at the first time
    few, many = (lines_of(words, folder) for folder in folders)
    assert 1_000 < few < many < 2.1 * few
