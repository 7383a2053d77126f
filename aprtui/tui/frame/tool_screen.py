"""The base of all screens: what stands around each of them, and what each can do."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

from rich.cells import cell_len
from rich.segment import Segment
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.reactive import reactive
from textual.screen import Screen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input, Static, TextArea

from aprtui.config import Config
from aprtui.tui.draw.text import clipped, clipped_start, padded
from aprtui.tui.frame.commands import SCREEN_BINDINGS, SHARED_BINDINGS, declared_bindings
from aprtui.tui.frame.key_line import KeyLine
from aprtui.tui.frame.keymap import Chord, remapped
from aprtui.tui.frame.overlay import ChordScreen, JumpScreen
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import UNTABBED, ScreenName, ScreenState
from aprtui.tui.widgets.jump_targets import JumpTargets
from aprtui.tui.widgets.line_widget import LineWidget

MOST_SHOWN = 400
"""Characters of a copied text that are shown: token ids of a conversation would cover the screen."""

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
        for number, name in self._tabs():
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

    def _tabs(self) -> Iterable[tuple[int, ScreenName]]:
        """The screens that have a tab now, with their keys."""
        named = enumerate(ScreenName, 1)
        return ((number, name) for number, name in named if name is self._current or name not in UNTABBED)

    async def on_click(self, event: Click) -> None:
        at = 8  # behind the padding and the program's name
        for _, name in self._tabs():
            width = len(f" 1 {name} ")
            if at <= event.x - 1 < at + width:
                await self.run_action(f"app.go('{name}')")
            at += width + 1


@dataclass(frozen=True, slots=True)
class Notice:
    """What the app tells the user, in one line: the answer to a key that could not be done, or what was done."""

    text: str
    severity: str


class ReadoutLine(LineWidget):
    """One line that describes the focused cell in plain words: for screen readers, logs, and screens without colour.

    A notice of the app stands in its place until the next key.
    """

    PREFIX = "readout-line"
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"readout-line--{severity}" for severity in ("information", "warning", "error")
    }
    DEFAULT_CSS = """
    ReadoutLine {
        height: 1; padding: 0 1; background: $panel; color: $foreground;
        .readout-line--information { color: $foreground; text-style: bold; }
        .readout-line--warning { color: $warning; text-style: bold; }
        .readout-line--error { color: $error; text-style: bold; }
    }
    """

    text: reactive[str] = reactive("")

    def render_line(self, y: int) -> Strip:
        width, notice = self.size.width, cast(Program, self.app).notice
        text, style = (self.text, self.style()) if notice is None else (notice.text, self.style(notice.severity))
        return Strip([Segment(clipped(text, width), style)]).adjust_cell_length(width, self.style())


class Program(Protocol):
    """What the app does for its screens; `AprtuiApp` describes its methods."""

    config: Config
    notice: Notice | None

    def open_state(self, state: ScreenState) -> None: ...
    def back(self) -> None: ...
    def captures_at_hand(self) -> tuple[Path, ...]: ...
    def guide(self) -> Iterable[Widget]: ...


class ToolScreen(Screen[None]):
    """A screen with tabs above its body, and a line of words and the keys below.

    A subclass gives `compose_body`, `state` and `command`, and describes the focused cell by `say`. It begins as
    `state` says, and raises an `AprtuiError` if that cannot be shown.
    """

    NAME: ClassVar[ScreenName]
    EXPLANATION: ClassVar[str] = ""
    SIGNS: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Glyphs and colours of the screen, with what they mean, for the help."""
    CHORDS: ClassVar[tuple[Chord, ...]] = ()
    WIDGETS: ClassVar[tuple[type[Widget], ...]] = ()
    """Widgets whose keys belong in the help of this screen."""
    BINDINGS: ClassVar[list[BindingType]] = [*SHARED_BINDINGS, *SCREEN_BINDINGS]

    def __init__(self, session: Session, state: ScreenState) -> None:
        super().__init__()
        self.session = session
        self._zoomed: Widget | None = None
        self.chords = self.CHORDS
        self.left_out: Collection[str] = ()
        """Commands, by their ids in the help, that cannot be done now: they say so, and no line of keys offers them."""
        self.is_replaced = False
        """Whether another screen has taken its place, while Textual has still to remove it."""
        self.failure = ""
        """What its engine last failed with; empty if it has not, or there is none."""

    @property
    def program(self) -> Program:
        return cast(Program, self.app)

    def compose(self) -> ComposeResult:
        yield TabBar(self.NAME)
        yield from self.program.guide()
        yield from self.compose_body()
        yield ReadoutLine()
        yield KeyLine()

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

    def on_screen_resume(self) -> None:
        """Show the notice of the app, which may have been made on another screen."""
        self.show_notice()

    def show_notice(self) -> None:
        for line in self.query(ReadoutLine):  # none while the screen is being built
            line.refresh()

    def has_room_for(self, text: str) -> bool:
        """Whether `text` can stand where the focused cell is described."""
        return "\n" not in text and cell_len(text) <= self.size.width - 2

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

    def call_after_refresh(self, callback: Callable[..., object], *args: Any, **kwargs: Any) -> bool:
        """Call back once the screen was drawn, unless it has gone by then."""
        return super().call_after_refresh(lambda: callback(*args, **kwargs) if self.display else None)

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

    def action_zoom_pane(self) -> None:
        """Show the focused pane alone between the lines at the top and the bottom, or all panes again."""
        pane = None if self._zoomed is not None else pane_of(self.focused)
        if self._zoomed is None and pane is None:
            self.notify("Go to a pane first: tab.", severity="warning")
        self.zoom_pane(pane)

    def zoom_pane(self, pane: Widget | None) -> None:
        """Show `pane` alone; None shows all panes again."""
        for widget in self.query(".-zoomed, .-around-zoomed, .-behind-zoomed"):
            widget.remove_class("-zoomed", "-around-zoomed", "-behind-zoomed")
        self._zoomed = pane
        inner = pane
        while inner is not None and inner is not self:
            inner.add_class("-zoomed" if inner is pane else "-around-zoomed")
            around = cast(Widget, inner.parent)
            for other in around.children:
                if other is not inner and (around is not self or other.has_class("pane") or other.query(".pane")):
                    other.add_class("-behind-zoomed")
            inner = around

    def set_focus(self, widget: Widget | None, *args: Any, **options: Any) -> None:
        """Focus a widget; while a pane is zoomed and the widget stands in another one, that one is zoomed instead."""
        pane = pane_of(widget)
        if self._zoomed is None or pane is None or pane is self._zoomed:
            super().set_focus(widget, *args, **options)
            return
        self.zoom_pane(pane)
        # A widget that is not displayed takes no focus, and styles follow their classes a frame later.
        self.call_after_refresh(super().set_focus, widget, *args, **options)

    def action_leave(self) -> None:
        """Show all panes again while one is zoomed, else go back."""
        if self._zoomed is not None:
            self.zoom_pane(None)
        else:
            self.action_back()

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
        self.app.copy_to_clipboard(text.encode(errors="backslashreplace").decode())
        shown = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}… ({len(text)} characters)"
        self.notify(shown, title="Copied")

    def action_save_picture(self) -> None:
        path = Path(f"aprtui-{self.NAME}-{datetime.now().astimezone():%Y%m%d-%H%M%S}.svg")
        try:
            path.write_text(picture(self.app.export_screenshot(title="aprtui")), encoding="utf-8")
        except OSError as error:
            self.notify(f"{path}: cannot be written: {error.strerror}", severity="error")
        else:
            self.notify(str(path.absolute()), title="Saved")

    @classmethod
    def all_bindings(cls, widgets: Iterable[type[Widget]] | None = None) -> list[Binding]:
        """The keys of the screen, of its widgets, or of those given, and of all screens, in this order."""
        own = [binding for kind in cls.__mro__ if kind is not ToolScreen for binding in declared_bindings(kind)]
        kinds = cls.WIDGETS if widgets is None else widgets
        of_widgets = [binding for kind in kinds for binding in declared_bindings(kind)]
        return [*own, *of_widgets, *declared_bindings(ToolScreen)]


def pane_of(widget: Widget | None) -> Widget | None:
    """The pane that `widget` is or stands in; None where it is in none."""
    around = () if widget is None else widget.ancestors_with_self
    return next((each for each in around if isinstance(each, Widget) and each.has_class("pane")), None)


def picture(svg: str) -> str:
    """An exported screen without the random number in its style names: it changes only where the picture does."""
    return re.sub(r"terminal-\d+", "terminal", svg)
