"""The app: its screens and the ways between them, themes, start and exit."""

from __future__ import annotations

import gc
import importlib
import locale
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar, cast

import platformdirs
from textual import on
from textual._context import active_message_pump
from textual.app import ScreenStackError
from textual.binding import Binding, BindingType
from textual.command import Provider
from textual.css.query import NoMatches
from textual.dom import DOMNode, NoScreen
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver
from textual.errors import NoWidget
from textual.events import Event, Key, MouseDown
from textual.filter import LineFilter
from textual.notifications import SeverityLevel
from textual.screen import Screen
from textual.widget import Widget
from textual.worker import WorkerFailed, get_current_worker

from aprtui.config import Config, config_path, read_config
from aprtui.engine.process.engine_process import EngineProcess, EngineState
from aprtui.engine.process.loading import load_engine
from aprtui.engine.sessions.player import SessionPlayer
from aprtui.errors import AprtuiError, EngineError, ExitCode
from aprtui.model.discovery.naming import default_model
from aprtui.model.model import load_model
from aprtui.model.prompt import require_template
from aprtui.tui.draw.colours import DARK, LIGHT
from aprtui.tui.frame.ascii_filter import AsciiFilter
from aprtui.tui.frame.commands import TOUR_BINDINGS
from aprtui.tui.frame.control_filter import ControlFilter
from aprtui.tui.frame.keymap import check_remapping, displayed_keys, key_name
from aprtui.tui.frame.keys_in_turn import KeysInTurnApp
from aprtui.tui.frame.palette import Palette, ScreenCommands
from aprtui.tui.frame.recent import remember_state
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState
from aprtui.tui.frame.terminal import TerminalDriver, shell_waits
from aprtui.tui.frame.tool_screen import Notice, ToolScreen
from aprtui.tui.screens.help.screen import HelpScreen
from aprtui.tui.widgets.line_widget import PLAIN


class _Screens(Mapping[ScreenName, type[ToolScreen]]):
    """The screens by their names. What one needs is imported when it is first asked for: all of them take a second."""

    def __getitem__(self, name: ScreenName) -> type[ToolScreen]:
        module = importlib.import_module(f"aprtui.tui.screens.{ScreenName(name)}.screen")
        return cast(type[ToolScreen], getattr(module, f"{name.capitalize()}Screen"))

    def __iter__(self) -> Iterator[ScreenName]:
        return iter(ScreenName)

    def __len__(self) -> int:
        return len(ScreenName)


SCREENS: Mapping[ScreenName, type[ToolScreen]] = _Screens()

SHORTEST, LONGEST, LETTERS_PER_SECOND = 3.0, 12.0, 15
"""Seconds that a toast stands: so long and the time to read it, but no longer than that."""


class AprtuiApp(KeysInTurnApp[ExitCode]):
    """Opens on the screen of `state`. Each screen is created when it is first shown, and stays."""

    TITLE = "aprtui"
    COMMANDS: ClassVar[set[type[Provider] | Callable[[], type[Provider]]]] = {ScreenCommands}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "interrupt", "Interrupt", show=False, priority=True),
        Binding("ctrl+q", "quit", "Quit", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", "Back to the shell; fg comes back", show=False, priority=True),
    ]
    CSS = """
    .pane {
        border: round $border-blurred; border-title-color: $foreground; border-subtitle-color: $text-muted;
        padding: 0 1; scrollbar-size-vertical: 1;
    }
    .pane:focus, .pane:focus-within { border: round $border; border-title-color: $accent; }
    CommandPalette > Vertical { width: 80; max-width: 100%; }
    ToastRack { margin-bottom: 2; scrollbar-size: 0 0; }
    Toast { width: 90%; max-width: 120; padding: 0 1; margin-top: 0; background: $panel; }
    .-ascii .pane, .-ascii .pane:focus { border: ascii $border-blurred; }
    .-behind-zoomed { display: none !important; }
    .-zoomed, .-around-zoomed {
        dock: initial !important; width: 100% !important; height: 1fr !important; max-width: 100% !important;
        max-height: 100% !important; margin: 0 !important;
    }
    .-around-zoomed { layout: vertical !important; }
    """

    def __init__(self, session: Session, state: ScreenState | None = None, config: Config | None = None) -> None:
        self.config = config or Config(config_path())
        # Without colour (no-color.org), Textual would still send greys unless the terminal's own colours are used.
        super().__init__(ansi_color=True if os.environ.get("NO_COLOR") else None)
        self.session = session
        self._initial_state = state or ScreenState(ScreenName.LIVE)
        self._history: list[ScreenName] = []
        """The screens that were shown, each once, the current one last."""
        self._screens: dict[ScreenName, ToolScreen] = {}
        self.notice: Notice | None = None
        self._rests_while_stopped = False
        self._filtered = (ControlFilter(), *([AsciiFilter()] if self.config.ascii else []))
        self.set_class(self.config.ascii, "-ascii")
        self.set_class(self.config.ascii or bool(os.environ.get("NO_COLOR")), PLAIN)
        if self.config.keys:
            check_remapping(
                self.config.keys,
                (*TOUR_BINDINGS, *(binding for kind in SCREENS.values() for binding in kind.all_bindings())),
                (chord for kind in SCREENS.values() for chord in kind.CHORDS),
                str(self.config.path),
            )

    def on_mount(self) -> None:
        for theme in (DARK, LIGHT):
            self.register_theme(theme)
        self.theme = self.config.theme if self.config.theme in self.available_themes else DARK.name
        self.set_keymap(
            {
                name: ",".join(map(key_name, keys.split(",")))
                for name, keys in self.config.keys.items()
                if " " not in keys
            }
        )
        self.open_state(self._initial_state)

    async def on_event(self, event: Event) -> None:
        if isinstance(event, Key) and not event.is_forwarded:
            self._show_notice(None)
        if isinstance(event, MouseDown) and self.screen_stack and self._is_removed_at(event):
            return
        await super().on_event(event)

    def _is_removed_at(self, event: MouseDown) -> bool:
        """Whether what is pressed, as a toast, is being removed: Textual would look for its parent."""
        try:
            widget, _ = self.screen.get_widget_at(event.x, event.y)
        except NoWidget:
            return False
        return widget.parent is None and not isinstance(widget, Screen)

    def notify(
        self, message: str, *, title: str = "", severity: SeverityLevel = "information", timeout: float | None = None,
        markup: bool = True,
    ) -> None:  # fmt: skip
        """Tell the user something: in the line of words of the screen, or if it is long in a toast above that line.

        It stands until the next key, a toast for as long as it takes to read. There is no `markup`: messages hold names
        and paths.
        """
        text = f"{title}: {message}" if title else message
        screen = self._tool_screen
        if screen is not None and screen.has_room_for(text):
            self._show_notice(Notice(text, severity))
        else:
            seconds = timeout or min(SHORTEST + len(text) / LETTERS_PER_SECOND, LONGEST)
            super().notify(text, severity=severity, timeout=seconds, markup=False)

    def _show_notice(self, notice: Notice | None) -> None:
        if notice != self.notice:
            self.notice = notice
            if (screen := self._tool_screen) is not None:
                screen.show_notice()

    @property
    def _tool_screen(self) -> ToolScreen | None:
        """The screen on top, if it is one of ours; a dialog is none, and an app that ends has none."""
        screen = self.screen_stack[-1] if self.screen_stack else None
        return screen if isinstance(screen, ToolScreen) else None

    def get_driver_class(self) -> type[Driver]:
        kind = super().get_driver_class()
        return TerminalDriver if kind is LinuxDriver else kind

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [*super().get_line_filters(), *self._filtered]

    def get_key_display(self, binding: Binding) -> str:
        text = super().get_key_display(binding)
        return text if text.isascii() or not self.config.ascii else displayed_keys(binding.key, ascii_only=True)

    def open_state(self, state: ScreenState) -> None:
        """Show the screen that `state` describes; one that cannot be shown is reported in a line."""
        try:
            session = self._session_for(state)
            if session is None:
                self.action_go(ScreenName.LIVE)
                return
            screen = SCREENS[state.screen](session, state)
        except AprtuiError as error:
            self.notify(str(error), severity="error")
            if not self._history:
                self.action_go(ScreenName.LIVE)
        else:
            if session.remembers:
                remember_state(state)
            if session is not self.session:
                self.session.source.close()
                self.session = session
            self._add(screen)

    def _session_for(self, state: ScreenState) -> Session | None:
        """The session that a screen for `state` belongs to: one with another engine where it names another model, or a
        recording.

        None for a live screen that is there already. Raises `UnreadableError` for a file that cannot be used.
        """
        path, recording, session = state.path("model"), state.path("recording"), self.session
        if state.screen is not ScreenName.LIVE:
            return session
        if recording is not None:
            shown = session.source.recording
            if shown is not None and shown.path == recording and ScreenName.LIVE not in self._screens:
                return session
            return replace(session, source=SessionPlayer(recording), model=None)
        if path is None or session.open_model is None:
            return session
        if ScreenName.LIVE in self._screens and path.absolute() == session.model and len(state.fields) == 1:
            return None
        if ScreenName.LIVE not in self._screens and path.absolute() == session.model:
            return session
        load_model(path)
        return replace(session, source=session.open_model(path), model=path.absolute())

    def _add(self, screen: ToolScreen) -> None:
        """Show `screen` in place of an older one of its name."""
        older = self._screens.get(screen.NAME)
        if older is not None:
            older.is_replaced = True
        stacked = older in self.screen_stack
        self._screens[screen.NAME] = screen
        self.install_screen(screen, f"{screen.NAME} {id(screen)}")
        self.action_go(screen.NAME)
        if older is not None:
            self.uninstall_screen(older)
            if not stacked:  # Textual removes one that was on the stack
                older.remove()

    def action_go(self, name: str) -> None:
        """Show a screen as it was left; the first time, as it begins."""
        wanted = ScreenName(name)
        if wanted not in self._screens:
            self.open_state(ScreenState(wanted))
            return
        if self._screens[wanted] is self.screen:
            return
        self._history = [*(name for name in self._history if name is not wanted), wanted]
        # One of our screens is on the stack at a time, above Textual's own; dialogs above it end.
        while len(self.screen_stack) > 2:
            self.pop_screen()
        if len(self.screen_stack) == 1:
            self.push_screen(self._screens[wanted])
        else:
            self.switch_screen(self._screens[wanted])

    def back(self) -> None:
        if len(self._history) > 1:
            self._history.pop()
            self.action_go(self._history[-1])

    def captures_at_hand(self) -> tuple[Path, ...]:
        """The captures on the screen that was shown last of those that show some."""
        for name in reversed(self._history):
            if name is not ScreenName.CONTRACTS and (found := self._screens[name].captures()):
                return found
        return ()

    def guide(self) -> Iterable[Widget]:
        """What stands below the tabs of each screen, to say what to do next; nothing, but in the tour."""
        return ()

    def action_help(self) -> None:
        screen = self.screen
        if isinstance(screen, ToolScreen):
            self.push_screen(HelpScreen(screen))

    def action_command_palette(self) -> None:
        if not isinstance(self.screen, Palette):
            self.push_screen(Palette(id="--command-palette"))

    def action_turn_theme(self) -> None:
        self.theme = LIGHT.name if self.current_theme.dark else DARK.name

    def _handle_exception(self, error: Exception) -> None:
        """End with what was raised, a worker's as itself; a screen that goes, and misses its parts, is no bug."""
        node: object = active_message_pump.get(None)
        if isinstance(error, WorkerFailed):
            node, error = get_current_worker().node, cast(Exception, error.error)
        if not (isinstance(error, NoMatches) and isinstance(node, DOMNode) and _goes(node)):
            super()._handle_exception(error)

    def _fatal_error(self) -> None:
        """Leave without a traceback on the terminal: `run_app` raises the exception, and its report goes to a file."""
        self._close_messages_no_wait()

    @property
    def crash(self) -> Exception | None:
        """The exception that ended the app; None where nothing was wrong with it."""
        return self._exception

    async def action_quit(self) -> None:
        crashed = self.session.source.state is EngineState.CRASHED
        self.exit(ExitCode.ENGINE if crashed else ExitCode.PASS)

    @property
    def failure(self) -> str:
        """What the engine last failed with; empty if it has not."""
        live = self._screens.get(ScreenName.LIVE)
        return live.failure if live else ""

    def action_interrupt(self) -> None:
        self.exit(ExitCode.INTERRUPTED)

    def on_terminal_gone(self) -> None:
        self.action_interrupt()

    def action_suspend_process(self) -> None:
        """Stop, as any program of the terminal does at ctrl+z; the engine rests meanwhile."""
        if self._driver is None or not self._driver.can_suspend or not shell_waits():
            self.notify("No shell waits behind the app that could bring it back.", severity="warning")
            return
        source = self.session.source
        self._rests_while_stopped = source.state is EngineState.RUNNING
        if self._rests_while_stopped:
            source.pause()
        os.killpg(os.getpgrp(), signal.SIGTSTP)

    @on(Driver.SignalResume)
    def resume(self) -> None:
        """Draw everything again: the shell has written over it."""
        if self._rests_while_stopped:
            self.session.source.resume()
        self.refresh(layout=True)


def _goes(node: DOMNode) -> bool:
    """Whether the screen of `node` is being removed: Textual does not wait for what it is at."""
    try:
        screen = node.screen
        return not screen.display or screen not in node.app.screen_stack
    except (NoScreen, ScreenStackError):
        return True


def run_app(
    state: ScreenState,
    *,
    paths: tuple[Path, ...] = (),
    ascii_only: bool = False,
    make: Callable[[Session, ScreenState, Config], AprtuiApp] | None = None,
) -> ExitCode:
    """Open the app, or what `make` makes, on `state`; the engine starts when the live screen is shown.

    The model is the one that a state of the live screen names, else the one that the configuration prefers, else the
    embedded one; a recording needs none.

    Raises `UnreadableError` before the screen opens if the model cannot be used, `UsageError` for a configuration
    that makes no sense or a chat with a model that has no template, and after it `EngineError` if the engine had
    crashed and was not restarted, or whatever a bug in the app has raised.
    """
    config = read_config(config_path())
    if ascii_only or "utf" not in locale.getencoding().lower():  # block characters cannot be written
        config = replace(config, ascii=True)
    app = (make or AprtuiApp)(_session(state, paths), state, config)
    # Imported objects stay alive: searching them for garbage took a third of the time of a frame. Full collections,
    # which held keys up for 80 ms every two seconds, are rare.
    gc.freeze()
    gc.set_threshold(10_000, 5, 100)
    try:
        code = app.run() or ExitCode.PASS
    finally:
        app.session.source.close()
    if app.crash is not None:
        raise app.crash
    if code is ExitCode.ENGINE:
        raise EngineError(app.failure)
    return code


def _session(state: ScreenState, paths: tuple[Path, ...]) -> Session:
    """What the app begins with: a recording that `state` names, else an engine for its model, or the default one."""
    is_live = state.screen is ScreenName.LIVE
    recording = state.path("recording") if is_live else None
    if recording is not None:
        return Session(SessionPlayer(recording), paths, None, _engine)
    path = (state.path("model") if is_live else None) or default_model()
    model = load_model(path)
    if is_live and state.text("chat") == "on":
        require_template(model)
    return Session(_engine(path), paths, path.absolute(), _engine)


def _engine(path: Path) -> EngineProcess:
    return EngineProcess(partial(load_engine, path=path), log=_log_file())


def _log_file() -> Path | None:
    """Where the engine process writes what it prints; None if the user's log folder cannot be written."""
    try:
        folder = platformdirs.user_log_path("aprtui", ensure_exists=True)
    except OSError:
        return None
    return folder / "engine.log" if os.access(folder, os.W_OK) else None
