"""A, B and their difference as heatmaps in lock-step: one cursor, one view."""

from __future__ import annotations

from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Static
from textual.worker import get_current_worker

from aprtui.errors import AprtuiError
from aprtui.trace.graph import Node
from aprtui.tui.diff_pair import PairTiles, StagePair, View, open_files, open_pair
from aprtui.tui.diff_sides import Sides
from aprtui.tui.heatmap import Heatmap
from aprtui.tui.tiles import Size, whole

NAMES = ("a", "b", "difference")

MOST_HIGH, MOST_WIDE = 8, 6
"""Few values are drawn larger: no higher than four lines of two rows each, no wider than so many cells."""


class DiffPanes(Widget, can_focus=True):
    """Shows one stage of both sides. Reading is done by a thread; what is shown stays until the new is there."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1, 0)", "Token before", show=False),
        Binding("down,j", "move(1, 0)", "Token after", show=False),
        Binding("left,h", "move(0, -1)", "Channels before", show=False),
        Binding("right,l", "move(0, 1)", "Channels after", show=False),
        Binding("i", "zoom(True)", "Zoom in", show=False, id="diff.zoom.in"),
        Binding("o", "zoom(False)", "Zoom out", show=False, id="diff.zoom.out"),
        Binding("less_than_sign", "head(-1)", "Head before", show=False, id="diff.head.previous"),
        Binding("greater_than_sign", "head(1)", "Head after", show=False, id="diff.head.next"),
        Binding("enter", "open", "Open tensor", show=False),
    ]
    DEFAULT_CSS = """
    DiffPanes { height: 1fr; min-height: 5; }
    DiffPanes > Horizontal { height: 1fr; }
    DiffPanes Static { height: 1fr; display: none; color: $text-muted; }
    DiffPanes.-silent Static { display: block; }
    DiffPanes.-silent Horizontal { display: none; }
    DiffPanes Heatmap { width: 1fr; margin: 0 1 0 0; }
    DiffPanes Heatmap#difference { margin: 0; }
    DiffPanes .caption { height: 1; }
    """

    class Pointed(Message):
        """The cursor stands on another value."""

        def __init__(self, words: str) -> None:
            super().__init__()
            self.words = words

    class Opened(Message):
        """The stage is to be opened."""

    class Loaded(Message):
        """What was read of a stage: its tiles, or why there are none."""

        def __init__(
            self, node: Node | None, pair: StagePair | None, view: View, tiles: PairTiles | None, words: str
        ) -> None:
            super().__init__()
            self.node, self.pair, self.view, self.tiles, self.words = node, pair, view, tiles, words

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, classes="pane")
        self._sides: Sides | None = None
        self._node: Node | None = None
        self._pair: StagePair | None = None
        self._view = View()
        self._words = ""
        self._repeats = (1, 1)

    def compose(self) -> ComposeResult:
        """Three heatmaps, or a word instead."""
        with Horizontal():
            for name in NAMES:
                heatmap = Heatmap(id=name)
                heatmap.can_focus = False
                yield heatmap
        yield Static("", markup=False)

    @property
    def view(self) -> View:
        """What is seen."""
        return self._view

    @property
    def words(self) -> str:
        """The value under the cursor."""
        return self._words

    def open(self, sides: Sides, node: Node | None, place: tuple[int, int, int] | None = None) -> None:
        """Show `node` of both sides, the cursor on a value (plane, row, column) or on the one that differs most."""
        if node != self._node or sides is not self._sides or place is not None:
            self._sides, self._node = sides, node
            self._load(sides, node, None, place, self._room())

    def _room(self) -> Size:
        return self.query_one("#difference", Heatmap).room

    @work(thread=True, exclusive=True, group="pair")
    def _load(
        self, sides: Sides, node: Node | None, view: View | None, place: tuple[int, int, int] | None, room: Size
    ) -> None:
        worker = get_current_worker()
        if node is None or not all(room):
            return
        pair = None
        try:
            files = sides.files
            pair = open_files(*files) if files is not None else open_pair(sides, node)
            if view is None and place is None:
                chosen, tiles = pair.beginning(room, lambda: worker.is_cancelled)
            else:
                chosen = view or _at(pair, place or (0, 0, 0), room)
                tiles = pair.tiles(chosen, room, lambda: worker.is_cancelled)
            words = pair.words(chosen)
        except (AprtuiError, OSError) as error:
            if not worker.is_cancelled:
                self.post_message(self.Loaded(node, None, View(), None, str(error)))
        else:
            if not worker.is_cancelled:
                self.post_message(self.Loaded(node, pair, chosen, tiles, words))
                return
        if pair is not None:
            pair.close()

    def on_diff_panes_loaded(self, message: Loaded) -> None:
        """Show what was read."""
        if message.node != self._node:
            if message.pair is not None:
                message.pair.close()
            return
        if self._pair is not None:
            self._pair.close()
        self._pair, self._view, self._words = message.pair, message.view, message.words
        self.set_class(message.tiles is None, "-silent")
        if message.tiles is None or message.pair is None:
            self.query_one(Static).update(message.words)
            self.border_title = str(message.node)
            self.border_subtitle = ""
        else:
            self._draw(message.tiles, message.pair)
        self.post_message(self.Pointed(self._words))

    def _draw(self, tiles: PairTiles, pair: StagePair) -> None:
        scales = (tiles.scale, tiles.scale, tiles.difference)
        room, shape = self._room(), tiles.tiles[0].shape
        high, wide = (room[axis] // max(shape[axis], 1) for axis in (0, 1))
        self._repeats = max(min(high, MOST_HIGH) // 2 * 2, 1), max(min(wide, MOST_WIDE), 1)
        for name, tile, scale in zip(NAMES, tiles.tiles, scales, strict=True):
            heatmap = self.query_one(f"#{name}", Heatmap)
            larger = tile.repeat(self._repeats[0], axis=0).repeat(self._repeats[1], axis=1)
            heatmap.show(larger, scale.colour_map, self._cell)
        head = f", head {self._view.plane} of {pair.planes}" if pair.planes > 1 else ""
        rows, columns = pair.shape
        self.border_title = f"{self._node}{head}, {rows} × {columns}: A │ B │ B − A"
        self.border_subtitle = f"A, B ±{tiles.scale.high:.3g}, B − A ±{tiles.difference.high:.3g}"

    @property
    def _cell(self) -> Size:
        """Where the cursor is in the heatmaps."""
        row, column = self._view.cell
        return row * self._repeats[0], column * self._repeats[1]

    def _again(self, view: View) -> None:
        if self._sides is not None:
            self._load(self._sides, self._node, view, None, self._room())

    def action_move(self, rows: int, columns: int) -> None:
        """Move the cursor by a cell."""
        if self._pair is None:
            return
        before, room = self._view, self._room()
        self._view = before.moved(rows, columns, self._pair.shape, room)
        if self._view.viewport != before.viewport:
            self._again(self._view)
            return
        for name in NAMES:
            self.query_one(f"#{name}", Heatmap).move_cursor(self._cell)
        try:
            self._words = self._pair.words(self._view)
        except (AprtuiError, OSError) as error:
            self._words = str(error)
        self.post_message(self.Pointed(self._words))

    def action_zoom(self, inwards: bool) -> None:
        """Fewer values a cell, or more."""
        if self._pair is not None:
            self._again(self._view.zoomed(inwards, self._pair.shape, self._room()))

    def action_head(self, step: int) -> None:
        """Another head of an attention map."""
        if self._pair is not None and self._pair.planes > 1:
            view = self._view
            self._again(View(view.viewport, (view.plane + step) % self._pair.planes, view.row, view.column))

    def action_open(self) -> None:
        """Open the stage in the tensor screen."""
        self.post_message(self.Opened())

    def on_heatmap_resized(self, event: Heatmap.Resized) -> None:
        """Another number of values has room."""
        event.stop()
        if event.heatmap.id == "difference" and self._sides is not None:
            self._load(self._sides, self._node, None, None, self._room())

    def on_heatmap_pointed(self, event: Heatmap.Pointed) -> None:
        """The mouse chose a value."""
        event.stop()
        self.focus()
        row, column = self._view.cell
        self.action_move(event.row // self._repeats[0] - row, event.column // self._repeats[1] - column)

    def on_unmount(self) -> None:
        """Leave no file open."""
        if self._pair is not None:
            self._pair.close()


def _at(pair: StagePair, place: tuple[int, int, int], room: Size) -> View:
    """All of the stage, the cursor on a value."""
    plane, row, column = place
    rows, columns = pair.shape
    return View(whole(pair.shape, room), min(plane, pair.planes - 1), min(row, rows - 1), min(column, columns - 1))
