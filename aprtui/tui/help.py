"""Help, made from the bindings themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.keys import format_key
from textual.screen import ModalScreen
from textual.widgets import Static


def shown_keys(binding: Binding) -> str:
    """The keys of a binding as a person calls them."""
    return " ".join(format_key(key) for key in binding.key.split(","))


class HelpScreen(ModalScreen[None]):
    """Shows keys and an explanation over the screen that asked for it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark", "dismiss", "Close help")]
    DEFAULT_CSS = """
    HelpScreen { align: center middle; }
    HelpScreen > VerticalScroll {
        width: 76; max-width: 100%; height: auto; max-height: 100%;
        border: round $border; background: $surface; padding: 0 1; scrollbar-size-vertical: 1;
    }
    """

    def __init__(self, title: str, explanation: str, bindings: Iterable[BindingType]) -> None:
        super().__init__()
        self._title = title
        self._explanation = explanation
        self._bindings_shown = [binding for binding in bindings if isinstance(binding, Binding)]

    def compose(self) -> ComposeResult:
        """Explanation above, keys below."""
        with VerticalScroll() as box:
            box.border_title = self._title
            box.border_subtitle = "escape closes"
            yield Static(self._explanation)
            yield Static(self._keys())

    def _keys(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for binding in self._bindings_shown:
            table.add_row(Text(shown_keys(binding), style="bold"), binding.description)
        return table
