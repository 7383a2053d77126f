"""Grids of layers: how narrow they can be, how the cursor moves."""

from __future__ import annotations

import pytest
from rich.segment import Segment
from textual.app import App, ComposeResult
from textual.strip import Strip

from aprtui.trace.graph.stage import Node
from aprtui.tui.widgets.layer_grid import LABEL, LayerGrid

COLUMNS = ("norm", "gate", "up", "out")
GROUPS = (("attention", 1), ("feed-forward", 3))
NEEDED = LABEL + 2 * len(COLUMNS) + 1
"""Columns of the terminal that the grid needs: labels, two for each cell, a separator."""


class WordGrid(LayerGrid, can_focus=True):
    """Draws the names of its cells, a fold in place of layer 1, and a line below."""

    def __init__(self) -> None:
        super().__init__()
        self.set_shape(COLUMNS, GROUPS, (0, None, 2, 3), (Node(None, "embedding"), Node(None, "lm_head")))

    def lines_below(self, width: int) -> int:
        return 1

    def draw_row(self, row: int) -> Strip:
        width = self._cell_width(self.size.width)
        cells = [Segment(name[0] * width) for name in self._columns]
        return Strip(self._separated(f"{row:>3} ", self._by_group(cells, self._groups)))

    def draw_below(self, line: int) -> Strip:
        return Strip([Segment("    below")])


class GridApp(App[None]):
    CSS = "WordGrid { height: 1fr; }"

    def compose(self) -> ComposeResult:
        yield WordGrid()


def text(grid: LayerGrid) -> str:
    return "\n".join(grid.render_line(y).text for y in range(grid.size.height))


async def test_at_the_width_that_it_needs_the_grid_is_drawn_and_one_column_below_it_says_which_that_is() -> None:
    async with GridApp().run_test(size=(NEEDED, 12)) as pilot:
        grid = pilot.app.query_one(WordGrid)
        assert grid.size.width == NEEDED
        assert "  0 nn│gguuoo" in text(grid).splitlines()
        await pilot.resize_terminal(NEEDED - 1, 12)
        await pilot.pause()
        assert grid.size.width == NEEDED - 1
        assert f"{grid._size_words(NEEDED - 1)}" == f"the grid needs {NEEDED} columns, there are {NEEDED - 1}"
        assert text(grid).startswith("the grid ne") and "│" not in text(grid) and not grid.jump_places()


@pytest.mark.parametrize(
    ("node", "moves", "reached"),
    [
        (Node(0, "gate"), [(1, 0)], Node(2, "gate")),
        (Node(2, "gate"), [(-1, 0), (-1, 0)], Node(0, "gate")),
        (Node(0, "norm"), [(0, -1), (0, 9)], Node(0, "out")),
        (Node(0, "up"), [(10, 0)], Node(3, "up")),
        (Node(3, "out"), [(1, 0)], Node(None, "lm_head")),
        (Node(3, "norm"), [(1, 0), (0, 1), (0, 1)], Node(None, "lm_head")),
        (Node(3, "gate"), [(1, 0), (-1, 0)], Node(3, "gate")),
        (Node(1, "gate"), [], Node(0, "gate")),
        (Node(0, "nothing"), [], None),
    ],
)
async def test_the_cursor_stays_on_cells(node: Node, moves: list[tuple[int, int]], reached: Node | None) -> None:
    async with GridApp().run_test(size=(40, 12)) as pilot:
        grid = pilot.app.query_one(WordGrid)
        grid.put_cursor(node)
        for rows, columns in moves:
            grid.action_move(rows, columns)
        assert grid.node == reached


async def test_rows_scroll_with_the_cursor_below_headers_that_stay() -> None:
    async with GridApp().run_test(size=(40, 6)) as pilot:
        grid = pilot.app.query_one(WordGrid)
        lines = [line.split() for line in text(grid).splitlines()]
        assert lines[-1] == ["below"] and lines[1] == ["norm", "│gate", "up", "out"]
        grid.put_cursor(Node(3, "up"))
        shown = [line.split()[0] for line in text(grid).splitlines()[2:-1]]
        assert shown == ["1", "2", "3"]
