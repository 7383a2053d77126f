"""The grid of a comparison: layers × stages, two signals a cell by half blocks, a cursor, a legend in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip

from aprtui.compare.align.pairing import Unpaired
from aprtui.compare.comparison import StageComparison
from aprtui.trace.graph import Node
from aprtui.tui.screens.diff.cells import DiffCell, DiffLayout, DiffRow, Greys, Sign
from aprtui.tui.screens.diff.paint import DiffPaint
from aprtui.tui.widgets.layer_grid import LABEL, LayerGrid

NOTHING = DiffCell(None, None, Sign.NONE)


class DiffGrid(LayerGrid, can_focus=True):
    """Draws a line for each layer or fold of layers, and below them the stages that the model has once."""

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
    COMPONENT_CLASSES: ClassVar[set[str]] = {"layer-grid--sign", "layer-grid--fold"}
    DEFAULT_CSS = """
    DiffGrid {
        .layer-grid--cursor-label { text-style: bold underline; }
        .layer-grid--sign { color: $error; text-style: bold; }
        .layer-grid--fold { color: $text-muted; text-style: italic; }
    }
    """
    EMPTY_HEIGHT = 5

    class Pointed(LayerGrid.Pointed):
        """The cursor stands on another stage."""

    class Opened(Message):
        """The stage under the cursor is to be opened."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, classes="pane")
        self._rows: tuple[DiffRow, ...] = ()
        self._cells: Mapping[Node, DiffCell] = {}
        self._stages: Mapping[Node, StageComparison | Unpaired] = {}
        self._greys: Greys | None = None
        self._painter: DiffPaint | None = None

    def show(
        self, layout: DiffLayout, rows: tuple[DiffRow, ...], cells: Mapping[Node, DiffCell],
        stages: Mapping[Node, StageComparison | Unpaired], greys: Greys,
    ) -> None:  # fmt: skip
        """Draw other cells; the cursor stays on its stage where that is to be seen."""
        resized = (len(rows), layout.columns) != (len(self._rows), self._columns)
        self._rows, self._cells, self._stages, self._greys = rows, cells, stages, greys
        self._painter = None
        layers = [None if row.folded else row.layers[0] for row in rows]
        self.set_shape(layout.columns, layout.groups, layers, layout.once)
        self.put_cursor(self._cursor if self._cursor in stages else next(iter(stages), None))
        self.refresh(layout=resized)

    def action_open(self) -> None:
        self.post_message(self.Opened())

    def click_on_cursor(self) -> None:
        self.action_open()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._painter = None

    def lines_below(self, width: int) -> int:
        return bool(self._below) + len(self._legend(width))

    def draw_row(self, row: int) -> Strip:
        shown = self._rows[row]
        if shown.folded:
            return Strip([Segment(f"  ⋯ {shown.text}", self.style("fold"))])
        width, layer = self._cell_width(self.size.width), shown.layers[0]
        cells = [self._cell(Node(layer, name), width) for name in self._columns]
        groups = ([segment for cell in group for segment in cell] for group in self._by_group(cells))
        return Strip(self._separated(f"{layer:>{LABEL - 1}} ", groups))

    def draw_below(self, line: int) -> Strip:
        if self._below and line == 0:
            return Strip(list(self._once_segments()))
        return self._legend(self.size.width)[line - bool(self._below)]

    def places_below(self) -> Iterator[tuple[Node, int, int]]:
        at, width = LABEL, self._cell_width(self.size.width)
        for node in self._below:
            length = len(node.stage) + 2 + width
            yield node, at, length
            at += length

    def view_words(self, first: int, last: int) -> str:
        if last - first + 1 == len(self._rows):
            return ""
        layers = sum(len(row.layers) for row in self._rows)
        return f"layers {self._rows[first].layers[0]}–{self._rows[last].layers[-1]} of {layers}"

    @property
    def _has_cells(self) -> bool:
        return bool(self._stages)

    def _once_segments(self) -> Iterator[Segment]:
        width = self._cell_width(self.size.width)
        yield Segment(" " * LABEL, self.style("label"))
        for node in self._below:
            current = node == self._cursor
            yield Segment(f"{node.stage} ", self.style("cursor-label" if current else "other-label"))
            yield from self._cell(node, width)
            yield Segment(" ", self.style())

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
