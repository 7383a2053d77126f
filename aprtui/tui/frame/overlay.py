"""What stands over a screen while it waits for keys: the second key of a chord, or the label to jump to."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Static

from aprtui.tui.frame.keymap import Chord, displayed_keys
from aprtui.tui.widgets.jump_targets import LETTERS, JumpTargets, labelled

Result = TypeVar("Result")


class KeyOverlay(ModalScreen[Result | None]):
    """Takes keys for one action; any other key leaves with None, and is no command of the screen below."""

    DEFAULT_CSS = """
    KeyOverlay { align: left bottom; background: transparent; }
    KeyOverlay > Static {
        width: 100%; height: auto; max-height: 60%; background: $panel; color: $foreground; padding: 0 1;
    }
    """

    def __init__(self, action: str, keys: Iterable[str]) -> None:
        super().__init__()
        for key in keys:
            self._bindings.bind(key, f"{action}('{key}')", show=False, priority=True)
        self._bindings.bind("escape", "leave", show=False, priority=True)

    def action_leave(self) -> None:
        self.dismiss(None)

    def on_key(self, event: Key) -> None:
        event.stop()
        event.prevent_default()
        self.dismiss(None)


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
        self.dismiss((next(chord for chord in self._chords if chord.last in (key, "*")), key))


class JumpScreen(KeyOverlay[Hashable]):
    """Takes the letters of a label; returns the target that it stands at, or None."""

    DEFAULT_CSS = "JumpScreen > Static { height: 1; }"

    def __init__(self, widget: JumpTargets) -> None:
        super().__init__("type", LETTERS)
        self._widget = widget
        self._labels = labelled(widget.jump_places())
        self._typed = ""
        self._bindings.bind("backspace", "delete_letter", show=False, priority=True)

    def compose(self) -> ComposeResult:
        yield Static("Type a label to go there; escape stays.", markup=False)

    def on_mount(self) -> None:
        self._show()

    def on_unmount(self) -> None:
        self._widget.show_labels({})

    def action_type(self, letter: str) -> None:
        """Take a letter; one that no label has is ignored, and is no command either."""
        typed = self._typed + letter
        if typed in self._labels:
            self.dismiss(self._labels[typed].target)
        elif any(label.startswith(typed) for label in self._labels):
            self._typed = typed
            self._show()

    def action_delete_letter(self) -> None:
        self._typed = self._typed[:-1]
        self._show()

    def _show(self) -> None:
        possible = {label: place for label, place in self._labels.items() if label.startswith(self._typed)}
        self._widget.show_labels(possible)
