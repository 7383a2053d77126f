"""Captures of very many stages: work in proportion to them, and no more open files than a process may have."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.cli.main import main
from aprtui.model.weight_types import WeightType
from tests.faults.children import count_lines, said
from tests.model.gguf_files import write_model

DIFF = "diff A B --tolerance rel_l2=2"
STATS = "stats A"
REPLAY = "replay A --model m.gguf --backend numpy"
DESCRIPTORS = 64
"""Fewer than the stages of ten layers. A shell allows 256 on macOS and often 1,024 on Linux."""


def write_narrow_model(path: Path, layers: int) -> None:
    """A model of so many layers, each of which is quick."""
    write_model(path, layers=layers, hidden=32, heads=2, kv_heads=1, ffn=32, weight_type=WeightType.Q8_0)


def write_captures(folder: Path, layers: int) -> Path:
    """A narrow model of so many layers in `folder`, and two captures of it, which differ by rounding."""
    folder.mkdir()
    write_narrow_model(folder / "m.gguf", layers)
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


def few_descriptors(run: Callable[[], None]) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    run()


@pytest.mark.parametrize("words", [DIFF, STATS, REPLAY])
def test_a_capture_may_have_more_files_than_a_process_may_open(words: str, folders: tuple[Path, Path]) -> None:
    assert len(list((folders[1] / "A").glob("**/*.bin"))) > 2 * DESCRIPTORS
    done = said(words, folders[1], few_descriptors)
    assert done.code == 0, done.text
