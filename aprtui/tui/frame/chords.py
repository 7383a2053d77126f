"""What stands over a screen between the two keys of a chord: the keys that can follow, as a reminder."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Static

from aprtui.tui.frame.keymap import Chord, shown_keys
from aprtui.tui.widgets.jump_targets import LETTERS


class ChordScreen(ModalScreen[tuple[Chord, str] | None]):
    """Takes the second key of a chord; gives the chord and that key, or None for a key that no chord has.

    A chord whose second key is `*` takes any letter, as marks do.
    """

    DEFAULT_CSS = """
    ChordScreen { align: left bottom; background: transparent; }
    ChordScreen > Static {
        width: 100%; height: auto; max-height: 60%; background: $panel; color: $foreground; padding: 0 1;
    }
    """

    def __init__(self, prefix: str, chords: Sequence[Chord]) -> None:
        super().__init__()
        self._prefix = prefix
        self._chords = chords
        for chord in chords:
            for key in LETTERS if chord.last == "*" else [chord.last]:
                self._bindings.bind(key, f"take('{key}')", show=False, priority=True)
        self._bindings.bind("escape", "leave", show=False, priority=True)

    def compose(self) -> ComposeResult:
        """A line for each chord."""
        table, ascii_only = Table.grid(padding=(0, 2)), self.app.has_class("-ascii")
        for chord in self._chords:
            last = "a letter" if chord.last == "*" else shown_keys(chord.last, ascii_only)
            table.add_row(Text(f"{shown_keys(self._prefix, ascii_only)} {last}", style="bold"), chord.description)
        yield Static(table)

    def action_take(self, key: str) -> None:
        """A key that completes a chord."""
        self.dismiss((next(chord for chord in self._chords if chord.last in (key, "*")), key))

    def action_leave(self) -> None:
        """No chord after all."""
        self.dismiss(None)

    def on_key(self, event: Key) -> None:
        """Any other key leaves, and is no command of the screen below."""
        event.stop()
        event.prevent_default()
        self.dismiss(None)
