"""A small grid of layers × stages in which some cells are lit: those that a falsifier is about."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from rich.segment import Segment
from textual.strip import Strip

from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.tui.draw.grid_layout import grid_layout
from aprtui.tui.widgets.layer_grid import LABEL, LayerGrid

LIT, DARK = "●", "·"
PLAIN_LIT = "#"


class CellsGrid(LayerGrid):
    """Draws one cell a stage of each layer, and a line of the stages that the model has once; it has no cursor."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"layer-grid--{name}" for name in ("lit", "bad", "dark")}
    DEFAULT_CSS = """
    CellsGrid {
        height: auto;
        .layer-grid--lit { color: $accent; text-style: bold; }
        .layer-grid--bad { color: $error; text-style: bold; }
        .layer-grid--dark { color: $text-muted; }
    }
    """
    NARROWEST, WIDEST = 1, 7
    LABEL_STYLE = "label"
    EMPTY = "no capture at hand: mark one in Browse, or open two in Diff"
    EMPTY_HEIGHT = 1

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._model_nodes: tuple[Node, ...] = ()
        self._lit: frozenset[Node] = frozenset()
        self._bad = False

    @property
    def lit(self) -> frozenset[Node]:
        return self._lit

    @property
    def first_lit_line(self) -> int:
        """The line of the first lit layer, behind the header; 0 where it is among the first."""
        layers = [node.layer for node in self._lit if node.layer is not None]
        return max(min(layers, default=0) - 1, 0)

    def show(self, graph: StageGraph | None, lit: Collection[Node] = (), *, bad: bool = False) -> None:
        layout = None if graph is None else grid_layout(graph)
        if layout is None:
            self.set_shape((), (), ())
        else:
            self.set_shape([stage.name for stage in layout.stages], (), range(len(layout.rows)))
        self._model_nodes = () if layout is None else layout.model_nodes
        self._lit, self._bad = frozenset(lit), bad
        self.refresh(layout=True)

    def lines_below(self, width: int) -> int:
        return 1

    def draw_row(self, row: int) -> Strip:
        width = self._cell_width(self.size.width)
        cells = [self._cell(Node(row, name), width) for name in self._columns]
        return Strip(self._separated(f"{row:>{LABEL - 1}} ", [cells]))

    def draw_below(self, line: int) -> Strip:
        segments = [Segment(" " * LABEL, self.style("label"))]
        for node in self._model_nodes:
            segments += [self._cell(node, 2), Segment(f"{node.stage}  ", self.style("label"))]
        return Strip(segments)

    def _cell_width(self, width: int) -> int:
        """At least 1: cells that have no room are cut off."""
        return max(super()._cell_width(width), 1)

    def _cell(self, node: Node, width: int) -> Segment:
        lit = node in self._lit
        glyph = (PLAIN_LIT if self.plain else LIT) if lit else DARK
        return Segment(glyph.ljust(width), self.style(("bad" if self._bad else "lit") if lit else "dark"))
