"""The base of all screens: what stands around each of them, and what each can do."""

from __future__ import annotations

import re
import shlex
from collections.abc import Hashable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Protocol, cast

from rich.segment import Segment
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.reactive import reactive
from textual.screen import Screen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Footer, Input, Static, TextArea

from aprtui.tui.draw.text import clipped, clipped_start, padded
from aprtui.tui.frame.config import Config
from aprtui.tui.frame.keymap import Chord, key_name, remapped
from aprtui.tui.frame.overlay import ChordScreen, JumpScreen
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState
from aprtui.tui.widgets.jump_targets import JumpTargets
from aprtui.tui.widgets.line_widget import LineWidget

LEAST_COLUMNS, LEAST_ROWS = 80, 24
"""The smallest terminal that screens are made for."""


class TabBar(LineWidget):
    """The screens with their keys, the current one marked; `detail` at the right says what it shows."""

    PREFIX = "tab-bar"
    COMPONENT_CLASSES: ClassVar[set[str]] = {"tab-bar--name", "tab-bar--current", "tab-bar--warning"}
    DEFAULT_CSS = """
    TabBar {
        height: 1; background: $panel; color: $text-muted; padding: 0 1;
        .tab-bar--name { color: $accent; text-style: bold; }
        .tab-bar--current { color: $foreground; background: $background; text-style: bold underline; }
        .tab-bar--warning { color: $error; text-style: bold; }
    }
    """

    detail: reactive[str] = reactive("")

    def __init__(self, current: ScreenName) -> None:
        super().__init__()
        self._current = current

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.style()
        segments = [Segment("aprtui", self.style("name")), Segment("  ", base)]
        for number, name in enumerate(ScreenName, 1):
            style = self.style("current") if name is self._current else base
            segments += [Segment(f" {number} {name.capitalize()} ", style), Segment(" ", base)]
        room = width - sum(len(segment.text) for segment in segments)
        detail, style = self.detail, base
        columns, rows = self.app.size
        if columns < LEAST_COLUMNS or rows < LEAST_ROWS:
            detail = f"{columns}×{rows}: made for {LEAST_COLUMNS}×{LEAST_ROWS}"
            style = self.style("warning")
            if len(detail) > room:
                return Strip([Segment(detail, style)]).adjust_cell_length(width, base)
        detail = clipped_start(detail, room) if room > 8 else ""
        return Strip([*segments, Segment(padded(detail, room, right=True), style)]).adjust_cell_length(width, base)

    async def on_click(self, event: Click) -> None:
        at = 8  # behind the padding and the program's name
        for name in ScreenName:
            width = len(f" 1 {name} ")
            if at <= event.x - 1 < at + width:
                await self.run_action(f"app.go('{name}')")
            at += width + 1


class ReadoutLine(LineWidget):
    """One line that describes the focused cell in plain words: for screen readers, logs, and screens without colour."""

    DEFAULT_CSS = "ReadoutLine { height: 1; padding: 0 1; background: $panel; color: $foreground; }"

    text: reactive[str] = reactive("")

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.style()
        return Strip([Segment(clipped(self.text, width), base)]).adjust_cell_length(width, base)


class Program(Protocol):
    """What the app does for its screens; `AprtuiApp` describes its methods."""

    config: Config

    def open_state(self, state: ScreenState) -> None: ...
    def back(self) -> None: ...
    def captures_at_hand(self) -> tuple[Path, ...]: ...


class ToolScreen(Screen[None]):
    """A screen with tabs above its body, and a line of words and the keys below.

    A subclass gives `compose_body`, `state` and `command`, and describes the focused cell by `say`. It begins as
    `state` says, and raises an `AprtuiError` if that cannot be shown.
    """

    NAME: ClassVar[ScreenName]
    EXPLANATION: ClassVar[str] = ""
    CHORDS: ClassVar[tuple[Chord, ...]] = ()
    WIDGETS: ClassVar[tuple[type[Widget], ...]] = ()
    """Widgets whose keys belong in the help of this screen."""
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(number), f"app.go('{name}')", f"{name.capitalize()} screen", show=False, id=f"go.{name}")
            for number, name in enumerate(ScreenName, 1)
        ),
        Binding("escape", "back", "Back", show=False, id="back"),
        Binding("J", "jump_to_label", "Jump: label cells or rows, type a label", show=False, id="jump"),
        Binding("y", "copy_command", "Copy the headless command", show=False, id="copy.command"),
        Binding("Y", "copy_state", "Copy a command that opens this screen", show=False, id="copy.state"),
        Binding("s", "save_picture", "Save the screen as SVG", show=False, id="save.picture"),
        Binding("T", "app.turn_theme", "Light or dark", show=False, id="theme"),
        Binding("colon,ctrl+p", "app.command_palette", "All commands", show=False, id="palette"),
        Binding("question_mark", "app.help", "Help", id="help"),
        Binding("q", "app.quit", "Quit", id="quit"),
    ]

    def __init__(self, session: Session, state: ScreenState) -> None:
        super().__init__()
        self.session = session
        self.chords = self.CHORDS
        # The keys that every screen has come last in the footer.
        shared = self._bindings.key_to_bindings
        for binding in _declared(ToolScreen):
            for key in map(key_name, binding.key.split(",")):
                shared[key] = shared.pop(key)

    @property
    def program(self) -> Program:
        return cast(Program, self.app)

    def compose(self) -> ComposeResult:
        yield TabBar(self.NAME)
        yield from self.compose_body()
        yield ReadoutLine()
        yield Footer(show_command_palette=False)

    def compose_body(self) -> Iterable[Widget]:
        raise NotImplementedError

    def state(self) -> ScreenState:
        """What is shown, so that `aprtui open` can show it again."""
        raise NotImplementedError

    def command(self) -> Sequence[str]:
        """The headless command, as words, for what is shown; empty where there is none."""
        raise NotImplementedError

    def captures(self) -> tuple[Path, ...]:
        """The captures that are on the screen, of two the reference first."""
        return ()

    @property
    def is_typing(self) -> bool:
        """Whether letters go into a text."""
        return isinstance(self.focused, Input | TextArea)

    def say(self, text: str) -> None:
        """Describe the focused cell in words."""
        self.query_one(ReadoutLine).text = text

    def detail(self, text: str) -> None:
        """Say at the top right what is shown."""
        self.query_one(TabBar).detail = text

    def on_mount(self) -> None:
        self.chords = remapped(self.CHORDS, self.program.config.keys)
        for prefix in dict.fromkeys(chord.prefix for chord in self.chords):
            self._bindings.bind(prefix, f"chord('{prefix}')", show=False, priority=True)

    def on_text_selected(self) -> None:
        """Copy the text that was selected with the mouse: ctrl+c, which copies elsewhere, leaves the app here."""
        # Widgets that draw line by line have no text that Textual could select; it would return their names.
        parts = [widget.get_selection(area) for widget, area in self.selections.items() if isinstance(widget, Static)]
        text = "".join(text + end for text, end in filter(None, parts)).rstrip()
        if text:
            self.copy_text(text)
        self.clear_selection()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In a text, the first key of a chord is a letter."""
        return not (action == "chord" and self.is_typing)

    def action_chord(self, prefix: str) -> None:
        chords = [chord for chord in self.chords if chord.prefix == prefix]
        self.app.push_screen(ChordScreen(prefix, chords), self._run_chord)

    async def _run_chord(self, typed: tuple[Chord, str] | None) -> None:
        if typed is not None:
            chord, key = typed
            await self.run_action(chord.action.replace("*", key))

    def action_jump_to_label(self) -> None:
        widget = self.focused
        if not isinstance(widget, JumpTargets) or not widget.jump_places():
            self.notify("Nothing to jump to here: grids and lists have labels.", severity="warning")
            return

        def jump(target: Hashable | None) -> None:
            if target is not None:
                widget.jump_to(target)

        self.app.push_screen(JumpScreen(widget), jump)

    def action_back(self) -> None:
        self.program.back()

    def action_copy_command(self) -> None:
        """Copy the headless command, and show it: not every terminal lets a program copy."""
        words = self.command()
        if words:
            self.copy(words)
        else:
            self.notify("Nothing here to give headless yet.", severity="warning")

    def action_copy_state(self) -> None:
        self.copy(["aprtui", "open", str(self.state())])

    def copy(self, words: Sequence[str]) -> None:
        self.copy_text(shlex.join(words))

    def copy_text(self, text: str) -> None:
        self.app.copy_to_clipboard(text)
        self.notify(text, title="Copied", markup=False, timeout=10)

    def action_save_picture(self) -> None:
        path = Path(f"aprtui-{self.NAME}-{datetime.now().astimezone():%Y%m%d-%H%M%S}.svg")
        try:
            path.write_text(picture(self.app.export_screenshot(title="aprtui")), encoding="utf-8")
        except OSError as error:
            self.notify(f"{path}: cannot be written: {error.strerror}", severity="error", markup=False)
        else:
            self.notify(str(path.absolute()), title="Saved", markup=False)

    @classmethod
    def all_bindings(cls, widgets: Iterable[type[Widget]] | None = None) -> list[Binding]:
        """The keys of the screen, of its widgets, or of those given, and of all screens, in this order."""
        own = [binding for kind in cls.__mro__ if kind is not ToolScreen for binding in _declared(kind)]
        of_widgets = [binding for kind in (cls.WIDGETS if widgets is None else widgets) for binding in _declared(kind)]
        return [*own, *of_widgets, *_declared(ToolScreen)]


def _declared(kind: type) -> Iterator[Binding]:
    """Bindings that `kind` itself declares, if it is one of ours."""
    if kind.__module__.startswith("aprtui."):
        yield from (each for each in kind.__dict__.get("BINDINGS", ()) if isinstance(each, Binding))


def picture(svg: str) -> str:
    """An exported screen without the random number in its style names: it changes only where the picture does."""
    return re.sub(r"terminal-\d+", "terminal", svg)
