"""The end of the tour: how captures come out of the user's own engine, with a key for each to copy."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from aprtui.tui.tour.steps import OWN_ENGINES


class OwnEngineScreen(ModalScreen[None]):
    """The commands for several engines; their keys copy them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Leave", priority=True),
        *(
            Binding(engine.key, f"copy({number})", f"Copy what {engine.name} needs", priority=True)
            for number, engine in enumerate(OWN_ENGINES)
        ),
    ]
    DEFAULT_CSS = """
    OwnEngineScreen { align: center middle; }
    OwnEngineScreen > Vertical { width: 84; max-width: 100%; height: auto; max-height: 100%; }
    OwnEngineScreen Static { height: auto; }
    OwnEngineScreen #copied { color: $success; margin-top: 1; }
    """

    def compose(self) -> ComposeResult:
        with Vertical(classes="pane") as box:
            box.border_title = "On your own engine"
            box.border_subtitle = "a letter copies, escape leaves"
            yield Static(own_engine_text())
            yield Static("", id="copied", markup=False)

    def action_copy(self, number: int) -> None:
        engine = OWN_ENGINES[number]
        self.app.copy_to_clipboard("\n".join(engine.lines))
        self.query_one("#copied", Static).update(f"Copied: {engine.name}.")

    def action_leave(self) -> None:
        self.dismiss(None)


def own_engine_text() -> Text:
    """The engines with their keys, commands and pages."""
    text = Text()
    for number, engine in enumerate(OWN_ENGINES):
        text.append("\n" if number else "")
        text.append(f" {engine.key} ", style="bold reverse")
        text.append(f" {engine.name}", style="bold")
        text.append(f"  {engine.page}\n", style="dim")
        for line in engine.lines:
            text.append(f"    {line}\n")
    text.rstrip()
    return text
