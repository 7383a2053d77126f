"""A, B and their difference as heatmaps in lock-step: one cursor, one view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
from aprtui.tui.draw.tiles import Size
from aprtui.tui.draw.viewport import Viewport
from aprtui.tui.screens.diff.pair import PairTiles, StagePair, open_files, open_pair
from aprtui.tui.screens.diff.sides import Sides
from aprtui.tui.widgets.heatmap import Heatmap

NAMES = ("a", "b", "difference")

Place = tuple[int, int, int]
"""Plane, row and column of a value."""


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What is to be read: a stage of both sides, for heatmaps of so many lines and cells.

    The cursor is to stand on the value at `place`, else on the one that differs most; what is seen is `view`, else all.
    """

    sides: Sides
    node: Node
    size: Size
    plain: bool
    place: Place | None = None
    view: Viewport | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What was read of it."""

    pair: StagePair
    plane: int
    view: Viewport
    tiles: PairTiles


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
    """

    class Pointed(Message):
        """The cursor stands on another value."""

        def __init__(self, words: str) -> None:
            super().__init__()
            self.words = words

    class Opened(Message):
        """The stage is to be opened."""

    class Loaded(Message):
        """What was found, or why nothing was."""

        def __init__(self, wanted: Wanted, found: Found | str) -> None:
            super().__init__()
            self.wanted, self.found = wanted, found

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, classes="pane")
        self._sides: Sides | None = None
        self._node: Node | None = None
        self._place: Place | None = None
        self._view: Viewport | None = None
        self._wanted: Wanted | None = None
        self._found: Found | None = None
        self._words = ""

    def compose(self) -> ComposeResult:
        """Three heatmaps, or a word instead."""
        with Horizontal():
            for name in NAMES:
                heatmap = Heatmap(id=name)
                heatmap.can_focus = False
                yield heatmap
        yield Static("", markup=False)

    @property
    def view(self) -> Viewport | None:
        """What is seen; None until the stage has been read."""
        return self._view

    @property
    def place(self) -> Place | None:
        """Where the cursor stands, or will when the stage has been read; None where that is not known yet."""
        if self._view is None or self._found is None:
            return self._place
        return self._found.plane, self._view.row, self._view.column

    @property
    def words(self) -> str:
        """The value under the cursor."""
        return self._words

    def open(self, sides: Sides, node: Node | None, place: Place | None = None) -> None:
        """Show `node` of both sides, the cursor on a value or on the one that differs most."""
        if node != self._node or sides is not self._sides or place is not None:
            self._sides, self._node, self._place, self._view = sides, node, place, None
            self._ask()

    def _ask(self) -> None:
        """Have what is wanted read, where there is room for it."""
        heatmap = self.query_one("#difference", Heatmap)
        size = heatmap.size.height, heatmap.size.width
        if self._sides is not None and self._node is not None and all(size):
            self._wanted = Wanted(self._sides, self._node, size, heatmap.plain, self._place, self._view)
            self._read(self._wanted)

    # Without a description Textual writes out all arguments as one, two captures among them: 15 ms with each key.
    @work(thread=True, exclusive=True, group="pair", description="stage of both sides")
    def _read(self, wanted: Wanted) -> None:
        worker = get_current_worker()
        try:
            found: Found | str = read(wanted, lambda: worker.is_cancelled)
        except (AprtuiError, OSError) as error:
            found = str(error)
        if not worker.is_cancelled:
            self.post_message(self.Loaded(wanted, found))
        elif isinstance(found, Found):
            found.pair.close()

    def on_diff_panes_loaded(self, message: Loaded) -> None:
        """Show what was read, unless something else is wanted by now."""
        wanted, found = message.wanted, message.found
        if wanted is not self._wanted:
            if isinstance(found, Found):
                found.pair.close()
            return
        if self._found is not None:
            self._found.pair.close()
        self.set_class(isinstance(found, str), "-silent")
        if isinstance(found, str):
            self._found = self._view = None
            self.query_one(Static).update(found)
            self.border_title, self.border_subtitle = str(wanted.node), ""
            self._tell(found)
        else:
            # The cursor may have moved meanwhile.
            self._found, self._view = found, self._view or found.view
            self._draw(found, self._view)
            self._tell_value(found, self._view)

    def _draw(self, found: Found, view: Viewport) -> None:
        pair, tiles = found.pair, found.tiles
        for name, tile, scale in zip(NAMES, tiles.tiles, (tiles.scale, tiles.scale, tiles.difference), strict=True):
            self.query_one(f"#{name}", Heatmap).show(view.enlarged(tile), scale.colour_map, view.cursor)
        head = f", head {found.plane} of {pair.planes}" if pair.planes > 1 else ""
        rows, columns = pair.shape
        self.border_title = f"{self._node}{head}, {rows} × {columns}: A │ B │ B − A"
        self.border_subtitle = f"A, B up to {tiles.scale.high:.3g}, B − A up to {tiles.difference.high:.3g}"

    def _turn(self, view: Viewport) -> None:
        """Another view; where no other values are seen, the cursor alone is drawn anew."""
        before, found = self._view, self._found
        if before is None or found is None:
            return
        self._view = view
        if replace(view, row=0, column=0) != replace(before, row=0, column=0):
            self._place = found.plane, view.row, view.column
            self._ask()
            return
        for name in NAMES:
            self.query_one(f"#{name}", Heatmap).move_cursor(view.cursor)
        self._tell_value(found, view)

    def _tell_value(self, found: Found, view: Viewport) -> None:
        try:
            self._tell(found.pair.words(view, found.plane))
        except (AprtuiError, OSError) as error:
            self._tell(str(error))

    def _tell(self, words: str) -> None:
        self._words = words
        self.post_message(self.Pointed(words))

    def action_move(self, rows: int, columns: int) -> None:
        """Move the cursor by cells."""
        if self._view is not None:
            self._turn(self._view.moved(rows, columns))

    def action_zoom(self, inwards: bool) -> None:
        """Fewer values a cell, down to single ones, or more."""
        view = self._view
        if view is not None and not (inwards and view.is_closest):
            self._turn(view.closer() if inwards else view.farther())

    def action_head(self, step: int) -> None:
        """Another head of an attention map."""
        view, found = self._view, self._found
        if view is not None and found is not None and found.pair.planes > 1:
            self._place = (found.plane + step) % found.pair.planes, view.row, view.column
            self._ask()

    def action_open(self) -> None:
        """Open the stage in the tensor screen."""
        self.post_message(self.Opened())

    def on_heatmap_resized(self, event: Heatmap.Resized) -> None:
        """Another number of values has room."""
        event.stop()
        heatmap = event.heatmap
        if heatmap.id != "difference" or not heatmap.size.height or not heatmap.size.width:
            return
        if self._view is None:
            self._ask()
        else:
            self._turn(self._view.resized(heatmap.size.height, heatmap.size.width))

    def on_heatmap_pointed(self, event: Heatmap.Pointed) -> None:
        """The mouse chose a value."""
        event.stop()
        self.focus()
        if self._view is not None:
            self._turn(self._view.pointed(event.row, event.column))

    def on_heatmap_selected(self, event: Heatmap.Selected) -> None:
        """Zoom into what was selected with the mouse, on all sides."""
        event.stop()
        self.focus()
        if self._view is not None:
            self._turn(self._view.framed(event.first, event.last))

    def on_unmount(self) -> None:
        """Leave no file open."""
        if self._found is not None:
            self._found.pair.close()


def read(wanted: Wanted, cancelled: Callable[[], bool]) -> Found:
    """Read what is wanted; the files stay open for the words of other values. Raises `UnreadableError`."""
    files = wanted.sides.files
    pair = open_files(*files) if files is not None else open_pair(wanted.sides, wanted.node)
    try:
        view = wanted.view or Viewport.of(pair.shape, *wanted.size, plain=wanted.plain)
        if wanted.place is None:
            plane, view, tiles = pair.beginning(view, cancelled)
        else:
            plane, row, column = wanted.place
            plane, view = min(plane, pair.planes - 1), view.at(row, column)
            tiles = pair.tiles(view, plane, cancelled)
        return Found(pair, plane, view, tiles)
    except BaseException:
        pair.close()
        raise
