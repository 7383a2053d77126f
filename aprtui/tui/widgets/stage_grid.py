"""The stage grid: layers × stages of one pass, and a cursor on one of them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.cache import LRUCache
from textual.events import Resize
from textual.strip import Strip

from aprtui.trace.graph import Node, StageGraph
from aprtui.tui.draw.colours import LEVELS, glyph, level_styles
from aprtui.tui.draw.figures import Figures, grid_tile
from aprtui.tui.draw.grid_layout import GridLayout, grid_layout
from aprtui.tui.draw.text import SEPARATOR
from aprtui.tui.widgets.layer_grid import LABEL, LayerGrid
from aprtui.tui.widgets.moves import MOVES, PAGES

CACHED_STRIPS = 512

LEGEND = 8
"""Colours in the legend, two cells each."""


class StageGrid(LayerGrid, can_focus=True):
    """Draws one line of cells a layer, and above and below them the stages that the model has once."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1, 0)", "Layer before", show=False, group=MOVES),
        Binding("down,j", "move(1, 0)", "Layer after", show=False, group=MOVES),
        Binding("left,h", "move(0, -1)", "Stage before", show=False, group=MOVES),
        Binding("right,l", "move(0, 1)", "Stage after", show=False, group=MOVES),
        Binding("pageup", "move(-10, 0)", "Ten layers up", show=False, group=PAGES),
        Binding("pagedown", "move(10, 0)", "Ten layers down", show=False, group=PAGES),
    ]
    DEFAULT_CSS = "StageGrid:nocolor .layer-grid--other-label { text-style: dim; }"
    LINES_ABOVE = 1

    class Pointed(LayerGrid.Pointed):
        """The cursor stands on another stage, or its numbers have changed."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._graph: StageGraph | None = None
        self._layout: GridLayout | None = None
        self._figures: Figures | None = None
        self._tile: NDArray[np.uint8] | None = None
        self._first_bad = ""
        self._version = 0
        self._strips: LRUCache[tuple[int, int, int, int | None], Strip] = LRUCache(CACHED_STRIPS)
        self._level_styles: list[Style] = []

    @property
    def graph(self) -> StageGraph | None:
        return self._graph

    def open_graph(self, graph: StageGraph, node: Node | None = None) -> None:
        """Take the rows and columns from `graph`, with the cursor on `node`; nothing is known about its stages yet."""
        self._graph, self._layout = graph, grid_layout(graph)
        self._figures, self._tile, self._first_bad = None, None, ""
        self._version += 1
        columns = [stage.name for stage in self._layout.stages]
        self.set_shape(columns, self._layout.groups, range(len(self._layout.rows)))
        self._cursor, self._column, self._first_row = Node(0, columns[0]), 0, 0
        if node is not None:
            self.put_cursor(node)
        self.refresh(layout=True)

    def show(self, figures: Figures, first_bad: str = "", *, notify: bool = True) -> None:
        """Draw `figures`; `first_bad` names the first node that holds NaN or Inf, wherever it is.

        A caller that describes the cell itself passes `notify=False`: the effect of a message comes a frame later.
        """
        if self._figures is None or figures.statistic is not self._figures.statistic:
            self._level_styles = []
        self._figures, self._first_bad = figures, first_bad
        self._tile = None if self._layout is None else grid_tile(self._layout, figures)
        self._version += 1
        self.update_subtitle()
        if notify:
            self.post_message(self.Pointed())
        self.refresh()

    def on_resize(self, event: Resize) -> None:
        """Announce the cursor again: the words about it may have more or less room."""
        if self._graph is not None:
            self.post_message(self.Pointed())

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._version += 1
        self._level_styles.clear()

    def lines_below(self, width: int) -> int:
        return 1

    def draw_above(self, line: int) -> Strip:
        return Strip(self._model_segments(before=True, after=False))

    def draw_below(self, line: int) -> Strip:
        """The stages after the layers, and those before them where they have no line of their own; the legend."""
        has_line_above = self._lines.top > len(self._lines.head)
        return self._with_legend(self._model_segments(before=not has_line_above, after=True), self.size.width)

    def draw_row(self, row: int) -> Strip:
        """The cells of a layer, cached until its numbers, its width or its cursor change."""
        width = self._lines.size.width
        on_row = self._cursor is not None and self._cursor.layer == row and self.has_focus
        cursor = self._column if on_row else None
        key = (row, self._version, width, cursor)
        if key not in self._strips:
            cell = self._cell_width(width)
            used = LABEL + len(self._columns) * cell + len(self._groups) - 1
            # The length is known: measuring it again would cost a tenth of the frame.
            blank = Segment(" " * (width - used), self.style())
            self._strips[key] = Strip([*self._layer_segments(row, cell, cursor), blank], width)
        return self._strips[key]

    def view_words(self, first: int, last: int) -> str:
        view = f"{self._row_count} layers"
        if last - first + 1 < self._row_count:
            view = f"layers {first}–{last} of {view}, more with ↑ ↓"
        return f"[b $error]{self._first_bad}[/]  {view}" if self._first_bad else view

    def _draw_head(self, width: int) -> list[Strip]:
        """Names of groups and stages; the groups share the first row of the stages where their names find room."""
        rows = self._header_segments(width)
        if not rows or any(len(name) >= room for name, room in self._room_for_groups(rows[0])):
            return super()._draw_head(width)
        return [Strip(self._header_line(row)) for row in (self._with_groups(rows[0]), *rows[1:])]

    def _room_for_groups(self, headers: list[Segment]) -> list[tuple[str, int]]:
        """Each group's name, and the cells before its first text in a row of headers."""
        found = []
        for (name, members), cells in zip(self._groups, self._by_group(headers), strict=True):
            blank = next((number for number, cell in enumerate(cells) if cell.text.strip()), members)
            found.append((name, sum(len(cell.text) for cell in cells[:blank])))
        return found

    def _with_groups(self, headers: list[Segment]) -> list[Segment]:
        """A row of headers with the group names in front, `─` up to the first text of each group."""
        merged: list[Segment] = []
        for (name, room), cells in zip(self._room_for_groups(headers), self._by_group(headers), strict=True):
            line = f"{name} ".ljust(room - 1, "─") + " "
            for cell in cells:
                merged.append(Segment(line[: len(cell.text)], self.style("group")) if line else cell)
                line = line[len(cell.text) :]
        return merged

    def _layer_segments(self, layer: int, width: int, cursor: int | None) -> list[Segment]:
        base = self.style()
        styles = self._styles_of_levels()
        if self._layout is None or self._figures is None or self._tile is None:
            segments = [Segment("·".center(width), base + Style(dim=True))] * len(self._columns)
        else:
            levels = self._tile[layer].tolist()
            texts = self._cells(self._figures, self._layout, layer, levels, width)
            segments = [Segment(text, styles[level]) for text, level in zip(texts, levels, strict=True)]
        if cursor is not None:
            text, style = segments[cursor].text, segments[cursor].style
            segments[cursor] = Segment(text, (style or base) + self.cursor_style)
        return self._separated(f"{layer:>{LABEL - 1}} ", self._by_group(segments))

    def _styles_of_levels(self) -> list[Style]:
        if not self._level_styles:
            base = self.style()
            maps = () if self._figures is None else (self._figures.statistic.colour_map,)
            self._level_styles = [base + style for style in level_styles(*maps, dark=self.dark)]
        return self._level_styles

    def _cells(self, figures: Figures, layout: GridLayout, layer: int, levels: list[int], width: int) -> list[str]:
        """Texts of a row; glyphs stand in where there is no room for numbers. Signs need no blank between."""
        if width < 4:
            return [glyph(level).center(width) for level in levels]
        blank = "" if width == 4 and figures.statistic.is_signed else " "
        room = width - len(blank)
        return [
            (figures.text(node, room) if node >= 0 else "·").rjust(room) + blank for node in layout.rows[layer].tolist()
        ]

    def _model_segments(self, *, before: bool, after: bool) -> list[Segment]:
        """The stages that the model has once, those before the layers, those after them, or all."""
        assert self._layout is not None
        text = model_strip(self._layout, self._figures, before=before, after=after)
        return [Segment(text[:LABEL], self.style("group")), Segment(text[LABEL:], self.style("label"))]

    def _with_legend(self, segments: list[Segment], width: int) -> Strip:
        """What the ends of the colours mean, at the right, where there is room."""
        low, high = ("", "") if self._figures is None else self._figures.statistic.ends
        used = sum(len(segment.text) for segment in segments)
        room = width - used - len(low) - len(high) - 2 - 2 * LEGEND
        if not low or room < 2 or self.plain:
            return Strip(segments)
        styles, group = self._styles_of_levels(), self.style("group")
        steps = [Segment("  ", styles[step * (LEVELS - 1) // (LEGEND - 1)]) for step in range(LEGEND)]
        ends = [Segment(" " * room + low + " ", group), *steps, Segment(" " + high, group)]
        return Strip([*segments, *ends])


def model_strip(layout: GridLayout, figures: Figures | None, *, before: bool, after: bool) -> str:
    """The figures of the stages that the model has once: those `before` its layers, and those `after` them."""
    last = layout.rows.max(initial=0)
    fields = [
        f"{node.stage} {'·' if figures is None else figures.text(row, 6)}"
        for node, row in zip(layout.model_nodes, layout.model_rows.tolist(), strict=True)
        if (before if row < last else after)
    ]
    return SEPARATOR.join(["    " + fields[0], *fields[1:]]) if fields else ""
