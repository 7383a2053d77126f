"""Captures of very many stages: each command does work in proportion to them, and the app opens them."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.cli.main import main
from aprtui.model.weight_types import WeightType
from aprtui.trace.capture import Capture
from aprtui.tui.app import AprtuiApp
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import parse_state
from aprtui.tui.screens.browse.screen import CaptureGrid
from tests.faults.children import Said, count_lines, said
from tests.model.gguf_files import write_model
from tests.tui.driver import until
from tests.tui.screens.live.recorded import RecordedSource

COMMANDS = {
    "stats": "stats A", "diff": "diff A B", "diff by a bound": "diff A B --tolerance rel_l2=2",
    "replay": "replay A --model m.gguf --backend numpy", "export": "export A --out A.zip --overwrite",
}  # fmt: skip
MOST_BYTES = 1 << 30


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


@pytest.mark.parametrize(
    "command", [pytest.param(name, marks=() if name == "diff by a bound" else pytest.mark.slow) for name in COMMANDS]
)
def test_twice_the_layers_are_no_more_than_twice_the_work(
    command: str, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    lines_of(COMMANDS[command], folders[0])  # what is imported and remembered at the first time
    few, many = (lines_of(COMMANDS[command], folder) for folder in folders)
    assert 1_000 < few < many < 2.1 * few


@pytest.fixture(scope="module")
def ten_thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two captures of 10,000 stage files each."""
    folder = write_captures(tmp_path_factory.mktemp("many") / "many", 590)
    assert len(Capture.open(folder / "A").files) > 10_000
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_ten_thousand_stage_files_are_judged_in_a_gigabyte(command: str, ten_thousand: Path) -> None:
    def limited(run: Callable[[], None]) -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
        run()

    done: Said = said(COMMANDS[command], ten_thousand, limited)
    assert done.code == (125 if command == "diff" else 0), done.text[-2000:]


@pytest.mark.slow
async def test_the_app_browses_ten_thousand_stage_files(
    ten_thousand: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APRTUI_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(ten_thousand)
    app = AprtuiApp(Session(RecordedSource()), parse_state(f"aprtui:browse?path={ten_thousand / 'A'}"))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: bool(app.screen.query(CaptureGrid)))
        for key in ("down", "down", "right", "end", "home", "?"):
            await pilot.press(key)
            await pilot.pause()


@pytest.mark.slow
def test_a_model_of_a_hundred_layers_runs_is_captured_and_replayed(tmp_path: Path) -> None:
    folder = write_captures(tmp_path / "hundred", 100)
    assert len(Capture.open(folder / "A").graph.nodes) > 1_700
    for words in ("run m.gguf --tokens 1,2 -n 2", "replay A --model m.gguf", "check m.gguf", "info m.gguf"):
        done = said(words, folder)
        assert done.code == 0, done
