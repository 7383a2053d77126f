"""The grid of a comparison: layers × stages, two signals a cell by half blocks, a cursor, a legend in words."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import ClassVar

from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.events import Click, MouseScrollDown, MouseScrollUp, Resize
from textual.geometry import Region, Size
from textual.message import Message
from textual.strip import Strip

from aprtui.trace.graph import Node
from aprtui.tui.draw.grid_layout import header_rows
from aprtui.tui.screens.diff.cells import Cell, Greys, Layout, Row, Sign
from aprtui.tui.screens.diff.model import Stage
from aprtui.tui.screens.diff.paint import DiffPaint
from aprtui.tui.widgets.jump_targets import JumpPlace, JumpTargets

LABEL = 4
"""Cells of the layer numbers, with the space after them."""

WIDEST, NARROWEST = 9, 2
"""Cells are never wider, since the eye has to compare them; narrower there is no room for colours and a sign."""

NOTHING = Cell(None, None, Sign.NONE)


class DiffGrid(JumpTargets, can_focus=True):
    """Draws a line for each row, and below them one for the stages that the model has once; scrolls with the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1, 0)", "Layer before", show=False, id="diff.layer.up"),
        Binding("down,j", "move(1, 0)", "Layer after", show=False, id="diff.layer.down"),
        Binding("left,h", "move(0, -1)", "Stage before", show=False, id="diff.stage.left"),
        Binding("right,l", "move(0, 1)", "Stage after", show=False, id="diff.stage.right"),
        Binding("pageup", "move(-10, 0)", "Ten layers up", show=False),
        Binding("pagedown", "move(10, 0)", "Ten layers down", show=False),
        Binding("home", "move(-100000, 0)", "First layer", show=False),
        Binding("end", "move(100000, 0)", "Last layer", show=False),
        Binding("enter", "open", "Open tensor", id="diff.open"),
    ]
    PREFIX = "diff-grid"
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"diff-grid--{name}" for name in ("label", "other-label", "group", "cursor-label", "sign", "fold")
    }
    DEFAULT_CSS = """
    DiffGrid {
        .diff-grid--label { color: $foreground; }
        .diff-grid--other-label { color: $text-muted; }
        .diff-grid--group { color: $text-muted; }
        .diff-grid--cursor-label { color: $accent; text-style: bold underline; }
        .diff-grid--sign { color: $error; text-style: bold; }
        .diff-grid--fold { color: $text-muted; text-style: italic; }
    }
    """

    class Pointed(Message):
        """The cursor stands on another stage."""

    class Opened(Message):
        """The stage under the cursor is to be opened."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, classes="pane")
        self._layout = Layout((), (), (), ())
        self._rows: tuple[Row, ...] = ()
        self._cells: Mapping[Node, Cell] = {}
        self._stages: Mapping[Node, Stage] = {}
        self._greys: Greys | None = None
        self._cursor: Node | None = None
        self._column = 0
        self._first = 0
        self._painter: DiffPaint | None = None
        self._head: list[Strip] | None = None
        self._told_view = ""

    @property
    def node(self) -> Node | None:
        """The stage under the cursor."""
        return self._cursor

    def show(
        self, layout: Layout, rows: tuple[Row, ...], cells: Mapping[Node, Cell], stages: Mapping[Node, Stage],
        greys: Greys,
    ) -> None:  # fmt: skip
        """Draw other cells; the cursor stays on its stage where that is to be seen."""
        resized = (len(rows), layout.columns) != (len(self._rows), self._layout.columns)
        self._layout, self._rows, self._cells, self._stages, self._greys = layout, rows, cells, stages, greys
        self._painter = self._head = None
        self.put_cursor(self._cursor if self._cursor in stages else self._beginning())
        self.refresh(layout=resized)

    def put_cursor(self, node: Node | None) -> None:
        """Put the cursor on a stage; on the nearest row where its own is folded away."""
        if node is not None and node not in self._layout.once:
            row = self._row_of(node)
            if row is None:
                row = self._nearest_row(node.layer or 0)
            if row is None:
                node = self._layout.once[0] if self._layout.once else None
            else:
                node = Node(self._rows[row].layers[0], node.stage)
                self._column = self._layout.columns.index(node.stage)
        before, first, head = self._cursor, self._first, len(self._head_strips())
        self._cursor = node
        self._scroll()
        self._tell_view()
        self._head = None
        self.post_message(self.Pointed())
        if self._first != first or len(self._head_strips()) != head:
            self.refresh()
        else:
            changed = [*range(head), *(self._line_of(node) for node in (before, self._cursor) if node is not None)]
            self.refresh(*(Region(0, line, self.size.width, 1) for line in changed))

    def _line_of(self, node: Node) -> int:
        """The line that shows a stage, if it is in view."""
        row = self._row_of(node)
        if row is None:
            return self.size.height - len(self._legend(self.size.width)) - 1
        return len(self._head_strips()) + row - self._first

    def _tell_view(self) -> None:
        """Say which layers are in view; Textual would draw all anew for the same words again."""
        text = self._view_text()
        if text != self._told_view:
            self._told_view = self.border_subtitle = text

    def _nearest_row(self, layer: int) -> int | None:
        """The row of the nearest layer that is to be seen; None where all are folded."""
        seen = (index for index, row in enumerate(self._rows) if not row.folded)
        return min(seen, key=lambda index: abs(self._rows[index].layers[0] - layer), default=None)

    def action_move(self, rows: int, columns: int) -> None:
        """Move the cursor, within the grid; folds are stepped over."""
        if self._cursor is None:
            return
        seen = [index for index, row in enumerate(self._rows) if not row.folded]
        row = self._row_of(self._cursor)
        if row is None:
            self._move_below(rows, columns, seen)
            return
        column = min(max(self._column + columns, 0), len(self._layout.columns) - 1)
        place = seen.index(row) + rows
        if place >= len(seen) and rows == 1 and self._layout.once:
            self.put_cursor(self._layout.once[-1 if column > len(self._layout.columns) // 2 else 0])
            return
        layer = self._rows[seen[min(max(place, 0), len(seen) - 1)]].layers[0]
        self.put_cursor(Node(layer, self._layout.columns[column]))

    def _move_below(self, rows: int, columns: int, seen: list[int]) -> None:
        """Move from one of the stages below the grid."""
        assert self._cursor is not None
        once = self._layout.once
        if rows < 0 and seen:
            place = max(len(seen) + rows, 0)
            self.put_cursor(Node(self._rows[seen[place]].layers[0], self._layout.columns[self._column]))
        else:
            self.put_cursor(once[min(max(once.index(self._cursor) + columns, 0), len(once) - 1)])

    def action_open(self) -> None:
        """Open the stage under the cursor."""
        self.post_message(self.Opened())

    def jump_places(self) -> list[JumpPlace]:
        """The cells of the rows in view, then the stages below."""
        width = self._cell_width(self.size.width)
        if not self._stages or width < NARROWEST:
            return []
        top, starts = len(self._head_strips()), self._starts()
        shown = self._rows[self._first : self._first + self._rows_in_view()]
        places = [
            JumpPlace(top + line, start, width, Node(row.layers[0], name))
            for line, row in enumerate(shown)
            if not row.folded
            for start, name in zip(starts, self._layout.columns, strict=True)
        ]
        below = self.size.height - len(self._legend(self.size.width)) - 1
        return places + [JumpPlace(below, start, length, node) for node, start, length in self._once_places()]

    def jump_to(self, target: Hashable) -> None:
        """Put the cursor on a stage."""
        assert isinstance(target, Node)
        self.put_cursor(target)

    def _once_places(self) -> Iterator[tuple[Node, int, int]]:
        """First cell and length of each stage below the grid."""
        at, width = LABEL, self._cell_width(self.size.width)
        for node in self._layout.once:
            length = len(node.stage) + 2 + width
            yield node, at, length
            at += length

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        """The wheel moves by layers."""
        self.action_move(1, 0)

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        """The wheel moves by layers."""
        self.action_move(-1, 0)

    def on_click(self, event: Click) -> None:
        """A click puts the cursor under the mouse; on the cursor it opens."""
        offset = event.get_content_offset(self)
        node = None if offset is None else self._node_at(offset.x, offset.y)
        if node is None:
            return
        if node == self._cursor:
            self.action_open()
        else:
            self.put_cursor(node)

    def on_resize(self, event: Resize) -> None:
        """Headers are wrapped for the new width."""
        self._head = None
        self._scroll()
        self._tell_view()

    def notify_style_update(self) -> None:
        """The theme or the focus has changed: what was drawn is out of date."""
        super().notify_style_update()
        self._painter = self._head = None

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """All rows, their headers, the stages below and the legend."""
        if not self._stages:
            return 5
        head = len(header_rows(self._layout.columns, self._cell_width(width)))
        return 1 + head + len(self._rows) + bool(self._layout.once) + len(self._legend(width))

    def draw_line(self, y: int) -> Strip:
        """Line `y`: headers, rows, the stages that the model has once, legend."""
        width, base = self.size.width, self.style()
        head, legend = self._head_strips(), self._legend(width)
        below = self.size.height - len(legend) - bool(self._layout.once)
        index = self._first + y - len(head)
        if not self._stages:
            strip = Strip.blank(width, base)
        elif self._layout.columns and self._cell_width(width) < NARROWEST:
            needed = LABEL + NARROWEST * len(self._layout.columns) + len(self._layout.groups)
            text = f"the grid needs {needed} columns, there are {width}" if y == 0 else ""
            strip = Strip([Segment(text, base)])
        elif y >= self.size.height - len(legend):
            strip = legend[y - self.size.height + len(legend)]
        elif self._layout.once and y == below:
            strip = Strip(list(self._once_segments()))
        elif y < len(head):
            strip = head[y]
        elif y < below and index < len(self._rows):
            strip = Strip(self._row_segments(self._rows[index]))
        else:
            strip = Strip.blank(width, base)
        return strip.adjust_cell_length(width, base)

    def _beginning(self) -> Node | None:
        return next(iter(self._stages), None)

    def _row_of(self, node: Node) -> int | None:
        """The row of a stage; None where it is folded away or stands below the grid."""
        if node in self._layout.once:
            return None
        found = (index for index, row in enumerate(self._rows) if row.layers == (node.layer,) and not row.folded)
        return next(found, None)

    def _rows_in_view(self) -> int:
        legend = len(self._legend(self.size.width))
        return max(self.size.height - len(self._head_strips()) - bool(self._layout.once) - legend, 1)

    def _scroll(self) -> None:
        row = None if self._cursor is None else self._row_of(self._cursor)
        height = self._rows_in_view()
        if row is not None:
            self._first = min(max(self._first, row - height + 1), row)
        self._first = max(0, min(self._first, len(self._rows) - height))

    def _view_text(self) -> str:
        height = self._rows_in_view()
        if len(self._rows) <= height:
            return ""
        shown = self._rows[self._first : self._first + height]
        return f"layers {shown[0].layers[0]}–{shown[-1].layers[-1]} of {len(self._layout.layers)}"

    def _cell_width(self, width: int) -> int:
        room = width - LABEL - max(len(self._layout.groups) - 1, 0)
        return min(room // max(len(self._layout.columns), 1), WIDEST)

    def _node_at(self, x: int, y: int) -> Node | None:
        width = self.size.width
        if self._layout.once and y == self.size.height - len(self._legend(width)) - 1:
            return next((node for node, at, length in self._once_places() if at <= x < at + length), None)
        index = self._first + y - len(self._head_strips())
        if not 0 <= index - self._first < self._rows_in_view() or index >= len(self._rows) or self._rows[index].folded:
            return None
        starts = self._starts()
        column = max((place for place, start in enumerate(starts) if start <= x), default=0)
        return Node(self._rows[index].layers[0], self._layout.columns[column])

    def _starts(self) -> list[int]:
        """First cell of each column; a separator stands between groups."""
        width = self._cell_width(self.size.width)
        starts, at = [], LABEL
        for _, members in self._layout.groups:
            starts += [at + width * index for index in range(members)]
            at += width * members + 1
        return starts

    def _head_strips(self) -> list[Strip]:
        if self._head is None:
            width = self._cell_width(self.size.width)
            drawn = self._layout.columns and self._stages and width >= NARROWEST
            self._head = list(self._draw_head(width)) if drawn else []
        return self._head

    def _draw_head(self, width: int) -> Iterator[Strip]:
        group = self.style("group")
        line = "│".join(f" {name} ".center(width * members, "─") for name, members in self._layout.groups)
        yield Strip([Segment(" " * LABEL, group), Segment(line, group)])
        current = self._cursor.stage if self._cursor else ""
        for texts in header_rows(self._layout.columns, width):
            styles = [
                self.style("cursor-label" if name == current else "other-label" if column % 2 else "label")
                for column, name in enumerate(self._layout.columns)
            ]
            segments = [[Segment(text, style)] for text, style in zip(texts, styles, strict=True)]
            yield Strip(self._grouped(segments, " " * LABEL))

    def _row_segments(self, row: Row) -> list[Segment]:
        if row.folded:
            return [Segment(f"  ⋯ {row.text}", self.style("fold"))]
        width, layer = self._cell_width(self.size.width), row.layers[0]
        nodes = [Node(layer, name) for name in self._layout.columns]
        return self._grouped([self._cell(node, width) for node in nodes], f"{layer:>{LABEL - 1}} ")

    def _once_segments(self) -> Iterator[Segment]:
        width = max(self._cell_width(self.size.width), NARROWEST)
        yield Segment(" " * LABEL, self.style("label"))
        for node in self._layout.once:
            current = node == self._cursor
            yield Segment(f"{node.stage} ", self.style("cursor-label" if current else "other-label"))
            yield from self._cell(node, width)
            yield Segment(" ", self.style())

    def _grouped(self, cells: list[list[Segment]], label: str) -> list[Segment]:
        group = self.style("group")
        segments, at = [Segment(label, group)], 0
        for index, (_, members) in enumerate(self._layout.groups):
            segments += [Segment("│", group)] if index else []
            segments += [segment for cell in cells[at : at + members] for segment in cell]
            at += members
        return segments

    def _cell(self, node: Node, width: int) -> list[Segment]:
        cell = self._cells.get(node, NOTHING)
        if node == self._cursor:
            return [self._paint.under_cursor(cell, self._stages.get(node), width)]
        return self._paint.cell(cell, width)

    @property
    def _paint(self) -> DiffPaint:
        if self._painter is None:
            assert self._greys is not None
            self._painter = DiffPaint(
                self.style, self.cursor_style, self._cells.values(), self._greys, plain=self.plain
            )
        return self._painter

    def _legend(self, width: int) -> list[Strip]:
        return self._paint.legend(width) if self._stages else []
