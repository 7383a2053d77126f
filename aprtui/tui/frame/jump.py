"""Jump mode: every cell of a grid, or row of a list, gets a label of letters; typing one puts the cursor there."""

from __future__ import annotations

from collections.abc import Hashable

from textual.app import ComposeResult
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Static

from aprtui.tui.widgets.jump_targets import LETTERS, JumpTargets, labelled


class JumpScreen(ModalScreen[Hashable | None]):
    """Takes the letters of a label; gives the target that it stands at, or None."""

    DEFAULT_CSS = """
    JumpScreen { align: left bottom; background: transparent; }
    JumpScreen > Static { width: 100%; height: 1; background: $panel; color: $foreground; padding: 0 1; }
    """

    def __init__(self, widget: JumpTargets) -> None:
        super().__init__()
        self._widget = widget
        self._labels = labelled(widget.jump_places())
        self._typed = ""
        for letter in LETTERS:
            self._bindings.bind(letter, f"type('{letter}')", show=False, priority=True)
        self._bindings.bind("backspace", "rub_out", show=False, priority=True)
        self._bindings.bind("escape", "leave", show=False, priority=True)

    def compose(self) -> ComposeResult:
        """What to do."""
        yield Static("Type a label to go there; escape stays.", markup=False)

    def on_mount(self) -> None:
        """Show all labels."""
        self._show()

    def on_unmount(self) -> None:
        """Labels end with the screen."""
        self._widget.show_labels({})

    def action_type(self, letter: str) -> None:
        """One more letter; one that no label has is not meant: it must not become a command either."""
        typed = self._typed + letter
        if typed in self._labels:
            self.dismiss(self._labels[typed].target)
        elif any(label.startswith(typed) for label in self._labels):
            self._typed = typed
            self._show()

    def action_rub_out(self) -> None:
        """Take the last letter back."""
        self._typed = self._typed[:-1]
        self._show()

    def action_leave(self) -> None:
        """Stay where the cursor is."""
        self.dismiss(None)

    def on_key(self, event: Key) -> None:
        """Any other key leaves, and is no command of the screen below."""
        event.stop()
        event.prevent_default()
        self.dismiss(None)

    def _show(self) -> None:
        found = {label: place for label, place in self._labels.items() if label.startswith(self._typed)}
        self._widget.show_labels(found)
