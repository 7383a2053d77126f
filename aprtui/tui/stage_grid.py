"""The stage grid: layers × stages of one pass, and a cursor on one of them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click, MouseScrollDown, MouseScrollUp, Resize
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from aprtui.trace.graph import Node, StageGraph
from aprtui.tui.levels import GridLayout, Mark, cell_text, first_nonfinite, glyph, grid_layout, tile
from aprtui.tui.palette import level_styles
from aprtui.tui.readout import model_strip
from aprtui.tui.stage_header import header_rows

LABEL = 4
"""Cells of the layer numbers, with the space after them."""

WIDEST = 9
"""Cells are never wider: the eye has to compare them."""

NARROWEST = 2

CURSOR = Style(reverse=True, bold=True, color="#ffffff", bgcolor="#000000")
"""The cell under the cursor: black on white, and still reversed where no colours are sent."""


class StageGrid(Widget, can_focus=True):
    """Draws one line of cells a layer; rows beyond its height scroll with the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1, 0)", "Layer before", show=False),
        Binding("down,j", "move(1, 0)", "Layer after", show=False),
        Binding("left,h", "move(0, -1)", "Stage before", show=False),
        Binding("right,l", "move(0, 1)", "Stage after", show=False),
        Binding("pageup", "move(-10, 0)", "Ten layers up", show=False),
        Binding("pagedown", "move(10, 0)", "Ten layers down", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"stage-grid--{name}" for name in ("label", "other-label", "group", "cursor-label")
    }
    DEFAULT_CSS = """
    StageGrid {
        .stage-grid--label { color: $foreground; }
        .stage-grid--other-label { color: $text-muted; }
        .stage-grid--group { color: $text-muted; }
        .stage-grid--cursor-label { color: $accent; text-style: bold underline; }
        &:nocolor .stage-grid--other-label { text-style: dim; }
    }
    """

    cursor: reactive[tuple[int, int]] = reactive((0, 0))
    """Layer and column of the cell that is put into words."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._graph: StageGraph | None = None
        self._layout: GridLayout | None = None
        self._stats: NDArray[np.void] | None = None
        self._tile: NDArray[np.uint8] | None = None
        self._first_row = 0
        self._head: list[Strip] | None = None
        self._styles_of: dict[str, Style] = {}
        self._level_styles: list[Style] = []

    class Pointed(Message):
        """The cursor stands on another node, or its numbers have changed."""

    @property
    def graph(self) -> StageGraph | None:
        """The graph whose stages are shown."""
        return self._graph

    @property
    def node(self) -> Node | None:
        """The node under the cursor."""
        if self._layout is None:
            return None
        layer, column = self.cursor
        return Node(layer, self._layout.stages[column].name)

    def open_graph(self, graph: StageGraph) -> None:
        """Take the rows and columns from `graph`; nothing is known about its stages yet."""
        self._graph, self._layout = graph, grid_layout(graph)
        self._stats, self._tile = None, None
        self.cursor, self._first_row = (0, 0), 0
        self._head = None
        self.refresh(layout=True)

    def show(self, stats: NDArray[np.void] | None) -> None:
        """Draw `stats` `[nodes]`, or the empty grid."""
        self._stats = stats
        self._tile = None if stats is None or self._layout is None else tile(self._layout, stats)
        self.border_subtitle = self._subtitle()
        self.post_message(self.Pointed())
        self.refresh()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """All layers, their header, and the strip of the model's own stages."""
        if self._layout is None or self._cell_width(width) < NARROWEST:
            return 3
        names = [stage.name for stage in self._layout.stages]
        return 1 + len(header_rows(names, self._cell_width(width))) + self._layout.layers + 1

    def render_line(self, y: int) -> Strip:
        """Line `y`: header, layers, model strip."""
        width, height, base = self.size.width, self.size.height, self._style("")
        strip = Strip.blank(width, base)
        if self._layout is None or self._graph is None:
            return strip
        if self._cell_width(width) < NARROWEST:
            needed = LABEL + NARROWEST * self._layout.columns + len(self._layout.groups)
            message = f"the grid needs {needed} columns, there are {width}"
            return Strip([Segment(message, base)]).adjust_cell_length(width, base) if y == 0 else strip
        head = self._head_strips(self._layout)
        layer = self._first_row + y - len(head)
        if y < len(head):
            strip = head[y]
        elif y == height - 1:
            strip = Strip([Segment(model_strip(self._layout, self._stats, width), self._style("label"))])
        elif layer < self._layout.layers:
            strip = Strip(self._layer_segments(self._layout, layer))
        return strip.adjust_cell_length(width, base)

    def action_move(self, layers: int, columns: int) -> None:
        """Move the cursor, within the grid."""
        if self._layout is not None:
            self._put_cursor(self.cursor[0] + layers, self.cursor[1] + columns)

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        """The wheel moves by layers."""
        self.action_move(1, 0)

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        """The wheel moves by layers."""
        self.action_move(-1, 0)

    def on_click(self, event: Click) -> None:
        """A click puts the cursor under the mouse."""
        offset = event.get_content_offset(self)
        if offset is None or self._layout is None:
            return
        row = offset.y - len(self._head_strips(self._layout))
        if 0 <= row < self._rows_in_view(self._layout):
            starts = self._column_starts(self._layout)
            column = max((index for index, start in enumerate(starts) if start <= offset.x), default=0)
            self._put_cursor(self._first_row + row, column)

    def on_resize(self, event: Resize) -> None:
        """Headers are wrapped for the new width."""
        self._head = None
        self._put_cursor(*self.cursor)

    def watch_cursor(self) -> None:
        """The column header is marked, too."""
        self._head = None

    def _put_cursor(self, layer: int, column: int) -> None:
        if self._layout is None:
            return
        layer = min(max(layer, 0), self._layout.layers - 1)
        column = min(max(column, 0), self._layout.columns - 1)
        rows = self._rows_in_view(self._layout)
        first = min(max(self._first_row, layer - rows + 1), layer)
        self._first_row = max(0, min(first, self._layout.layers - rows))
        self.cursor = (layer, column)
        self.border_subtitle = self._subtitle()
        self.post_message(self.Pointed())
        self.refresh()

    def _subtitle(self) -> str:
        """Which layers are in view, and the first node that holds NaN or Inf wherever it is."""
        if self._layout is None or self._graph is None:
            return ""
        last = min(self._first_row + self._rows_in_view(self._layout), self._layout.layers) - 1
        view = f"{self._layout.layers} layers"
        if last - self._first_row + 1 < self._layout.layers:
            view = f"layers {self._first_row}–{last} of {view}, more with ↑ ↓"
        bad = None if self._stats is None else first_nonfinite(self._stats)
        if bad is None:
            return view
        node, mark = self._graph.nodes[bad[0]], "NaN" if bad[1] is Mark.NAN else "Inf"
        return f"[b $error]first {mark}: {node}[/]  {view}"

    def _rows_in_view(self, layout: GridLayout) -> int:
        """Rows between the header and the two lines at the bottom."""
        return max(self.size.height - len(self._head_strips(layout)) - 1, 1)

    def _cell_width(self, width: int) -> int:
        if self._layout is None:
            return 0
        return min((width - LABEL - len(self._layout.groups) + 1) // max(self._layout.columns, 1), WIDEST)

    def _column_starts(self, layout: GridLayout) -> list[int]:
        """First cell of each column; a separator stands between groups."""
        width = self._cell_width(self.size.width)
        starts, at = [], LABEL
        for _, members in layout.groups:
            starts += [at + width * index for index in range(members)]
            at += width * members + 1
        return starts

    def notify_style_update(self) -> None:
        """The theme or the focus has changed: styles and what was drawn with them are out of date."""
        super().notify_style_update()
        self._styles_of.clear()
        self._level_styles.clear()
        self._head = None

    def _style(self, name: str) -> Style:
        """A component style on the widget's own (""), kept: Textual computes it anew at 0.1 ms a call."""
        if name not in self._styles_of:
            component = f"stage-grid--{name}"
            self._styles_of[name] = self.get_component_rich_style(component) if name else self.rich_style
        return self._styles_of[name]

    def _head_strips(self, layout: GridLayout) -> list[Strip]:
        """Group names and stage names, kept until width, cursor or theme change."""
        if self._head is None:
            width = self._cell_width(self.size.width)
            self._head = self._draw_head(layout, width) if width >= NARROWEST else []
        return self._head

    def _draw_head(self, layout: GridLayout, width: int) -> list[Strip]:
        group, line = self._style("group"), []
        for index, (name, members) in enumerate(layout.groups):
            line.append(("│" if index else "") + f" {name} ".center(width * members, "─"))
        head = [Strip([Segment(" " * LABEL, group), Segment("".join(line), group)])]
        for texts in header_rows([stage.name for stage in layout.stages], width):
            segments = [Segment(text, self._label_style(column)) for column, text in enumerate(texts)]
            head.append(Strip(self._with_separators(layout, segments, " " * LABEL)))
        return head

    def _label_style(self, column: int) -> Style:
        """Neighbouring headers differ, since narrow ones touch."""
        if column == self.cursor[1]:
            return self._style("cursor-label")
        return self._style("other-label" if column % 2 else "label")

    def _layer_segments(self, layout: GridLayout, layer: int) -> list[Segment]:
        width, base = self._cell_width(self.size.width), self._style("")
        if not self._level_styles:
            self._level_styles = [base + style for style in level_styles()]
        unknown, styles = base + Style(dim=True), self._level_styles
        cells = [self._cell(layout, layer, column, width) for column in range(layout.columns)]
        segments = [Segment(text, unknown if level is None else styles[level]) for text, level in cells]
        if layer == self.cursor[0] and self.has_focus:
            text, style = segments[self.cursor[1]].text, segments[self.cursor[1]].style
            segments[self.cursor[1]] = Segment(text, (style or base) + CURSOR)
        return self._with_separators(layout, segments, f"{layer:>{LABEL - 1}} ")

    def _cell(self, layout: GridLayout, layer: int, column: int, width: int) -> tuple[str, int | None]:
        """Text and level of a cell; a glyph stands in where there is no room for a number."""
        if self._stats is None or self._tile is None:
            return "·".center(width), None
        level = int(self._tile[layer, column])
        if width < 4:
            return glyph(level).center(width), level
        return cell_text(self._stats[layout.rows[layer, column]], width - 1).rjust(width - 1) + " ", level

    def _with_separators(self, layout: GridLayout, cells: list[Segment], label: str) -> list[Segment]:
        group = self._style("group")
        segments, at = [Segment(label, group)], 0
        for index, (_, members) in enumerate(layout.groups):
            if index:
                segments.append(Segment("│", group))
            segments += cells[at : at + members]
            at += members
        return segments
