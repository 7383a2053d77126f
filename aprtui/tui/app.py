"""The app: its screens and the way between them, themes, the way in and the way out."""

from __future__ import annotations

import gc
import locale
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import platformdirs
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.filter import LineFilter
from textual.screen import Screen

from aprtui.engine.process.engine_process import EngineProcess, EngineState
from aprtui.engine.process.loading import open_model
from aprtui.engine.process.messages import EngineSettings
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.sampling import Sampling
from aprtui.errors import AprtuiError, EngineError, ExitCode
from aprtui.model.model import load_model
from aprtui.resources import embedded_model
from aprtui.tui.draw.colours import DARK, LIGHT
from aprtui.tui.frame.ascii_filter import AsciiFilter
from aprtui.tui.frame.config import Config, config_path, read_config
from aprtui.tui.frame.keymap import check_remapping, key_name, shown_keys
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState
from aprtui.tui.frame.tool_screen import ToolScreen
from aprtui.tui.screens.browse.screen import BrowseScreen
from aprtui.tui.screens.contracts.screen import ContractsScreen
from aprtui.tui.screens.diff.screen import DiffScreen
from aprtui.tui.screens.help.screen import HelpScreen
from aprtui.tui.screens.live.screen import LiveScreen
from aprtui.tui.screens.tensor.screen import TensorScreen
from aprtui.tui.widgets.line_widget import PLAIN

SCREENS: Mapping[ScreenName, type[ToolScreen]] = {
    ScreenName.LIVE: LiveScreen,
    ScreenName.BROWSE: BrowseScreen,
    ScreenName.TENSOR: TensorScreen,
    ScreenName.DIFF: DiffScreen,
    ScreenName.CONTRACTS: ContractsScreen,
}
"""The class of each screen."""


class AprtuiApp(App[ExitCode]):
    """Opens on the screen of `state`. Each screen is made when it is first wanted, and kept."""

    TITLE = "aprtui"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "interrupt", "Interrupt", show=False, priority=True),
        Binding("ctrl+q", "quit", "Quit", show=False, priority=True),
    ]
    CSS = """
    .pane {
        border: round $border-blurred; border-title-color: $foreground; border-subtitle-color: $text-muted;
        padding: 0 1; scrollbar-size-vertical: 1;
    }
    .pane:focus, .pane:focus-within { border: round $border; border-title-color: $accent; }
    .-ascii .pane, .-ascii .pane:focus { border: ascii $border-blurred; }
    """

    def __init__(self, session: Session, state: ScreenState | None = None, config: Config | None = None) -> None:
        self.config = config or Config(config_path())
        # Without colour (no-color.org), Textual would still send greys unless the terminal's own colours are used.
        super().__init__(ansi_color=True if os.environ.get("NO_COLOR") else None)
        self.session = session
        self._first = state or ScreenState(ScreenName.LIVE)
        self._shown: list[ScreenName] = []
        self._kept: dict[ScreenName, ToolScreen] = {}
        self._ascii = (AsciiFilter(),) if self.config.ascii else ()
        self.set_class(self.config.ascii, "-ascii")
        self.set_class(self.config.ascii or bool(os.environ.get("NO_COLOR")), PLAIN)
        check_remapping(
            self.config.keys,
            (binding for kind in SCREENS.values() for binding in kind.all_bindings()),
            (chord for kind in SCREENS.values() for chord in kind.CHORDS),
            str(self.config.path),
        )

    def on_mount(self) -> None:
        """Show the first screen."""
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
        self.open_state(self._first)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's own filters; where ASCII alone is wanted, one that lets nothing else through."""
        return [*super().get_line_filters(), *self._ascii]

    def get_key_display(self, binding: Binding) -> str:
        """A key in the footer."""
        text = super().get_key_display(binding)
        return text if text.isascii() or not self.config.ascii else shown_keys(binding.key, ascii_only=True)

    def open_state(self, state: ScreenState) -> None:
        """Show what `state` says; a state that cannot be shown is told in one line."""
        try:
            fresh = SCREENS[state.screen](self.session, state)
        except KeyError:
            self.notify(f"There is no {state.screen} screen in this release.", severity="warning")
        except AprtuiError as error:
            self.notify(str(error), severity="error", markup=False, timeout=15)
            if not self._shown:
                self.action_go(ScreenName.LIVE)
        else:
            self._keep(fresh)
            self.action_go(state.screen)

    def _keep(self, screen: ToolScreen) -> None:
        """Make `screen` the one of its name, in place of an older one."""
        older = self._kept.pop(screen.NAME, None)
        if older is not None:
            self.uninstall_screen(older)
            if older is not self.screen:
                older.remove()
        self._kept[screen.NAME] = screen
        self.install_screen(screen, screen.NAME)

    def action_go(self, name: str) -> None:
        """Show a screen as it was left; for the first time, as it begins."""
        wanted = ScreenName(name)
        if wanted not in self._kept:
            self.open_state(ScreenState(wanted))
            return
        if self._kept[wanted] is self.screen:
            return
        self._shown = [*(shown for shown in self._shown if shown is not wanted), wanted]
        if len(self._shown) == 1:
            self.push_screen(self._kept[wanted])
        else:
            self.switch_screen(self._kept[wanted])

    def back(self) -> None:
        """Show the screen that was shown before this one."""
        if len(self._shown) > 1:
            self._shown.pop()
            self.action_go(self._shown[-1])

    def captures_at_hand(self) -> tuple[Path, ...]:
        """The captures on the screen that was shown last of those that show some."""
        for name in reversed(self._shown):
            if name is not ScreenName.CONTRACTS and (found := self._kept[name].captures()):
                return found
        return ()

    def action_help(self) -> None:
        """Show what the screen means, and its keys."""
        screen = self.screen
        if isinstance(screen, ToolScreen):
            title = screen.NAME.capitalize()
            self.push_screen(HelpScreen(title, screen.EXPLANATION, screen.all_bindings(), screen.chords))

    def action_turn_theme(self) -> None:
        """From dark to light, and back."""
        self.theme = LIGHT.name if self.current_theme.dark else DARK.name

    async def action_quit(self) -> None:
        """Leave; a generation that is going on ends."""
        crashed = self.session.source.state is EngineState.CRASHED
        self.exit(ExitCode.ENGINE if crashed else ExitCode.PASS)

    @property
    def failure(self) -> str:
        """What the engine last failed with; empty while all is well."""
        live = self._kept.get(ScreenName.LIVE)
        return live.failure if isinstance(live, LiveScreen) else ""

    def action_interrupt(self) -> None:
        """Ctrl-C."""
        self.exit(ExitCode.INTERRUPTED)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Textual's own commands, and the keys and chords of the screen."""
        yield from super().get_system_commands(screen)
        if not isinstance(screen, ToolScreen):
            return
        commands = [
            (binding.description, self._keymap.get(binding.id or "", binding.key), binding.action)
            for binding in screen.all_bindings()
        ]
        commands += [(chord.description, chord.keys, chord.action) for chord in screen.chords if "*" not in chord.keys]
        for description, keys, action in commands:
            yield SystemCommand(
                description, f"Keys: {shown_keys(keys, self.config.ascii)}", partial(screen.run_action, action)
            )


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """Which model the live screen runs (None: the embedded one), and how.

    Without `threads`, one core is left to the screen; without `sampling`, the model's recommended temperature is used.
    """

    model: Path | None = None
    prompt: str = ""
    mode: Mode = Mode.Q8
    backend: str = "auto"
    kv: KvType = KvType.F32
    threads: int | None = None
    context: int | None = None
    sampling: Sampling | None = None


def run_app(
    state: ScreenState, live: LiveOptions, *, paths: tuple[Path, ...] = (), ascii_only: bool = False
) -> ExitCode:
    """Open the app on `state`; the engine starts when the live screen is shown.

    Raises `UnreadableError` before the screen opens where the model cannot be used, `UsageError` for a configuration
    that makes no sense, and `EngineError` after it where the engine had crashed and was not started anew.
    """
    config = read_config(config_path())
    if ascii_only or not _has_unicode():
        config = Config(config.path, config.theme, True, config.keys)
    path = live.model or embedded_model()
    load_model(path)
    settings = EngineSettings(live.backend, live.mode, live.kv, live.threads, live.context)
    source = EngineProcess(partial(open_model, path=path), settings, _log_file())
    app = AprtuiApp(Session(source, live.prompt, live.sampling, paths), state, config)
    # What was imported stays: looking through it for garbage took a third of the time in which a frame was drawn. And
    # all that lives is looked through seldom: that held keys up for 80 ms every two seconds.
    gc.freeze()
    gc.set_threshold(10_000, 5, 100)
    try:
        code = app.run() or ExitCode.PASS
    finally:
        source.close()
    if code is ExitCode.ENGINE:
        raise EngineError(app.failure)
    return code


def _has_unicode() -> bool:
    """Whether the terminal's encoding, as the locale tells it, has block characters."""
    return "utf" in locale.getencoding().lower()


def _log_file() -> Path | None:
    """Where the engine process writes what it prints; nowhere where the user's log folder cannot be written."""
    try:
        folder = platformdirs.user_log_path("aprtui", ensure_exists=True)
    except OSError:
        return None
    return folder / "engine.log" if os.access(folder, os.W_OK) else None
