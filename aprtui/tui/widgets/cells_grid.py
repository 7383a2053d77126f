"""A small grid of layers × stages in which some cells are lit: what a falsifier, or anything else, is about."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from rich.segment import Segment
from textual.geometry import Size
from textual.strip import Strip

from aprtui.trace.graph import Node, StageGraph
from aprtui.tui.draw.grid_layout import GridLayout, grid_layout, header_rows
from aprtui.tui.widgets.line_widget import LineWidget

LABEL = 4
WIDEST = 7

LIT, DARK = "●", "·"
PLAIN_LIT = "#"


class CellsGrid(LineWidget):
    """Draws one cell a stage of each layer, and a line of the stages that the model has once."""

    PREFIX = "cells-grid"
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "cells-grid--lit",
        "cells-grid--bad",
        "cells-grid--dark",
        "cells-grid--head",
    }
    DEFAULT_CSS = """
    CellsGrid {
        height: auto;
        .cells-grid--lit { color: $accent; text-style: bold; }
        .cells-grid--bad { color: $error; text-style: bold; }
        .cells-grid--dark { color: $text-muted; }
        .cells-grid--head { color: $foreground; }
    }
    """

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._layout: GridLayout | None = None
        self._lit: frozenset[Node] = frozenset()
        self._bad = False

    @property
    def lit(self) -> frozenset[Node]:
        """The nodes whose cells are lit."""
        return self._lit

    @property
    def first_lit_line(self) -> int:
        """The line of the first lit layer, behind the header; 0 where it is among the first."""
        layers = [node.layer for node in self._lit if node.layer is not None]
        return max(min(layers, default=0) - 1, 0)

    def show(self, graph: StageGraph | None, lit: Collection[Node] = (), *, bad: bool = False) -> None:
        """Light the cells of `lit`; `bad` ones stand out."""
        self._layout = None if graph is None else grid_layout(graph)
        self._lit, self._bad = frozenset(lit), bad
        self.refresh(layout=True)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Header, layers, and the stages of the model."""
        if self._layout is None:
            return 1
        return len(self._header(width)) + self._layout.layers + 1

    def render_line(self, y: int) -> Strip:
        """Line `y`."""
        layout, width = self._layout, self.size.width
        if layout is None:
            text = "no capture at hand: mark one in Browse, or open two in Diff" if y == 0 else ""
            return Strip([Segment(text, self.style("head"))]).adjust_cell_length(width, self.style())
        head = self._header(width)
        layer = y - len(head)
        if layer < 0:
            segments = [Segment(" " * LABEL, self.style("head"))]
            # Neighbours differ, since narrow ones touch.
            segments += [Segment(text, self.style("dark" if odd % 2 else "head")) for odd, text in enumerate(head[y])]
        elif layer < layout.layers:
            nodes, cell = [Node(layer, stage.name) for stage in layout.stages], self._cell_width(width)
            segments = [
                Segment(f"{layer:>{LABEL - 1}} ", self.style("head")),
                *(self._cell(node, cell) for node in nodes),
            ]
        elif layer == layout.layers:
            segments = [Segment(" " * LABEL, self.style("head"))]
            for node in layout.model_nodes:
                segments += [self._cell(node, 2), Segment(f"{node.stage}  ", self.style("head"))]
        else:
            segments = []
        return Strip(segments).adjust_cell_length(width, self.style())

    def _header(self, width: int) -> list[list[str]]:
        assert self._layout is not None
        return header_rows([stage.name for stage in self._layout.stages], self._cell_width(width))

    def _cell_width(self, width: int) -> int:
        assert self._layout is not None
        return max(1, min((width - LABEL) // max(self._layout.columns, 1), WIDEST))

    def _cell(self, node: Node, width: int) -> Segment:
        lit = node in self._lit
        glyph = (PLAIN_LIT if self.plain else LIT) if lit else DARK
        return Segment(glyph.ljust(width), self.style(("bad" if self._bad else "lit") if lit else "dark"))
