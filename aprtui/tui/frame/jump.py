"""Jump mode: every cell of a grid, or row of a list, gets a label of letters; typing one puts the cursor there."""

from __future__ import annotations

from collections.abc import Hashable

from textual.app import ComposeResult
from textual.widgets import Static

from aprtui.tui.frame.overlay import KeyOverlay
from aprtui.tui.widgets.jump_targets import LETTERS, JumpTargets, labelled


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
