"""The base of grids of layers × stages: rows, columns, headers, a cursor, and the ways to move it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from rich.segment import Segment
from textual.events import Click, MouseScrollDown, MouseScrollUp, Resize
from textual.geometry import Region, Size
from textual.message import Message
from textual.strip import Strip

from aprtui.trace.graph.stage import Node
from aprtui.tui.draw.grid_layout import header_rows
from aprtui.tui.draw.text import SEPARATOR
from aprtui.tui.widgets.jump_targets import JumpPlace, JumpTargets

LABEL = 4
"""Cells of the layer numbers, with the space or the mark after them."""

KIND_MARKS = (
    ("3~", "layer 3, whose queries see a window"), ("3+", "a layer with experts"), ("3*", "both: where layers differ"),
)  # fmt: skip
"""What the marks of kinds of layers say, for the help."""

SIDE = 4
"""Cells at the right for how many columns are hidden there; at the left they stand above the layer numbers."""

LEFT, RIGHT = "‹", "›"
"""Mark columns that are hidden at either side."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class GridLines:
    """What stands on which line of a grid of this size: headers, rows from `top` to `bottom`, other lines to `end`."""

    size: Size
    drawn: bool
    """Whether there are cells, and room for them."""

    head: list[Strip]
    top: int
    bottom: int
    end: int
    rows: int
    """Rows that share a line."""


class LayerGrid(JumpTargets):
    """A line for each row of cells, or for a few, below headers that stay in view; the rows scroll with the cursor.

    Where not even the narrowest cells of all columns have room, those around the cursor are drawn, with marks for how
    many are hidden at either side: the columns scroll with the cursor, too.

    A row shows a layer, or nothing that the cursor can stand on. Lines above and below the rows have room for the
    stages that a model has once, and for a legend. A subclass calls `set_shape`, gives `draw_row`, `draw_above` and
    `draw_below`, and says how many lines there are below (`lines_below`) and at most above (`LINES_ABOVE`).
    """

    PREFIX = "layer-grid"
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"layer-grid--{name}" for name in ("label", "other-label", "group", "cursor-label")
    }
    DEFAULT_CSS = """
    LayerGrid {
        .layer-grid--label { color: $foreground; }
        .layer-grid--other-label, .layer-grid--group { color: $text-muted; }
        .layer-grid--cursor-label { color: $accent; text-style: bold; }
    }
    """

    WIDEST: ClassVar[int] = 9
    """Cells are never wider, since the eye has to compare them."""

    NARROWEST: ClassVar[int] = 2
    """Narrower cells have no room for what they show."""

    LINES_ABOVE: ClassVar[int] = 0
    LABEL_STYLE: ClassVar[str] = "group"
    EMPTY: ClassVar[str] = ""
    """What a grid without cells says."""

    EMPTY_HEIGHT: ClassVar[int] = 3

    class Pointed(Message):
        """The cursor stands on another stage."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._all_columns: Sequence[str] = ()
        self._marks: Sequence[str] = ()
        self._all_groups: Sequence[tuple[str, int]] = ()
        self._row_count = 0
        self._layers: Sequence[int] = ()
        self._row_of_layer: dict[int, int] = {}
        self._below: Sequence[Node] = ()
        self._cursor: Node | None = None
        self._column = 0
        """That of the cursor among all columns."""
        self._first_column = 0
        self._first_row = 0
        self._cached_lines: GridLines | None = None
        self._subtitle = ""

    @property
    def node(self) -> Node | None:
        return self._cursor

    @property
    def row_count(self) -> int:
        return self._row_count

    def set_shape(
        self,
        columns: Sequence[str],
        groups: Sequence[tuple[str, int]],
        layers: Sequence[int | None],
        below: Sequence[Node] = (),
        marks: Sequence[str] = (),
    ) -> None:
        """Take other rows and columns.

        `columns` are stages and `groups` the names of neighbouring ones with their numbers of columns, `layers` is the
        layer of each row (None: the row has no cells), `below` are stages below the rows that the cursor can go to.
        `marks` say for each layer of the model in a character what kind it is of, see `StageGraph.layer_marks`.
        """
        self._marks = marks
        self._all_columns, self._all_groups, self._below = columns, groups, below
        self._row_count = len(layers)
        self._row_of_layer = {layer: row for row, layer in enumerate(layers) if layer is not None}
        self._layers = tuple(self._row_of_layer)
        self.forget_lines()

    def window(self, width: int) -> range:
        """The numbers of the columns that a grid of this width draws: all of them, or those around the cursor."""
        count, last = len(self._all_columns), len(self._all_columns) - 1
        if self._cursor is None or self.has_room_for_all(width):
            return range(count)
        room = width - LABEL - SIDE - self._separators
        shown = min(max(room // self.scrolled_cell, 1), count)
        column = min(self._column, last)
        first = min(max(self._first_column, column - shown + 1), column, count - shown)
        return range(first, first + shown)

    def has_room_for_all(self, width: int) -> bool:
        """Whether the narrowest cells of all columns have room."""
        return width >= LABEL + self.NARROWEST * len(self._all_columns) + self._separators

    @property
    def _separators(self) -> int:
        """The cells between groups of columns."""
        return max(len(self._all_groups) - 1, 0)

    @property
    def scrolled_cell(self) -> int:
        """The cells of a column in a grid that has no room for all of them."""
        return self.NARROWEST

    @property
    def _columns(self) -> Sequence[str]:
        """The columns that are drawn."""
        window = self.window(self.size.width)
        return self._all_columns[window.start : window.stop]

    @property
    def _groups(self) -> Sequence[tuple[str, int]]:
        """The groups that are drawn, with how many of their columns are."""
        window, at, found = self.window(self.size.width), 0, []
        for name, members in self._all_groups:
            shown = min(at + members, window.stop) - max(at, window.start)
            found += [(name, shown)] if shown > 0 else []
            at += members
        return found

    def layer_label(self, layer: int) -> str:
        """The number of a layer, and the mark of its kind."""
        return f"{layer:>{LABEL - 1}}" + (self._marks[layer] if layer < len(self._marks) else " ")

    def draw_row(self, row: int) -> Strip:
        raise NotImplementedError

    def draw_above(self, line: int) -> Strip:
        raise NotImplementedError

    def draw_below(self, line: int) -> Strip:
        raise NotImplementedError

    def rows_a_line(self, size: Size) -> int:
        """How many rows share a line in a grid of this size; `draw_row` is given the first of them."""
        return 1

    def row_at(self, first: int, x: int) -> int:
        """The row that a click at cell `x` means, among those of the line that begins with row `first`."""
        return first

    def lines_below(self, width: int) -> int:
        """How many lines there are below the rows of a grid of this width."""
        raise NotImplementedError

    def places_below(self) -> Iterator[tuple[Node, int, int]]:
        """Each stage in the first line below that the cursor can go to, with its first cell and its length."""
        yield from ()

    def view_words(self, first: int, last: int) -> str:
        """What the lower border says while the rows from `first` to `last` are in view."""
        return ""

    def click_on_cursor(self) -> None:
        """Do what a click on the cursor means."""

    # Drawing

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        if not self._has_cells:
            return self.EMPTY_HEIGHT
        if not self._fits(width):
            return 3
        head = len(self._draw_head(self._cell_width(width)))
        return head + self.LINES_ABOVE + self._lines_of_rows(1) + self.lines_below(width)

    def _lines_of_rows(self, rows_a_line: int) -> int:
        return -(-self._row_count // rows_a_line)

    def draw_line(self, y: int) -> Strip:
        lines = self._lines
        width, base = lines.size.width, self.style()
        if not lines.drawn:
            text, style = (self._size_words(width), base) if self._has_cells else (self.EMPTY, self.style("label"))
            return Strip([Segment(text if y == 0 else "", style)]).adjust_cell_length(width, base)
        if y < len(lines.head):
            strip = lines.head[y]
        elif y < lines.top:
            strip = self.draw_above(y - len(lines.head))
        elif y < lines.bottom and (row := self._first_row + (y - lines.top) * lines.rows) < self._row_count:
            strip = self.draw_row(row)
        elif lines.bottom <= y < lines.end:
            strip = self.draw_below(y - lines.bottom)
        else:
            strip = Strip.blank(width, base)
        return strip.adjust_cell_length(width, base)

    @property
    def _has_cells(self) -> bool:
        return bool(self._all_columns)

    def _fits(self, width: int) -> bool:
        return self._cell_width(width) >= self.NARROWEST

    def _size_words(self, width: int) -> str:
        cells = self.NARROWEST * len(self._all_columns) if self._cursor is None else SIDE + self.scrolled_cell
        needed = LABEL + cells + self._separators
        return f"the grid needs {needed} columns, there are {width}"

    def _cell_width(self, width: int) -> int:
        """The width of a cell; a separator stands between groups."""
        return min(self._room_of_columns(width) // max(len(self.window(width)), 1), self.WIDEST)

    def _room_of_columns(self, width: int) -> int:
        return self._room_beside_label(width) - self._separators

    def _room_beside_label(self, width: int) -> int:
        """The cells for columns and what stands between and behind them."""
        return width - LABEL - (SIDE if len(self.window(width)) < len(self._all_columns) else 0)

    @property
    def _lines(self) -> GridLines:
        """What stands where, cached until size, cursor, theme or rows change.

        The lines above the rows stand there if all rows have room as well.
        """
        size = self.size
        if self._cached_lines is None or self._cached_lines.size != size:
            drawn = self._has_cells and self._fits(size.width)
            head = self._marked(self._draw_head(self._cell_width(size.width)), size.width) if drawn else []
            below, rows = self.lines_below(size.width), self.rows_a_line(size)
            count = self._lines_of_rows(rows)
            has_room = len(head) + self.LINES_ABOVE + count + below <= size.height
            top = len(head) + (self.LINES_ABOVE if has_room else 0)
            bottom = min(size.height - below, top + count)
            self._cached_lines = GridLines(size, drawn, head, top, bottom, bottom + below, rows)
        return self._cached_lines

    def _marked(self, head: list[Strip], width: int) -> list[Strip]:
        """The lines above the rows, with how many columns are hidden at either side in the first of them."""
        before, behind = self._hidden(width)
        if not head or not (before or behind):
            return head
        style = self.style("cursor-label")
        left, right = (f"{mark}{count}" if count else "" for mark, count in ((LEFT, before), (RIGHT, behind)))
        middle = head[0].adjust_cell_length(width, self.style()).crop(LABEL, width - SIDE)
        ends = (Strip([Segment(text, style)]) for text in (left.ljust(LABEL), right.rjust(SIDE)))
        return [Strip.join([next(ends), middle, next(ends)]), *head[1:]]

    def _hidden(self, width: int) -> tuple[int, int]:
        """How many columns are hidden at the left, and at the right."""
        window = self.window(width)
        return window.start, len(self._all_columns) - window.stop

    def forget_lines(self) -> None:
        self._cached_lines = None

    @property
    def _rows_in_view(self) -> int:
        lines = self._lines
        return max(self.size.height - lines.top - self.lines_below(self.size.width), 1) * lines.rows

    def _column_starts(self) -> list[int]:
        width = self._cell_width(self.size.width)
        starts, at = [], LABEL
        for members in self._by_group(self._columns, self._groups_in_view):
            starts += [at + width * index for index in range(len(members))]
            at += width * len(members) + 1
        return starts

    @property
    def _groups_in_view(self) -> Sequence[tuple[str, int]]:
        """The groups between which lines are drawn."""
        return self._groups

    def _by_group(self, items: Sequence[Item], groups: Sequence[tuple[str, int]]) -> Iterator[Sequence[Item]]:
        """One item a column, group by group; all of them where there are no groups."""
        at = 0
        for _, members in groups or (("", len(self._columns)),):
            yield items[at : at + members]
            at += members

    def _separated(self, label: str, groups: Iterable[Sequence[Segment]]) -> list[Segment]:
        """A row: its label, and its groups with separators between them."""
        ink = self.style(self.LABEL_STYLE)
        segments = [Segment(label, ink)]
        for number, group in enumerate(groups):
            if number:
                segments.append(Segment("│", ink))
            segments += group
        return segments

    def _draw_head(self, width: int) -> list[Strip]:
        return self.head_of(header_rows(self._columns, width), width)

    def head_of(self, rows: Iterable[Sequence[str]], width: int) -> list[Strip]:
        """The names of the groups above the `rows` of those of the stages."""
        lines = [self._header_line(row, self._groups) for row in self._header_segments(rows)]
        if self._groups:
            names = "│".join(f" {name} ".center(room := width * count, "─")[:room] for name, count in self._groups)
            group = self.style("group")
            lines.insert(0, [Segment(" " * LABEL, group), Segment(names, group)])
        return [Strip(line) for line in lines]

    def _header_segments(self, rows: Iterable[Sequence[str]]) -> list[list[Segment]]:
        """The `rows` of stage names or codes, that of the cursor's column highlighted."""
        current = self._cursor.stage if self._cursor else ""
        styles = [self.style("cursor-label" if name == current else "label") for name in self._columns]
        return [[Segment(text, style) for text, style in zip(texts, styles, strict=True)] for texts in rows]

    def _header_line(self, segments: Sequence[Segment], groups: Sequence[tuple[str, int]]) -> list[Segment]:
        """A row of headers; the blanks between them are not underlined."""
        cells = [
            (Segment(word := segment.text.rstrip(), segment.style), Segment(segment.text[len(word) :], self.style()))
            for segment in segments
        ]
        parts = ([part for cell in group for part in cell] for group in self._by_group(cells, groups))
        return self._separated(" " * LABEL, parts)

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self.forget_lines()

    # The cursor

    def put_cursor(self, node: Node | None) -> None:
        """Put the cursor on a stage, in the nearest row where its own is not there; not on one without a cell."""
        if node is not None and node not in self._below:
            if node.stage not in self._all_columns:
                return
            layer = node.layer or 0
            nearest = min(self._layers, key=lambda other: abs(other - layer), default=None)
            if nearest is None:
                node = next(iter(self._below), None)
            else:
                node = Node(nearest, node.stage)
                self._column = self._all_columns.index(node.stage)
        before, first, head = self._cursor, (self._first_row, self._first_column), len(self._lines.head)
        self._cursor = node
        self.forget_lines()
        self._scroll()
        self.post_message(self.Pointed())
        if (self._first_row, self._first_column) != first or len(self._lines.head) != head:
            self.refresh()
        else:
            changed = [*range(head), *(self._line_of(node) for node in (before, self._cursor) if node is not None)]
            self.refresh(*(Region(0, line, self.size.width, 1) for line in changed))

    def action_move(self, rows: int, columns: int) -> None:
        """Move the cursor, within the grid; rows without cells are stepped over."""
        if self._cursor is None:
            return
        if self._cursor in self._below:
            self._move_below(rows, columns)
            return
        place = self._layers.index(self._cursor.layer or 0) + rows
        column = min(max(self._column + columns, 0), len(self._all_columns) - 1)
        if place >= len(self._layers) and rows == 1 and self._below:
            self.put_cursor(self._below[-1 if column > len(self._all_columns) // 2 else 0])
        else:
            layer = self._layers[min(max(place, 0), len(self._layers) - 1)]
            self.put_cursor(Node(layer, self._all_columns[column]))

    def _move_below(self, rows: int, columns: int) -> None:
        assert self._cursor is not None
        if rows < 0 and self._layers:
            layer = self._layers[max(len(self._layers) + rows, 0)]
            self.put_cursor(Node(layer, self._all_columns[self._column]))
        else:
            place = self._below.index(self._cursor) + columns
            self.put_cursor(self._below[min(max(place, 0), len(self._below) - 1)])

    def _scroll(self) -> None:
        self._first_column = self.window(self.size.width).start
        row, height = self._row_of(self._cursor), self._rows_in_view
        rows = self._lines.rows
        if row is not None:
            row -= row % rows
            self._first_row = min(max(self._first_row, row - height + rows), row)
        last = self._lines_of_rows(rows) * rows - height
        self._first_row = max(0, min(self._first_row - self._first_row % rows, last))
        self.update_subtitle()

    def update_subtitle(self) -> None:
        """Say in the lower border what is in view; Textual would draw everything again for the same words."""
        last = min(self._first_row + self._rows_in_view, self._row_count) - 1
        words = self.view_words(self._first_row, last) if self._has_cells else ""
        if words and any(self._hidden(self.size.width)):
            window = self.window(self.size.width)
            count = len(self._all_columns)
            words += f"{SEPARATOR}stages {window.start + 1}–{window.stop} of {count}, more with ← →"
        if words != self._subtitle:
            self._subtitle = self.border_subtitle = words

    def _row_of(self, node: Node | None) -> int | None:
        """The row of a stage; None where it stands below the rows, or its layer has no row."""
        if node is None or node.layer is None or node in self._below:
            return None
        return self._row_of_layer.get(node.layer)

    def _line_of(self, node: Node) -> int:
        """The line that shows a stage, if it is in view."""
        row, lines = self._row_of(node), self._lines
        return lines.bottom if row is None else lines.top + (row - self._first_row) // lines.rows

    def jump_places(self) -> list[JumpPlace]:
        if not self._has_cells or not self._fits(self.size.width):
            return []
        starts, width, lines = self._column_starts(), self._cell_width(self.size.width), self._lines
        last = self._first_row + self._rows_in_view
        labels = lines.rows if width >= 2 * lines.rows else 1
        room = width // labels
        places = [
            JumpPlace(lines.top + at // lines.rows, start + at % lines.rows * room, room, Node(layer, name))
            for layer, row in self._row_of_layer.items()
            if self._first_row <= row < last and (at := row - self._first_row) % lines.rows < labels
            for start, name in zip(starts, self._columns, strict=True)
        ]
        return places + [JumpPlace(lines.bottom, start, length, node) for node, start, length in self.places_below()]

    def jump_to(self, target: Hashable) -> None:
        assert isinstance(target, Node)
        self.put_cursor(target)

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        self.action_move(1, 0)

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        self.action_move(-1, 0)

    def on_click(self, event: Click) -> None:
        offset = event.get_content_offset(self)
        node = None if offset is None else self._node_at(offset.x, offset.y)
        if node is None or self._cursor is None:
            return
        if node == self._cursor:
            self.click_on_cursor()
        else:
            self.put_cursor(node)

    def _node_at(self, x: int, y: int) -> Node | None:
        lines = self._lines
        if y == lines.bottom:
            return next((node for node, start, length in self.places_below() if start <= x < start + length), None)
        if not lines.top <= y < lines.bottom:
            return None
        starts = self._column_starts()
        column = max((number for number, start in enumerate(starts) if start <= x), default=0)
        row = self.row_at(self._first_row + (y - lines.top) * lines.rows, x - starts[column])
        layer = next((layer for layer, number in self._row_of_layer.items() if number == row), None)
        return None if layer is None else Node(layer, self._columns[column])

    def on_resize(self, event: Resize) -> None:
        self.forget_lines()
        self._scroll()
