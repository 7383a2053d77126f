"""The facts of the loaded model, laid out: what is unusual about it first."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from rich.console import Group
from rich.table import Table
from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from aprtui.errors import AprtuiError
from aprtui.model.facts import ModelFacts, described, model_facts
from aprtui.model.model import load_model
from aprtui.tui.widgets.text_stream import printable

TEMPLATE_LINES = 12


class ModelFactsScreen(ModalScreen[None]):
    """Shows the facts of a model file, which it reads in a thread."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,I", "dismiss", "Close", show=False),
        Binding("down,j", "scroll_by(1)", "Down", show=False),
        Binding("up,k", "scroll_by(-1)", "Up", show=False),
        Binding("pagedown,space", "scroll_by(10)", "Page down", show=False),
        Binding("pageup", "scroll_by(-10)", "Page up", show=False),
    ]
    DEFAULT_CSS = """
    ModelFactsScreen { align: center middle; }
    ModelFactsScreen > VerticalScroll {
        width: 100; max-width: 100%; height: auto; max-height: 100%; background: $surface;
    }
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="pane", can_focus=False) as box:
            box.border_title = "The model"
            box.border_subtitle = "j k scroll, escape closes"
            yield Static("Reading the model…", markup=False)

    def on_mount(self) -> None:
        self._read()

    def action_scroll_by(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)

    @work(thread=True)
    def _read(self) -> None:
        try:
            facts = model_facts(load_model(self._path))
        except (AprtuiError, OSError) as error:
            self.app.call_from_thread(self._show, Text(str(error)))
        else:
            self.app.call_from_thread(self._show, laid_out(facts))

    def _show(self, content: Text | Group) -> None:
        if self.is_mounted:
            self.query_one(Static).update(content)


def laid_out(facts: ModelFacts) -> Group:
    """All facts as a table, with what is unusual above it and the beginning of the chat template below."""
    parts: list[Text | Table] = []
    if facts.unusual:
        parts.append(Text("Unusual", style="bold"))
        unusual = Table.grid(padding=(0, 1))
        for sentence in facts.unusual:
            unusual.add_row("•", sentence)
        parts += [unusual, Text("")]
    table = Table.grid(padding=(0, 2))
    for name, words in described(facts):
        table.add_row(Text(name, style="dim"), printable(words))
    parts.append(table)
    if facts.template is not None:
        lines = facts.template.splitlines()
        more = f", the first {TEMPLATE_LINES} of {len(lines)} lines" if len(lines) > TEMPLATE_LINES else ""
        parts += [Text(""), Text(f"Chat template{more}", style="bold")]
        parts += [Text(printable(line), overflow="ellipsis", no_wrap=True) for line in lines[:TEMPLATE_LINES]]
    return Group(*parts)
