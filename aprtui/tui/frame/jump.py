"""Jump mode: every cell of a grid, or row of a list, gets a label of letters; typing one puts the cursor there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style
from textual.app import ComposeResult
from textual.events import Key
from textual.screen import ModalScreen
from textual.strip import Strip
from textual.widgets import Static

from aprtui.tui.frame.chords import LETTERS

# Not a widget itself: see line_widget.
if TYPE_CHECKING:
    from textual.widget import Widget as _Base
else:
    _Base = object

LABEL_STYLE = Style(reverse=True, bold=True, color="#ffd75f", bgcolor="#000000")
"""Black on yellow, and still reversed where no colours are sent."""


@dataclass(frozen=True, slots=True)
class JumpPlace:
    """Where a label can stand: a line and a cell of the widget, so many cells wide, and what it leads to."""

    line: int
    at: int
    width: int
    target: Hashable


class JumpTargets(_Base):
    """A widget that draws line by line, and over its lines the labels that it is given.

    A subclass gives `draw_line`, `jump_places` and `jump_to`.
    """

    _labels: Mapping[int, list[tuple[int, str]]] | None = None

    def draw_line(self, y: int) -> Strip:
        """Line `y` without labels."""
        raise NotImplementedError

    def jump_places(self) -> list[JumpPlace]:
        """What can be jumped to, as far as it is in view, in the order of reading."""
        raise NotImplementedError

    def jump_to(self, target: Hashable) -> None:
        """Put the cursor on the target of a place."""
        raise NotImplementedError

    def show_labels(self, labels: Mapping[str, JumpPlace]) -> None:
        """Draw labels at their places, in place of those before."""
        lines = defaultdict(list)
        for label, place in labels.items():
            lines[place.line].append((place.at, label))
        self._labels = lines or None
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Line `y`."""
        strip = self.draw_line(y)
        if self._labels is None or y not in self._labels:
            return strip
        parts, at = [], 0
        for start, label in self._labels[y]:
            parts += [strip.crop(at, start), Strip([Segment(label, LABEL_STYLE)])]
            at = start + len(label)
        return Strip.join([*parts, strip.crop(at)])


def labelled(places: Iterable[JumpPlace]) -> dict[str, JumpPlace]:
    """A label for each place, all as long as each other, so that none begins another; none for what lacks the room."""
    places = list(places)
    length = 1
    while len(LETTERS) ** length < len(places):
        length += 1
    length = min(length, min((place.width for place in places), default=1))
    labels = ("".join(letters) for letters in product(LETTERS, repeat=length))
    return dict(zip(labels, places, strict=False))


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
