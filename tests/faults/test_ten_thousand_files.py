"""A model of 100 layers and one of 600, whose captures are 10,203 files: taken, read, judged, and shown in the app."""

from __future__ import annotations

import shlex
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aprtui.errors import ExitCode
from tests.faults.children import said
from tests.faults.test_many_files import write_narrow_model
from tests.tui.test_journey import PATIENCE
from tests.tui.test_terminal import CHECKOUT, Terminal

pytestmark = pytest.mark.slow

STAGES_OF_A_LAYER, OTHER_STAGES = 17, 3
BY_MODEL = "--model model/m.gguf"


@dataclass(frozen=True, slots=True)
class Deep:
    """A folder with `exact`, an honest `q8`, and `faulty`, which errs at one stage in the middle of its `layers`. The
    model lies below it, so that the app judges by nothing but the values."""

    folder: Path
    layers: int

    @property
    def stages(self) -> int:
        return STAGES_OF_A_LAYER * self.layers + OTHER_STAGES

    @property
    def culprit(self) -> str:
        return f"layer {self.layers // 2} ffn_gate"


@pytest.fixture(scope="module", params=[100, 600])
def deep(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Deep:
    made = Deep(tmp_path_factory.mktemp(f"layers-{request.param}"), request.param)
    (made.folder / "model").mkdir()
    write_narrow_model(made.folder / "model" / "m.gguf", made.layers)
    fault = f"--mode q8 --inject layer={made.layers // 2},stage=ffn_gate,kind=scale"
    for name, more in (("exact", "--mode exact"), ("q8", "--mode q8"), ("faulty", fault)):
        done = said(f"trace model/m.gguf --tokens 1,2 --backend numpy {more} --save-tensor-dir {name}", made.folder)
        assert done.code == 0, done.text
        assert f"{name}: {made.stages} stage tensors" in done.text
    return made


def test_every_stage_is_a_file_and_a_row(deep: Deep) -> None:
    assert len(list((deep.folder / "q8").glob("**/*.bin"))) == deep.stages
    done = said("stats q8", deep.folder)
    assert done.code == 0
    assert len([line for line in done.text.splitlines() if "2×" in line or "1×" in line]) == deep.stages, done.text


@pytest.mark.parametrize("how", ["", "--replay --model model/m.gguf"], ids=["values", "replay"])
def test_a_comparison_looks_first_at_the_faulty_stage(deep: Deep, how: str) -> None:
    done = said(f"diff q8 faulty {how}", deep.folder)
    assert done.code == (ExitCode.DIVERGENCE if how else ExitCode.UNKNOWN), done.text
    assert deep.culprit in done.text
    assert f"{deep.stages} of {deep.stages} stages compared" in done.text


def test_honest_engines_part_nowhere(deep: Deep) -> None:
    done = said("diff exact q8 --replay --model model/m.gguf", deep.folder)
    assert done.code == ExitCode.PASS, done.text


def test_a_replay_of_all_names_the_faulty_stage_and_one_of_its_layer_alone_too(deep: Deep) -> None:
    for selection in ("", f"--layers {deep.layers // 2}"):
        done = said(f"replay faulty --model model/m.gguf --backend numpy {selection}", deep.folder)
        assert done.code == ExitCode.DIVERGENCE, done.text
        assert deep.culprit in done.text


@pytest.fixture
def terminal(deep: Deep, tmp_path: Path) -> Iterator[Terminal]:
    words = [sys.executable, "-m", "aprtui", "open", "q8", "faulty"]
    opened = Terminal(
        f"aprtui-test-{uuid.uuid4().hex}", shlex.join(words), deep.folder, PYTHONPATH=str(CHECKOUT),
        APRTUI_STATE_DIR=str(tmp_path / "state"),
    )  # fmt: skip
    yield opened
    opened.close()


@pytest.mark.group("pty")
def test_the_app_answers_while_it_compares_and_shows_the_fault_and_the_last_layer(
    deep: Deep, terminal: Terminal
) -> None:
    terminal.until(rf"comparing layer \d+ \w+, \d+/{deep.stages}", PATIENCE)
    terminal.press("?")
    terminal.until("Next divergent stage", PATIENCE)
    terminal.press("Escape")
    terminal.until(rf"look first at {deep.culprit}", PATIENCE)
    terminal.press("G")
    terminal.until(r"lm_head")
