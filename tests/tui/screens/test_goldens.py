"""Every screen as a whole, text and styles, as it was when its file in tests/data/screens was written.

`APRTUI_WRITE_GOLDEN=1 python -m pytest tests/tui/screens/test_goldens.py` writes the files again, for a change that is
meant to be seen.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from textual.widgets import Input, TextArea

from aprtui.resources import embedded_model
from aprtui.trace.aprt import write_aprt
from aprtui.trace.graph.stage import Node
from aprtui.tui import app as app_module
from aprtui.tui.app import SCREENS
from aprtui.tui.draw.colours import LIGHT
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from tests.compare.recorded import EDITS, FAULT, two_captures
from tests.compare.synthetic import changed, write_capture
from tests.thinning import crossed
from tests.tui.driver import Driver, screen_text, showing, until, until_shown
from tests.tui.screens.contracts.example import CONTRACT
from tests.tui.screens.diff.recorded import playing, screen_playing
from tests.tui.screens.live.recorded import RecordedSource
from tests.tui.widgets.golden import check_lines, screen_lines

SMALL, LARGE = (80, 24), (120, 40)


WAIT = "wait:"
"""Among the keys of a scene: wait until the words behind it are on the screen."""


@dataclass(frozen=True)
class Scene:
    """A screen to look at: where the app opens, the words there, keys, and the words that are there then, or gone."""

    state: ScreenState
    opened: Sequence[str] = ()
    keys: Sequence[str] = ()
    then: Sequence[str] = ()
    gone: Sequence[str] = ("being read", "Reading", "reading", "Looking")
    has_template: bool = False
    """Whether the model of the live screen has a chat template."""


LIVE = ScreenState(ScreenName.LIVE)
RUN = ("e", *"def", "enter")
BOTH = {"a": "good", "b": "bad"}
CHECKED = screen_state(
    ScreenName.CONTRACTS, path="contracts", document="alpha-v1", reference="good", capture="bad", falsifier="ALPHA-2"
)
GATE = screen_state(ScreenName.TENSOR, capture="bad", layer=1, stage="ffn_gate", at="2,7")
DIFF = screen_state(ScreenName.DIFF, **BOTH)
BOUND = screen_state(ScreenName.DIFF, **BOTH, metric="rel_l2", bound=0.01, layer=1, stage="ffn_gate")

SCENES = {
    "live": Scene(LIVE, ["Press e,"], [*RUN, f"{WAIT}stop token", "left_square_bracket", "j", "l"], ["token 16 of 17"]),
    "live-lens": Scene(LIVE, ["Press e,"], ["L", *RUN], ["stop token", "logit lens"]),
    "live-overview": Scene(LIVE, ["Press e,"], [*RUN, f"{WAIT}stop token", "v", "j", "l"], ["ano"]),
    "live-settings": Scene(LIVE, ["Press e,"], ["o"], ["Settings", "fault"]),
    "live-faults": Scene(LIVE, ["Press e,"], ["i", "down"], ["Random numbers"]),
    "live-fault": Scene(LIVE, ["Press e,"], ["i", *"nan", "enter"], ["--inject layer=0"]),
    "live-help": Scene(LIVE, ["Press e,"], ["question_mark"], ["escape closes"]),
    "live-chat": Scene(
        screen_state(ScreenName.LIVE, system="Be brief."), ["chat ❯"],
        ["e", *"What?", "ctrl+j", *"Why?", "enter", f"{WAIT}stop token", "e", *"More", "enter", f"{WAIT}token 34 of 34",
         "e", *"and", "ctrl+j", *"so on"],
        ["stop token", "so on"], has_template=True,
    ),
    "live-rendered": Scene(
        screen_state(ScreenName.LIVE, system="Be brief.", prompt="What?"), ["stop token"], ["P"], ["4 of them special"],
        has_template=True,
    ),
    "palette": Scene(LIVE, ["Press e,"], ["ctrl+p"], ["Live: Settings"]),
    "browse": Scene(
        screen_state(ScreenName.BROWSE, **BOTH), ["3 captures", "stages   all"], ["enter", "j", "l"], ["layer 1"]
    ),
    "browse-preview": Scene(screen_state(ScreenName.BROWSE, a="good"), ["3 captures", "stages   all"]),
    "browse-numbers": Scene(
        screen_state(ScreenName.BROWSE, at="bad"), ["3 captures", "stages   all"], ["enter", "v", *"jjj"], ["layer 0 q"]
    ),
    "browse-model": Scene(
        screen_state(ScreenName.BROWSE, at="demo.gguf"), ["1 model"], ["v", "j"], ["Q4_K"], ["  …  ", "being read"]
    ),
    "browse-filter": Scene(screen_state(ScreenName.BROWSE), ["3 captures"], ["slash", *"half"], ["half"]),
    "tensor": Scene(GATE, ["layer 1 ffn_gate", "channel 7"], ["l"], ["channel 8"]),
    "tensor-numbers": Scene(GATE, ["channel 7"], ["M", "M", "enter"], ["numbers", "symmetric"]),
    "tensor-attention": Scene(
        screen_state(ScreenName.TENSOR, capture="bad", layer=1, stage="attn_softmax"),
        ["head 0 of 2"], ["right_square_bracket", "h", "v"], ["head 1 of 2"],
    ),
    "tensor-large": Scene(screen_state(ScreenName.TENSOR, path="large.bin", width=1024), ["300×1024"], ["O"], ["X"]),
    "tensor-nothing": Scene(ScreenState(ScreenName.TENSOR), ["No tensor is open."]),
    "diff": Scene(DIFF, ["FAIL"], ["g", "d", "j"], ["layer 2 ffn_up"]),
    "diff-bound": Scene(BOUND, ["above its bound"], ["b"], ["0.0178"]),
    "diff-channels": Scene(BOUND, ["above its bound"], ["v"], ["layer 1 ffn_gate"]),
    "diff-help": Scene(DIFF, ["FAIL"], ["question_mark"], ["escape closes"]),
    "diff-chord": Scene(DIFF, ["FAIL"], ["g"], ["g d"]),
    "diff-nothing": Scene(ScreenState(ScreenName.DIFF), ["captures"]),
    "contracts": Scene(CHECKED, ["1 FAIL"], [], ["ALPHA-2  FAIL"]),
    "contracts-cells": Scene(CHECKED, ["1 FAIL"], ["v"], ["ALPHA-2  FAIL"]),
}  # fmt: skip


def by_size_and_scene() -> list[object]:
    """All scenes at all sizes; in the gate each screen at both, what is opened on it at the smaller one."""
    return [
        pytest.param(size, name, id=f"{name}-{size[0]}x{size[1]}", marks=marks)
        for size, name in product((SMALL, LARGE), SCENES)
        for marks in [pytest.mark.slow if size == LARGE and "-" in name else ()]
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with captures, a model, a stage file and a contract, all a week old."""
    working = tmp_path_factory.mktemp("goldens") / "work"
    two_captures(working, {**EDITS, FAULT: changed((2, 7), 40.0), Node(2, "ffn_up"): changed((0, 2), np.inf)})
    write_capture(working / "half", complete=False)
    shutil.copy(embedded_model(), working / "demo.gguf")
    large = np.random.default_rng(0).standard_normal((300, 1024)).astype(np.float32)
    large[:, 600] *= 50
    large[123, 777] = np.nan
    write_aprt(working / "large.bin", 0, large)
    (working / "contracts").mkdir()
    (working / "contracts" / "alpha-v1.yaml").write_text(CONTRACT)
    week_ago = time.time() - 7.25 * 86400
    for path in (*working.glob("*/manifest.json"), working / "demo.gguf", working / "contracts" / "alpha-v1.yaml"):
        os.utime(path, (week_ago, week_ago))
    return working


@pytest.fixture
def working(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`files` as the working directory of the app, with a comparison that was recorded."""
    monkeypatch.chdir(files)
    monkeypatch.setenv("APRTUI_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(
        app_module, "SCREENS", {**SCREENS, ScreenName.DIFF: screen_playing(playing(Path("good"), Path("bad")))}
    )
    return files


@pytest.mark.parametrize(("size", "name"), by_size_and_scene())
async def test_the_screen_is_drawn_as_it_was(working: Path, name: str, size: tuple[int, int]) -> None:
    source = RecordedSource(has_template=SCENES[name].has_template)
    async with showing(SCENES[name].state, size, source=source) as pilot:
        await play(pilot, SCENES[name])
        check_lines(f"{name}-{size[0]}x{size[1]}", await lines_at_rest(pilot))


@pytest.mark.parametrize(
    ("name", "there"),
    crossed(
        ["live", "browse", "tensor-numbers", "tensor-attention", "tensor-large", "diff-bound", "contracts"],
        [True, False],
    ),
)
async def test_light_or_dark_draws_everything_again(working: Path, name: str, there: bool) -> None:
    """After `T`, on this screen or on another one, every cell is as on a screen that was opened in that theme."""
    async with showing(SCENES[name].state) as pilot:
        await play(pilot, SCENES[name])
        before = await lines_at_rest(pilot)
        other = "4" if name == "live" else "1"
        await pilot.press("T") if there else await pilot.press(other, "T", "escape")
        turned = await lines_at_rest(pilot)
        assert turned != before
    async with showing(SCENES[name].state, theme=LIGHT.name) as pilot:
        await play(pilot, SCENES[name])
        assert turned == await lines_at_rest(pilot)


async def play(pilot: Driver, scene: Scene) -> None:
    await until_shown(pilot, *scene.opened)
    for key in scene.keys:
        if key.startswith(WAIT):
            await until_shown(pilot, key.removeprefix(WAIT))
        else:
            await pilot.press(key)
    await until_shown(pilot, *scene.then)
    await until(pilot, lambda: not any(word in screen_text(pilot) for word in scene.gone))


async def lines_at_rest(pilot: Driver) -> list[str]:
    """The screen once nothing has changed for a while, without the blinking of a cursor in text."""
    for box in pilot.app.screen.query("Input, TextArea"):
        assert isinstance(box, Input | TextArea)
        box.cursor_blink = False
    before: list[str] = []
    same = 0
    for _ in range(200):
        await pilot.pause(0.04)
        drawn = screen_lines(pilot.app.screen._compositor.render_strips())
        same = same + 1 if drawn == before else 0
        if same == 4:
            return drawn
        before = drawn
    raise AssertionError("never the same twice:\n" + screen_text(pilot))
