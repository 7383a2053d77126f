"""The stage grid: layers × stages of one pass, and a cursor on one of them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.cache import LRUCache
from textual.events import Click, MouseScrollDown, MouseScrollUp, Resize
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip

from aprtui.trace.graph import Node, StageGraph
from aprtui.tui.draw.colours import level_styles
from aprtui.tui.draw.figures import Figures, grid_tile
from aprtui.tui.draw.grid_layout import GridLayout, grid_layout, header_rows
from aprtui.tui.draw.levels import LEVELS, glyph
from aprtui.tui.draw.text import SEPARATOR
from aprtui.tui.widgets.jump_targets import JumpPlace, JumpTargets

LABEL = 4
"""Cells of the layer numbers, with the space after them."""

WIDEST = 9
"""Cells are never wider: the eye has to compare them."""

NARROWEST = 2

KEPT_STRIPS = 512

LEGEND = 8
"""Colours in the legend, two cells each."""


class StageGrid(JumpTargets, can_focus=True):
    """Draws one line of cells a layer; rows beyond its height scroll with the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1, 0)", "Layer before", show=False),
        Binding("down,j", "move(1, 0)", "Layer after", show=False),
        Binding("left,h", "move(0, -1)", "Stage before", show=False),
        Binding("right,l", "move(0, 1)", "Stage after", show=False),
        Binding("pageup", "move(-10, 0)", "Ten layers up", show=False),
        Binding("pagedown", "move(10, 0)", "Ten layers down", show=False),
    ]
    PREFIX = "stage-grid"
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"stage-grid--{name}" for name in ("label", "other-label", "group", "cursor-label")
    }
    DEFAULT_CSS = """
    StageGrid {
        .stage-grid--label { color: $foreground; }
        .stage-grid--other-label { color: $text-muted; }
        .stage-grid--group { color: $text-muted; }
        .stage-grid--cursor-label { color: $accent; text-style: bold; }
        &:nocolor .stage-grid--other-label { text-style: dim; }
    }
    """

    cursor: reactive[tuple[int, int]] = reactive((0, 0))
    """Layer and column of the cell that is put into words."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._graph: StageGraph | None = None
        self._layout: GridLayout | None = None
        self._figures: Figures | None = None
        self._tile: NDArray[np.uint8] | None = None
        self._first_bad = ""
        self._version = 0
        self._strips: LRUCache[tuple[int, int, int, int | None], Strip] = LRUCache(KEPT_STRIPS)
        self._first_row = 0
        self._head: list[Strip] | None = None
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

    def open_graph(self, graph: StageGraph, node: Node | None = None) -> None:
        """Take the rows and columns from `graph`, with the cursor on `node`; nothing is known about its stages yet."""
        self._graph, self._layout = graph, grid_layout(graph)
        self._figures, self._tile, self._first_bad = None, None, ""
        self._version += 1
        self.cursor, self._first_row = (0, 0), 0
        self._head = None
        columns = [stage.name for stage in self._layout.stages]
        if node is not None and node.layer is not None and node.stage in columns:
            self._put_cursor(node.layer, columns.index(node.stage))
        self.refresh(layout=True)

    def show(self, figures: Figures, first_bad: str = "", *, tell: bool = True) -> None:
        """Draw `figures`; `first_bad` names the first node that holds NaN or Inf, wherever it is.

        Who puts the cell into words at once does not want to be told: what a message brings about is a frame later.
        """
        if self._figures is None or figures.statistic is not self._figures.statistic:
            self._level_styles = []
        self._figures, self._first_bad = figures, first_bad
        self._tile = None if self._layout is None else grid_tile(self._layout, figures)
        self._version += 1
        self.border_subtitle = self._subtitle()
        if tell:
            self.post_message(self.Pointed())
        self.refresh()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """All layers, their header, and the strips of the model's own stages above and below."""
        if self._layout is None or self._cell_width(width) < NARROWEST:
            return 3
        return len(self._draw_head(self._layout, self._cell_width(width))) + self._layout.layers + 2

    def draw_line(self, y: int) -> Strip:
        """Line `y`: header, the stages before the layers, the layers, the stages after them."""
        width, height = self.size
        base = self.style()
        strip = Strip.blank(width, base)
        if self._layout is None or self._graph is None:
            return strip
        if self._cell_width(width) < NARROWEST:
            needed = LABEL + NARROWEST * self._layout.columns + len(self._layout.groups)
            message = f"the grid needs {needed} columns, there are {width}"
            return Strip([Segment(message, base)]).adjust_cell_length(width, base) if y == 0 else strip
        head = self._head_strips(self._layout)
        above = self._lines_above(self._layout, height)
        layer = self._first_row + y - len(head) - above
        if y < len(head):
            strip = head[y]
        elif y < len(head) + above:
            strip = Strip(self._model_segments(self._layout, before=True, after=False))
        elif y == min(height - 1, len(head) + above + self._layout.layers):
            strip = self._with_legend(self._model_segments(self._layout, before=not above, after=True), width)
        elif layer < self._layout.layers:
            return self._layer_strip(self._layout, layer, width)
        return strip.adjust_cell_length(width, base)

    def action_move(self, layers: int, columns: int) -> None:
        """Move the cursor, within the grid."""
        if self._layout is not None:
            self._put_cursor(self.cursor[0] + layers, self.cursor[1] + columns)

    def jump_places(self) -> list[JumpPlace]:
        """The cells of the layers in view."""
        layout = self._layout
        if layout is None or self._cell_width(self.size.width) < NARROWEST:
            return []
        top = len(self._head_strips(layout)) + self._lines_above(layout, self.size.height)
        last = min(self._first_row + self._rows_in_view(layout), layout.layers)
        starts, width = self._column_starts(layout), self._cell_width(self.size.width)
        return [
            JumpPlace(top + layer - self._first_row, start, width, (layer, column))
            for layer in range(self._first_row, last)
            for column, start in enumerate(starts)
        ]

    def jump_to(self, target: Hashable) -> None:
        """Put the cursor on a cell: its layer and column."""
        assert isinstance(target, tuple)
        self._put_cursor(*target)

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
        row = offset.y - len(self._head_strips(self._layout)) - self._lines_above(self._layout, self.size.height)
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
        return f"[b $error]{self._first_bad}[/]  {view}" if self._first_bad else view

    def _rows_in_view(self, layout: GridLayout) -> int:
        """Rows between the header and the lines of the model's own stages."""
        return max(
            self.size.height - len(self._head_strips(layout)) - self._lines_above(layout, self.size.height) - 1, 1
        )

    def _lines_above(self, layout: GridLayout, height: int) -> int:
        """1 where the stages before the layers have a line of their own; where room is short they stand below."""
        return int(height >= len(self._head_strips(layout)) + layout.layers + 2)

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
        self._version += 1
        self._level_styles.clear()
        self._head = None

    def _head_strips(self, layout: GridLayout) -> list[Strip]:
        """Group names and stage names, kept until width, cursor or theme change."""
        if self._head is None:
            width = self._cell_width(self.size.width)
            self._head = self._draw_head(layout, width) if width >= NARROWEST else []
        return self._head

    def _draw_head(self, layout: GridLayout, width: int) -> list[Strip]:
        """Names of groups and stages; the groups share the first row of the stages where their names find room."""
        rows = header_rows([stage.name for stage in layout.stages], width)
        shared = bool(rows) and all(len(name) < room for name, room in self._room_for_groups(layout, rows[0]))
        head = [] if shared else [Strip(self._group_segments(layout, width))]
        for number, texts in enumerate(rows):
            segments = [Segment(text, self._label_style(column)) for column, text in enumerate(texts)]
            if shared and number == 0:
                segments = self._with_groups(layout, segments)
            head.append(Strip(self._with_separators(layout, segments, " " * LABEL)))
        return head

    def _group_segments(self, layout: GridLayout, width: int) -> list[Segment]:
        group, line = self.style("group"), []
        for index, (name, members) in enumerate(layout.groups):
            line.append(("│" if index else "") + f" {name} ".center(width * members, "─"))
        return [Segment(" " * LABEL, group), Segment("".join(line), group)]

    def _room_for_groups(self, layout: GridLayout, texts: list[str]) -> list[tuple[str, int]]:
        """Each group's name, and the cells before its first text in a row of headers."""
        found, at = [], 0
        for name, members in layout.groups:
            blank = next((n for n, text in enumerate(texts[at : at + members]) if text.strip()), members)
            found.append((name, sum(len(text) for text in texts[at : at + blank])))
            at += members
        return found

    def _with_groups(self, layout: GridLayout, segments: list[Segment]) -> list[Segment]:
        """A row of headers with the group names in front, `─` up to the first text of each group."""
        merged, at, group = list(segments), 0, self.style("group")
        room = self._room_for_groups(layout, [segment.text for segment in segments])
        for (name, cells), (_, members) in zip(room, layout.groups, strict=True):
            line = f"{name} ".ljust(cells - 1, "─") + " "
            for column in range(at, at + members):
                text = merged[column].text
                if line:
                    merged[column] = Segment(line[: len(text)], group)
                    line = line[len(text) :]
            at += members
        return merged

    def _label_style(self, column: int) -> Style:
        """Neighbouring headers differ, since narrow ones touch."""
        if column == self.cursor[1]:
            return self.style("cursor-label")
        return self.style("other-label" if column % 2 else "label")

    def _layer_strip(self, layout: GridLayout, layer: int, width: int) -> Strip:
        """The row of a layer, kept until its numbers, its width or its cursor change."""
        cursor = self.cursor[1] if layer == self.cursor[0] and self.has_focus else None
        key = (layer, self._version, width, cursor)
        if key not in self._strips:
            segments = self._layer_segments(layout, layer, self._cell_width(width), cursor)
            used = LABEL + layout.columns * self._cell_width(width) + len(layout.groups) - 1
            # The length is known: measuring it again would cost a tenth of the frame.
            self._strips[key] = Strip([*segments, Segment(" " * (width - used), self.style())], width)
        return self._strips[key]

    def _layer_segments(self, layout: GridLayout, layer: int, width: int, cursor: int | None) -> list[Segment]:
        """A row of cells, each `width` wide."""
        base = self.style()
        styles = self._styles_of_levels()
        if self._figures is None or self._tile is None:
            segments = [Segment("·".center(width), base + Style(dim=True))] * layout.columns
        else:
            levels = self._tile[layer].tolist()
            texts = self._cells(self._figures, layout, layer, levels, width)
            segments = [Segment(text, styles[level]) for text, level in zip(texts, levels, strict=True)]
        if cursor is not None:
            text, style = segments[cursor].text, segments[cursor].style
            segments[cursor] = Segment(text, (style or base) + self.cursor_style)
        return self._with_separators(layout, segments, f"{layer:>{LABEL - 1}} ")

    def _styles_of_levels(self) -> list[Style]:
        if not self._level_styles:
            base = self.style()
            maps = () if self._figures is None else (self._figures.statistic.colour_map,)
            self._level_styles = [base + style for style in level_styles(*maps)]
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

    def _model_segments(self, layout: GridLayout, *, before: bool, after: bool) -> list[Segment]:
        """The stages that the model has once, those before the layers, those after them, or all."""
        text = model_strip(layout, self._figures, before=before, after=after)
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

    def _with_separators(self, layout: GridLayout, cells: list[Segment], label: str) -> list[Segment]:
        group = self.style("group")
        segments, at = [Segment(label, group)], 0
        for index, (_, members) in enumerate(layout.groups):
            if index:
                segments.append(Segment("│", group))
            segments += cells[at : at + members]
            at += members
        return segments


def model_strip(layout: GridLayout, figures: Figures | None, *, before: bool, after: bool) -> str:
    """The figures of the stages that the model has once: those `before` its layers, and those `after` them."""
    last = layout.rows.max(initial=0)
    fields = [
        f"{node.stage} {'·' if figures is None else figures.text(row, 6)}"
        for node, row in zip(layout.model_nodes, layout.model_rows.tolist(), strict=True)
        if (before if row < last else after)
    ]
    return SEPARATOR.join(["    " + fields[0], *fields[1:]]) if fields else ""
