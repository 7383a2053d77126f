"""Help, made from the bindings themselves."""

from __future__ import annotations

from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from aprtui.tui.frame.keymap import displayed_keys
from aprtui.tui.frame.tool_screen import ToolScreen


class HelpScreen(ModalScreen[None]):
    """Shows an explanation of a screen and its keys; a configuration remaps keys by the ids."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark", "dismiss", "Close help"),
        Binding("down,j", "scroll_by(1)", "Down", show=False),
        Binding("up,k", "scroll_by(-1)", "Up", show=False),
        Binding("pagedown,space", "scroll_by(10)", "Page down", show=False),
        Binding("pageup", "scroll_by(-10)", "Page up", show=False),
    ]
    DEFAULT_CSS = """
    HelpScreen { align: center middle; }
    HelpScreen > VerticalScroll {
        width: 76; max-width: 100%; height: auto; max-height: 100%; background: $surface;
    }
    """

    def __init__(self, screen: ToolScreen) -> None:
        super().__init__()
        self._explained = screen

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="pane", can_focus=False) as box:
            box.border_title = self._explained.NAME.capitalize()
            box.border_subtitle = "j k scroll, escape closes"
            yield Static(self._explained.EXPLANATION, markup=False)
            yield Static(self._keys())

    def action_scroll_by(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)

    def _keys(self) -> Table:
        table = Table.grid(padding=(0, 2))
        remapped = self.app._keymap  # noqa: SLF001 - Textual has no other way to ask for it
        ascii_only = self.app.has_class("-ascii")
        rows = [
            (remapped.get(binding.id or "", binding.key), binding.description, binding.id)
            for binding in self._explained.all_bindings()
        ]
        rows += [(chord.keys, chord.description, chord.id) for chord in self._explained.chords]
        for keys, description, name in rows:
            words = Text(displayed_keys(keys, ascii_only), style="bold")
            table.add_row(words, description, Text(name or "", style="dim"))
        return table
