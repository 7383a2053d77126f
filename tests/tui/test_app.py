"""What every screen has: ways between screens, chords, copying, saving, and words for a small terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import pytest
from textual.events import MouseDown
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Input, Static
from textual.widgets._toast import Toast

from aprtui.config import Config
from aprtui.resources import embedded_model
from aprtui.tui import app as app_module
from aprtui.tui.app import SCREENS, AprtuiApp, run_app
from aprtui.tui.frame.keymap import Chord
from aprtui.tui.frame.overlay import ChordScreen
from aprtui.tui.frame.recent import recent_paths
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.frame.tool_screen import ToolScreen
from aprtui.tui.screens.live.screen import LiveScreen
from tests.tui.driver import drag, key_event, notifications, screen_text, until
from tests.tui.screens.live.recorded import RecordedSource


class NotesScreen(ToolScreen):
    """A screen that keeps what its chords were asked."""

    NAME = ScreenName.DIFF
    EXPLANATION = "notes"
    AUTO_FOCUS = ""
    CHORDS: ClassVar[tuple[Chord, ...]] = (
        Chord("g d", "note('first')", "First", "notes.first"),
        Chord("m *", "note('*')", "Mark", "notes.mark"),
    )

    def __init__(self, session: Session, state: ScreenState) -> None:
        super().__init__(session, state)
        self.notes: list[str] = []

    def compose_body(self) -> Iterable[Widget]:
        yield Static("notes")
        yield Input()

    def state(self) -> ScreenState:
        return screen_state(self.NAME, a="x y", layer=len(self.notes))

    def command(self) -> list[str]:
        return ["aprtui", "diff", "x y", "b"] if self.notes else []

    def action_note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(autouse=True)
def notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "SCREENS", {ScreenName.LIVE: LiveScreen, ScreenName.DIFF: NotesScreen})


def app(state: ScreenState | None = None) -> AprtuiApp:
    return AprtuiApp(Session(RecordedSource()), state)


async def test_screens_are_reached_by_their_numbers_kept_as_they_were_and_left_with_escape() -> None:
    async with app().run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        live = pilot.app.screen
        await pilot.press("4")
        await pilot.pause()
        diff = pilot.app.screen
        assert isinstance(diff, NotesScreen)
        diff.set_focus(None)
        await pilot.press("1", "4")
        assert pilot.app.screen is diff
        await pilot.press("escape")
        assert pilot.app.screen is live


async def test_chords_take_two_keys_and_other_keys_leave_them() -> None:
    async with app(ScreenState(ScreenName.DIFF)).run_test(size=(80, 24)) as pilot:
        screen = pilot.app.screen
        assert isinstance(screen, NotesScreen)
        screen.set_focus(None)
        await pilot.press("g", "d", "m", "a", "g", "x", "m", "escape", "g", "d")
        assert screen.notes == ["first", "a", "first"]
        await pilot.press("g", "1")
        assert pilot.app.screen is screen, "the key that leaves a chord is no command"
        await pilot.press("g")
        assert isinstance(pilot.app.screen, ChordScreen)
        await pilot.pause()
        assert "First" in screen_text(pilot)


async def test_first_key_of_a_chord_is_a_letter_where_text_is_typed() -> None:
    async with app(ScreenState(ScreenName.DIFF)).run_test(size=(80, 24)) as pilot:
        screen = pilot.app.screen
        box = screen.query_one(Input)
        box.focus()
        await pilot.press(*"gm")
        assert box.value == "gm"
        assert pilot.app.screen is screen


async def test_command_and_state_are_copied_as_a_shell_takes_them_and_shown() -> None:
    async with app(ScreenState(ScreenName.DIFF)).run_test(size=(80, 24), notifications=True) as pilot:
        screen = pilot.app.screen
        assert isinstance(screen, NotesScreen)
        screen.set_focus(None)
        await pilot.press("y")
        assert pilot.app.clipboard == ""
        await pilot.press("g", "d", "y")
        assert pilot.app.clipboard == "aprtui diff 'x y' b"
        await pilot.press("Y")
        assert pilot.app.clipboard == "aprtui open 'aprtui:diff?a=x%20y&layer=1'"
        for _ in range(100):
            await pilot.pause(0.02)
            if "Copied" in screen_text(pilot):
                return
        raise AssertionError(screen_text(pilot))


async def test_text_that_is_selected_with_the_mouse_is_copied() -> None:
    async with app(ScreenState(ScreenName.DIFF)).run_test(size=(80, 24), notifications=True) as pilot:
        await drag(pilot, pilot.app.screen.query_one(Static), (0, 0), (3, 0))
        assert pilot.app.clipboard == "note" and notifications(pilot) == ["Copied: note"]
        await pilot.click(Static)
        assert len(notifications(pilot)) == 1


async def test_the_screen_is_saved_as_svg_and_a_folder_without_permission_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with app(ScreenState(ScreenName.DIFF)).run_test(size=(80, 24)) as pilot:
        pilot.app.screen.set_focus(None)
        await pilot.press("s")
        (saved,) = tmp_path.iterdir()
        assert saved.name.startswith("aprtui-diff-") and "notes" in saved.read_text()

        def refuse(*_: object, **__: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "write_text", refuse)
        await pilot.press("s")
        assert "cannot be written: Permission denied" in notifications(pilot)[-1]


async def test_a_terminal_that_is_too_small_is_told() -> None:
    async with app().run_test(size=(60, 20)) as pilot:
        await pilot.pause()
        assert "60×20: made for 80×24" in screen_text(pilot)


async def test_light_and_dark() -> None:
    async with app(ScreenState(ScreenName.DIFF)).run_test(size=(80, 24)) as pilot:
        pilot.app.screen.set_focus(None)
        assert pilot.app.current_theme.dark
        await pilot.press("T")
        assert not pilot.app.current_theme.dark


async def test_help_lists_every_key_of_the_screen_its_chords_and_their_ids() -> None:
    async with app(ScreenState(ScreenName.DIFF)).run_test(size=(80, 60)) as pilot:
        pilot.app.screen.set_focus(None)
        await pilot.press("question_mark")
        await pilot.pause()
        text = screen_text(pilot)
        for words in ("gd", "First", "Copy the headless", "Live, Browse"):
            assert words in text
        await pilot.press("tab", "tab")
        await pilot.pause()
        text = screen_text(pilot)
        for words in ("gd", "notes.first", "copy.command", "Live screen", "go.live"):
            assert words in text


async def test_a_screen_is_opened_again_after_a_way_back() -> None:
    program = app(ScreenState(ScreenName.LIVE))
    async with program.run_test(size=(100, 30)) as pilot:
        for _ in range(3):
            program.open_state(screen_state(ScreenName.DIFF, a="x"))
            await pilot.pause()
            assert isinstance(program.screen, NotesScreen)
            await pilot.press("escape")
            await pilot.pause()
            assert isinstance(program.screen, LiveScreen)
            assert len(program.screen_stack) == 2


async def test_a_screen_takes_the_place_of_its_own_kind_even_below_a_dialog() -> None:
    program = app(ScreenState(ScreenName.DIFF))
    async with program.run_test(size=(100, 30)) as pilot:
        first = program.screen
        await pilot.press("question_mark")
        await pilot.pause()
        program.open_state(screen_state(ScreenName.DIFF, a="other"))
        await pilot.pause()
        assert isinstance(program.screen, NotesScreen)
        assert program.screen is not first
        assert len(program.screen_stack) == 2
        assert not first.is_running


async def test_another_screen_may_come_while_the_palette_gathers_its_commands_or_a_screen_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app_module, "SCREENS", SCREENS)
    program = app(ScreenState(ScreenName.LIVE))
    weight = screen_state(ScreenName.TENSOR, model=embedded_model(), tensor="token_embd.weight")
    async with program.run_test(size=(100, 30)) as pilot:
        for turns in range(0, 30, 3):
            for key in ":li":
                program.post_message(key_event(key))
                await asyncio.sleep(0.001 * turns)
            program.open_state(weight)
            await asyncio.sleep(0.002 * (turns % 10))
            program.open_state(ScreenState((ScreenName.DIFF, ScreenName.BROWSE, ScreenName.TENSOR)[turns % 3]))
        await pilot.pause()
        assert program.crash is None


def test_a_bug_in_the_app_is_raised_and_leaves_no_traceback_on_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: AprtuiApp) -> None:
        raise RuntimeError("a bug")

    async def press(pilot: Pilot[object]) -> None:
        await pilot.press("T")
        await pilot.pause()

    run = AprtuiApp.run
    monkeypatch.setattr(AprtuiApp, "action_turn_theme", broken)
    monkeypatch.setattr(AprtuiApp, "run", lambda program: run(program, headless=True, auto_pilot=press))
    with pytest.raises(RuntimeError, match="a bug"):
        run_app(ScreenState(ScreenName.DIFF))
    written = capsys.readouterr()
    assert "Traceback" not in written.out + written.err


def test_the_app_opens_the_model_that_the_configuration_prefers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preferred = tmp_path / "preferred.gguf"
    preferred.symlink_to(embedded_model())
    config = tmp_path / "config.toml"
    config.write_text('[aliases]\nmine = "preferred.gguf"\n[models]\ndefault = "mine"\n')
    monkeypatch.setenv("APRTUI_CONFIG", str(config))
    opened: list[Path | None] = []
    monkeypatch.setattr(AprtuiApp, "run", lambda program: opened.append(program.session.model))
    monkeypatch.setattr(app_module, "_engine", lambda path: RecordedSource())
    run_app(ScreenState(ScreenName.LIVE))
    run_app(screen_state(ScreenName.LIVE, model=embedded_model()))
    assert opened == [preferred, embedded_model()]


async def test_another_model_is_opened_in_place_of_the_one_that_runs(tmp_path: Path) -> None:
    first, other = (tmp_path / f"{name}.gguf" for name in ("first", "other"))
    for path in (first, other):
        path.symlink_to(embedded_model())
    sources: list[RecordedSource] = []

    def open_model(path: Path) -> RecordedSource:
        sources.append(RecordedSource())
        return sources[-1]

    before = RecordedSource()
    session = Session(before, model=first, open_model=open_model)
    app = AprtuiApp(session, screen_state(ScreenName.LIVE, model=first))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        live = app.screen
        assert app.session is session and not sources
        await pilot.press("4")
        app.open_state(screen_state(ScreenName.LIVE, model=first))
        await pilot.pause()
        assert app.screen is live, "the same model: the screen as it was left"
        app.open_state(screen_state(ScreenName.LIVE, model=other))
        await pilot.pause()
        assert app.screen is not live and app.session.source is sources[0] and app.session.model == other
        assert before.calls[-1] == "close" and "close" not in sources[0].calls
        other.unlink()
        other.write_bytes(b"no model")
        app.open_state(screen_state(ScreenName.LIVE, model=first))
        app.open_state(screen_state(ScreenName.LIVE, model=other))
        await pilot.pause()
        assert len(sources) == 2 and app.session.source is sources[1], "a file that is no model changes nothing"
        assert "close" not in sources[1].calls
        assert sources[0].calls[-1] == "close" and "other.gguf" in notifications(pilot)[-1]
        assert recent_paths()[0] == first


async def test_a_press_on_a_toast_that_is_being_removed_does_nothing() -> None:
    app = AprtuiApp(Session(RecordedSource()), ScreenState(ScreenName.DIFF), Config(Path("config.toml")))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        app.notify("many words " * 30)
        await until(pilot, lambda: any(toast.region for toast in pilot.app.screen.query(Toast)))
        toast = pilot.app.screen.query_one(Toast)
        column, row = toast.region.offset
        parent = toast.parent
        assert isinstance(parent, Widget)
        toast._detach()
        app.post_message(MouseDown(None, column, row, 0, 0, 1, False, False, False, column, row))
        await pilot.press("down")
        assert app.is_running and app.return_code is None
        toast._attach(parent)
