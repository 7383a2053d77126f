"""Random keys over all screens: whatever is pressed, in whatever order, the app goes on, and leaves with its own code.

The gate takes a few hundred steps, the same ones each time, and the walks that have failed once, in `KEPT`.
`APRTUI_RANDOM_KEYS=20000` takes as many new steps; a walk that fails is printed, to be kept here.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from textual.errors import NoWidget
from textual.events import AppBlur, AppFocus, Event, MouseDown, MouseUp, Paste, Resize
from textual.geometry import Size

from aprtui.config import Config
from aprtui.engine.process.engine_process import EngineState
from aprtui.errors import AprtuiError, ExitCode
from aprtui.resources import embedded_model
from aprtui.tui import app as app_module
from aprtui.tui.app import SCREENS, AprtuiApp
from aprtui.tui.frame.key_line import KeyLine
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, parse_state
from aprtui.tui.screens.diff.source import DiffRequest
from tests.compare import recorded
from tests.compare.synthetic import CONFIG, HYBRID, RECURRENT, write_capture
from tests.engine.sessions.recorded_session import write_session
from tests.model.gguf_files import write_model
from tests.tui.driver import key_event
from tests.tui.screens.browse.conversation import SAID
from tests.tui.screens.contracts.example import CONTRACT
from tests.tui.screens.diff.recorded import RecordedDiff, screen_playing
from tests.tui.screens.live.recorded import RecordedSource

KEYS_IN_THE_GATE = 200
KEYS = int(os.environ.get("APRTUI_RANDOM_KEYS", KEYS_IN_THE_GATE))
KEYS_A_WALK = 40

STATES = (
    "aprtui:live",
    "aprtui:live?prompt=def",
    "aprtui:live?recording=run.jsonl&token=3",
    "aprtui:browse?at=talk.jsonl",
    "aprtui:browse",
    "aprtui:browse?path=good&layer=1&stage=ffn_gate",
    "aprtui:tensor?capture=good&layer=1&stage=ffn_gate",
    "aprtui:tensor?capture=bad&layer=1&stage=attn_softmax&at=1,2&zoom=numbers",
    "aprtui:tensor?capture=damaged&layer=0&stage=attn_norm",
    "aprtui:tensor?model=demo.gguf&tensor=token_embd.weight",
    "aprtui:tensor?path=good/layer-0/attn_norm.bin",
    "aprtui:tensor",
    "aprtui:diff",
    "aprtui:diff?a=good&b=bad",
    "aprtui:diff?a=good&b=bad&metric=rel_l2&bound=0.01",
    "aprtui:diff?a=good&b=good",
    "aprtui:diff?a=good&b=damaged&metric=rel_l2&bound=0.01",
    "aprtui:diff?a=plain&b=gone",
    "aprtui:contracts?reference=good&capture=bad",
    "aprtui:contracts?path=contracts/one.yaml",
)


@dataclass(frozen=True, slots=True)
class Resized:
    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class Clicked:
    column: int
    row: int


@dataclass(frozen=True, slots=True)
class Pasted:
    text: str


@dataclass(frozen=True, slots=True)
class Opened:
    """Another state is opened, as a copied one is."""

    state: str


@dataclass(frozen=True, slots=True)
class Blurred:
    """The terminal's window loses the focus and gets it again."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """Something happens to a file that the app may have open: `how` is one of `DAMAGE`."""

    how: str
    path: str


@dataclass(frozen=True, slots=True)
class Waited:
    """Polls, threads and timers have their turn."""

    seconds: float


Step = tuple[str, ...] | Resized | Clicked | Pasted | Opened | Blurred | Damaged | Waited
"""Keys are a tuple of names: they are sent at once."""


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _become_folder(path: Path) -> None:
    _remove(path)
    path.mkdir()


def _dangle(path: Path) -> None:
    _remove(path)
    path.symlink_to("nowhere")


DAMAGE: Mapping[str, Callable[[Path], object]] = {
    "remove": _remove,
    "cut": lambda path: os.truncate(path, 20),
    "fill": lambda path: path.write_bytes(b"\xff" * 40),
    "folder": _become_folder,
    "dangle": _dangle,
}

# What the app means by a key matters more than the others; `q` and ctrl+c leave, as the end of a walk.
NAMED = (
    "enter", "escape", "tab", "shift+tab", "up", "down", "left", "right", "pageup", "pagedown", "home", "end",
    "space", "backspace", "delete", "shift+left", "shift+right", "ctrl+p", "ctrl+r", "ctrl+u", "ctrl+z", "ctrl+o",
    "ctrl+enter", "shift+enter", "f1", "ctrl+left", "ctrl+a",
)  # fmt: skip
LETTERS = "abcdefghijklmnoprstuvwxyzABCDEFGHIJKLMNOPRSTUVWXYZ"
SIGNS = "0123456789[]{}'/:?+-=<>,.!é€"
CHORDS = (
    ("g", "d"),
    ("]", "d"),
    ("[", "t"),
    ("]", "s"),
    ("[", "l"),
    ("]", "h"),
    ("m", "a"),
    ("'", "a"),
    ("J", "a", "b"),
)

keys = st.one_of(
    st.sampled_from("12345").map(lambda key: (key,)),
    st.sampled_from(NAMED).map(lambda key: (key,)),
    st.sampled_from(LETTERS).map(lambda key: (key,)),
    st.sampled_from(SIGNS).map(lambda key: (key,)),
    st.sampled_from(CHORDS),
    st.lists(st.sampled_from([*NAMED, *LETTERS, *SIGNS]), min_size=2, max_size=8).map(tuple),
)
others = st.one_of(
    st.builds(Resized, st.sampled_from([1, 12, 40, 80, 119, 120, 160, 200]), st.sampled_from([1, 3, 10, 24, 34, 60])),
    st.builds(Clicked, st.integers(0, 79), st.integers(0, 23)),
    st.builds(Pasted, st.sampled_from(["x", "two\nlines", "5,17", "demo.gguf", "/", "\x00\x1b[31m", "é" * 300])),
    st.builds(Opened, st.sampled_from(STATES)),
    st.builds(Blurred),
    st.builds(
        Damaged, st.sampled_from(sorted(DAMAGE)),
        st.sampled_from(
            ["bad", "bad/manifest.json", "good/layer-1/ffn_gate.bin", "demo.gguf", "contracts/one.yaml", "run.jsonl",
             "talk.jsonl"]
        ),
    ),
    st.builds(Waited, st.sampled_from([0.0, 0.06, 0.2])),
)  # fmt: skip
steps = st.lists(st.one_of(keys, keys, keys, keys, others), min_size=KEYS_A_WALK, max_size=KEYS_A_WALK)


KEPT: Mapping[str, tuple[str, list[Step], int | None, str]] = {
    "a model that was removed while Browse read it": (
        "aprtui:diff",
        [
            Clicked(8, 16), ("2",), ("K",), Damaged("remove", "demo.gguf"), Resized(120, 34), ("]",), Resized(200, 3),
            Pasted("two\nlines"), ("b", "D", "w"), Damaged("fill", "bad/manifest.json"), Blurred(),
            Damaged("dangle", "bad/manifest.json"), ("]", "s"), ("t",), ("4",), Clicked(70, 10), ("[", "l"),
            Opened("aprtui:tensor?path=good/layer-0/attn_norm.bin"),
            Opened("aprtui:browse?path=good&layer=1&stage=ffn_gate"), ("C", "enter", "6"), ("ctrl+u",),
            ("3", "v", "space", "shift+tab", "backspace", "M"), ("g", "d"), ("shift+right",), Clicked(73, 10),
            ("down",), ("O",), ("4",), ("8",), ("K",), Pasted("two\nlines"), ("shift+tab", "4", "c", "left", "end"),
            (">",), Blurred(), ("G",), Opened("aprtui:diff?a=good&b=bad"), Damaged("folder", "bad/manifest.json"),
            Resized(12, 34), (".",), ("!", "right"),
        ],
        3, "q",
    ),
    "a click on the tabs of a terminal of one row": (
        "aprtui:contracts?reference=good&capture=bad",
        [
            Blurred(), Pasted("é" * 300), Waited(0.06), ("]", "d"), ("]", "h"), Clicked(2, 22), ("shift+enter",),
            Resized(80, 24), ("pagedown",), ("3",), Resized(120, 1), ("delete",), ("down",), ("ctrl+r", "[", "9", "J"),
            ("ctrl+a",), Pasted("é" * 300), Waited(0.0), ("Z",), Clicked(37, 0), ("Z",), ("3",), Waited(0.06),
            ("]", "d"), Clicked(76, 0), Clicked(3, 10), ("+",), ("ctrl+z",), Pasted("5,17"), Resized(12, 3),
            Damaged("cut", "contracts/one.yaml"), ("ctrl+enter",), ("]", "-", "f"), Blurred(), Resized(200, 10),
            ("2",), Blurred(), ("ctrl+r",), ("]", "-", "f"), ("ctrl+a",), Waited(0.2),
        ],
        None, "ctrl+c",
    ),
}  # fmt: skip
"""Walks that have failed once, by what was wrong: state, steps, the token after which the engine dies, the last key."""


class RequestedDiff(RecordedDiff):
    """Compares what is asked for, in this process; a side that cannot be read is a problem in words."""

    def __init__(self) -> None:
        super().__init__(self._compare)

    def _compare(self, request: DiffRequest) -> Sequence[recorded.Record]:
        return recorded.records_of(request.a, request.b, *([request.tolerance] if request.tolerance else []))

    def start(self, request: DiffRequest) -> None:
        self.problem = ""
        try:
            self._compare(request)
        except AprtuiError as error:
            self.problem = str(error)
        super().start(request)


@contextmanager
def workplace(hybrid: bool = False) -> Iterator[Path]:
    """A folder with captures, a model and a contract, as the working directory; nothing outside it is written.

    Captures and model are of a `hybrid` with recurrences, or of a model that has attention throughout.
    """
    config = HYBRID if hybrid else CONFIG
    before, patch = Path.cwd(), pytest.MonkeyPatch()
    with tempfile.TemporaryDirectory() as name, patch.context() as patched:
        folder = Path(name)
        write_capture(folder / "good", config=config)
        write_capture(folder / "bad", config=config, edits=recorded.EDITS)
        damaged = write_capture(folder / "damaged", config=config)
        os.truncate(damaged / "layer-0" / "attn_norm.bin", 20)
        (damaged / "layer-1" / "ffn_up.bin").unlink()
        (damaged / "layer-2" / "ffn_gate.bin").write_bytes(b"\xff" * 500)
        write_capture(folder / "plain", config=config, manifest=False)
        write_capture(folder / "unfinished", config=config, complete=False)
        if hybrid:
            write_model(folder / "demo.gguf", architecture="qwen35", layers=4)
        else:
            shutil.copyfile(embedded_model(), folder / "demo.gguf")
        write_session(folder / "run.jsonl")
        (folder / "talk.jsonl").write_text("\n".join(SAID))
        (folder / "contracts").mkdir()
        (folder / "contracts" / "one.yaml").write_text(CONTRACT)
        patched.chdir(folder)
        patched.setenv("APRTUI_STATE_DIR", str(folder / "state"))
        patched.setenv("EDITOR", "true")
        patched.setattr(app_module, "SCREENS", {**SCREENS, ScreenName.DIFF: screen_playing(RequestedDiff())})
        yield folder
        os.chdir(before)


async def take(app: AprtuiApp, step: Step) -> None:
    """Do what a step says, and wait until the app is done with it."""
    match step:
        case tuple():
            for key in step:
                app.post_message(key_event(key))
        case Resized(columns, rows):
            send(app, Resize(Size(columns, rows), Size(columns, rows)))
        case Clicked(column, row):
            with suppress(NoWidget):
                if isinstance(app.screen.get_widget_at(column, row)[0], KeyLine):
                    return  # Quit may stand there, which leaves as `q` does
            for kind in (MouseDown, MouseUp):
                send(app, kind(None, column, row, 0, 0, 1, False, False, False, column, row))
        case Pasted(text):
            send(app, Paste(text))
        case Opened(state):
            app.open_state(parse_state(state))
        case Blurred():
            send(app, AppBlur())
            send(app, AppFocus())
        case Damaged(how, path):
            try:
                DAMAGE[how](Path(path))
            except OSError:
                return  # damaged already
        case Waited(seconds):
            await asyncio.sleep(seconds)
    await app.keys_taken()


def send(app: AprtuiApp, event: Event) -> None:
    app.post_message(event)


async def walk(
    state: str, walked: Sequence[Step], crash_after: int | None, last: str, recurrent: tuple[bool, ...] = ()
) -> None:
    """Start the app, take the steps, leave by the key `last`."""
    source = RecordedSource(layers=len(recurrent) or 4, crash_after=crash_after, recurrent=recurrent)
    app = AprtuiApp(Session(source, paths=(Path(),)), parse_state(state), Config(Path("config.toml")))
    async with app.run_test(size=(80, 24), notifications=True):
        for step in walked:
            await take(app, step)
            if app.crash is not None:
                raise app.crash
            assert app.return_code is None, f"left by {step}"
        if last == "q":
            await take(app, ("escape",) * 4)
            while len(app.screen_stack) > 2:
                app.pop_screen()
            app.screen.set_focus(None)
        before = app.session.source.state
        await take(app, (last,))
    # The engine may crash while the key is under way.
    assert app.return_value in {exit_code(last, before), exit_code(last, app.session.source.state)}


def exit_code(last: str, engine: EngineState) -> ExitCode:
    if last == "ctrl+c":
        return ExitCode.INTERRUPTED
    return ExitCode.ENGINE if engine is EngineState.CRASHED else ExitCode.PASS


@settings(
    max_examples=max(KEYS // KEYS_A_WALK, 1), deadline=None, derandomize=KEYS == KEYS_IN_THE_GATE, database=None,
    suppress_health_check=list(HealthCheck), print_blob=True,
    phases=[Phase.explicit, Phase.generate],  # threads make a walk go otherwise each time: there is nothing to shrink
)  # fmt: skip
@given(
    st.sampled_from(STATES), steps, st.sampled_from([None, None, 3]), st.sampled_from(["q", "ctrl+c"]), st.booleans()
)
def test_whatever_is_pressed_the_app_goes_on_and_leaves_with_its_code(
    state: str, walked: list[Step], crash_after: int | None, last: str, hybrid: bool
) -> None:
    with workplace(hybrid):
        asyncio.run(walk(state, walked, crash_after, last, RECURRENT if hybrid else ()))


@pytest.mark.parametrize("name", KEPT)
def test_a_walk_that_failed_once(name: str) -> None:
    with workplace():
        asyncio.run(walk(*KEPT[name]))
