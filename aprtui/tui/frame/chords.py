"""The overlay between the two keys of a chord: it lists the keys that can follow."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.widgets import Static

from aprtui.tui.frame.keymap import Chord, displayed_keys
from aprtui.tui.frame.overlay import KeyOverlay
from aprtui.tui.widgets.jump_targets import LETTERS


class ChordScreen(KeyOverlay[tuple[Chord, str]]):
    """Takes the second key of a chord; returns the chord and that key, or None for a key that no chord has.

    A chord whose second key is `*` takes any letter, as marks do.
    """

    def __init__(self, prefix: str, chords: Sequence[Chord]) -> None:
        super().__init__("take", [key for chord in chords for key in (LETTERS if chord.last == "*" else [chord.last])])
        self._prefix = prefix
        self._chords = chords

    def compose(self) -> ComposeResult:
        table, ascii_only = Table.grid(padding=(0, 2)), self.app.has_class("-ascii")
        for chord in self._chords:
            last = "a letter" if chord.last == "*" else displayed_keys(chord.last, ascii_only)
            table.add_row(Text(f"{displayed_keys(self._prefix, ascii_only)} {last}", style="bold"), chord.description)
        yield Static(table)

    def action_take(self, key: str) -> None:
        """Return the chord that the key completes."""
        self.dismiss((next(chord for chord in self._chords if chord.last in (key, "*")), key))
