"""Jump labels: letters over the cells of a grid or the rows of a list, each of which leads to a place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from aprtui.tui.widgets.line_widget import LineWidget

LETTERS = "abcdefghijklmnopqrstuvwxyz"

LABEL_STYLE = Style(reverse=True, bold=True, color="#ffd75f", bgcolor="#000000")
"""Black on yellow; reversed, so that it stands out without colours too."""


@dataclass(frozen=True, slots=True)
class JumpPlace:
    """Where a label can stand: a line and a cell of the widget, so many cells wide, and what it leads to."""

    line: int
    at: int
    width: int
    target: Hashable


class JumpTargets(LineWidget):
    """A widget that draws the labels it is given over its lines.

    A subclass gives `draw_line`, `jump_places` and `jump_to`.
    """

    _labels: Mapping[int, list[tuple[int, str]]] | None = None

    def draw_line(self, y: int) -> Strip:
        """Line `y` without labels."""
        raise NotImplementedError

    def jump_places(self) -> list[JumpPlace]:
        """The places in view that can be jumped to, in reading order."""
        raise NotImplementedError

    def jump_to(self, target: Hashable) -> None:
        """Put the cursor on the target of a place."""
        raise NotImplementedError

    def show_labels(self, labels: Mapping[str, JumpPlace]) -> None:
        lines = defaultdict(list)
        for label, place in labels.items():
            lines[place.line].append((place.at, label))
        self._labels = lines or None
        self.refresh()

    def render_line(self, y: int) -> Strip:
        strip = self.draw_line(y)
        if self._labels is None or y not in self._labels:
            return strip
        parts, at = [], 0
        for start, label in self._labels[y]:
            parts += [strip.crop(at, start), Strip([Segment(label, LABEL_STYLE)])]
            at = start + len(label)
        return Strip.join([*parts, strip.crop(at)])


def labelled(places: Iterable[JumpPlace]) -> dict[str, JumpPlace]:
    """A label for each place, all of the same length, so that none begins another; places without room get none."""
    places = list(places)
    length = 1
    while len(LETTERS) ** length < len(places):
        length += 1
    length = min(length, min((place.width for place in places), default=1))
    labels = ("".join(letters) for letters in product(LETTERS, repeat=length))
    return dict(zip(labels, places, strict=False))
