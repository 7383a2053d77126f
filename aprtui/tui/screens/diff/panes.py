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
from aprtui.trace.graph.stage import Node
from aprtui.tui.draw.tiles import Size
from aprtui.tui.draw.viewport import Viewport
from aprtui.tui.screens.diff.pair import PairReader, PairTiles, Sides, open_pair
from aprtui.tui.widgets.heatmap import Heatmap
from aprtui.tui.widgets.moves import HEADS, MOVES, ZOOMS

NAMES = ("a", "b", "difference")

Place = tuple[int, int, int]
"""Plane, row and column of a value."""


@dataclass(frozen=True, slots=True, eq=False)
class PaneRequest:
    """A stage of both sides that is to be read, for heatmaps of `size` lines and cells.

    The cursor is put on the value at `place`, else on the one that differs most; `view` is shown, else all values.
    """

    sides: Sides
    node: Node
    size: Size
    plain: bool
    place: Place | None = None
    view: Viewport | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PaneContents:
    pair: PairReader
    plane: int
    view: Viewport
    tiles: PairTiles


class DiffPanes(Widget, can_focus=True):
    """Shows one stage of both sides. A thread reads it; the stage before stays on the screen until then."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1, 0)", "Token before", show=False, group=MOVES),
        Binding("down,j", "move(1, 0)", "Token after", show=False, group=MOVES),
        Binding("left,h", "move(0, -1)", "Channels before", show=False, group=MOVES),
        Binding("right,l", "move(0, 1)", "Channels after", show=False, group=MOVES),
        Binding("plus,equals_sign", "zoom(True)", "Zoom in", show=False, id="diff.zoom.in", group=ZOOMS),
        Binding("minus", "zoom(False)", "Zoom out", show=False, id="diff.zoom.out", group=ZOOMS),
        Binding("less_than_sign", "head(-1)", "Head before", show=False, id="diff.head.previous", group=HEADS),
        Binding("greater_than_sign", "head(1)", "Head after", show=False, id="diff.head.next", group=HEADS),
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
        def __init__(self, words: str) -> None:
            super().__init__()
            self.words = words

    class Opened(Message):
        """The stage is to be opened."""

    class Loaded(Message):
        """A stage was read, or could not be read for a reason."""

        def __init__(self, request: PaneRequest, contents: PaneContents | str) -> None:
            super().__init__()
            self.request, self.contents = request, contents

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, classes="pane")
        self._sides: Sides | None = None
        self._node: Node | None = None
        self._place: Place | None = None
        self.view: Viewport | None = None
        """The values in view; None until the stage has been read."""
        self._request: PaneRequest | None = None
        self._contents: PaneContents | None = None
        self.words = ""

    def compose(self) -> ComposeResult:
        with Horizontal():
            for name in NAMES:
                heatmap = Heatmap(id=name)
                heatmap.can_focus = False
                yield heatmap
        yield Static("", markup=False)

    @property
    def place(self) -> Place | None:
        """Where the cursor stands, or will when the stage has been read; None where that is not known yet."""
        if self.view is None or self._contents is None:
            return self._place
        return self._contents.plane, self.view.row, self.view.column

    def open(self, sides: Sides, node: Node | None, place: Place | None = None) -> None:
        """Show `node` of both sides, the cursor on a value or on the one that differs most."""
        if node != self._node or sides is not self._sides or place is not None:
            self._sides, self._node, self._place, self.view = sides, node, place, None
            self._ask()

    def _ask(self) -> None:
        """Start reading the stage, if the heatmaps have any room."""
        heatmap = self.query_one("#difference", Heatmap)
        size = heatmap.size.height, heatmap.size.width
        if self._sides is not None and self._node is not None and all(size):
            self._request = PaneRequest(self._sides, self._node, size, heatmap.plain, self._place, self.view)
            self._read(self._request)

    # Without a description Textual writes out all arguments as one, two captures among them: 15 ms with each key.
    @work(thread=True, exclusive=True, group="pair", description="stage of both sides")
    def _read(self, request: PaneRequest) -> None:
        worker = get_current_worker()
        try:
            contents: PaneContents | str = read(request, lambda: worker.is_cancelled)
        except (AprtuiError, OSError) as error:
            contents = str(error)
        if not worker.is_cancelled:
            self.post_message(self.Loaded(request, contents))
        elif isinstance(contents, PaneContents):
            contents.pair.close()

    def on_diff_panes_loaded(self, message: Loaded) -> None:
        """Show what was read, unless another stage was requested meanwhile."""
        request, contents = message.request, message.contents
        if request is not self._request:
            if isinstance(contents, PaneContents):
                contents.pair.close()
            return
        if self._contents is not None:
            self._contents.pair.close()
        self.set_class(isinstance(contents, str), "-silent")
        if isinstance(contents, str):
            self._contents = self.view = None
            self.query_one(Static).update(contents)
            self.border_title, self.border_subtitle = str(request.node), ""
            self._say(contents)
        else:
            # The cursor may have moved meanwhile.
            self._contents, self.view = contents, self.view or contents.view
            self._draw(contents, self.view)
            self._say_value(contents, self.view)

    def _draw(self, contents: PaneContents, view: Viewport) -> None:
        pair, tiles = contents.pair, contents.tiles
        for name, tile, scale in zip(NAMES, tiles.tiles, (tiles.scale, tiles.scale, tiles.difference), strict=True):
            self.query_one(f"#{name}", Heatmap).show(view.enlarged(tile), scale.colour_map, view.cursor)
        head = f", head {contents.plane} of {pair.planes}" if pair.planes > 1 else ""
        rows, columns = pair.shape
        self.border_title = f"{self._node}{head}, {rows} × {columns}: A │ B │ B − A"
        self.border_subtitle = tiles.words

    def _turn(self, view: Viewport) -> None:
        """Show another view; where the same values stay in view, only the cursor is drawn again."""
        before, contents = self.view, self._contents
        if before is None or contents is None:
            return
        self.view = view
        if replace(view, row=0, column=0) != replace(before, row=0, column=0):
            self._place = contents.plane, view.row, view.column
            self._ask()
            return
        for name in NAMES:
            self.query_one(f"#{name}", Heatmap).move_cursor(view.cursor)
        self._say_value(contents, view)

    def _say_value(self, contents: PaneContents, view: Viewport) -> None:
        try:
            self._say(contents.pair.words(view, contents.plane))
        except (AprtuiError, OSError) as error:
            self._say(str(error))

    def _say(self, words: str) -> None:
        self.words = words
        self.post_message(self.Pointed(words))

    def action_move(self, rows: int, columns: int) -> None:
        if self.view is not None:
            self._turn(self.view.moved(rows, columns))

    def action_zoom(self, inwards: bool) -> None:
        view = self.view
        if view is not None and not (inwards and view.is_closest):
            self._turn(view.closer() if inwards else view.farther())

    def action_head(self, step: int) -> None:
        view, contents = self.view, self._contents
        if view is not None and contents is not None and contents.pair.planes > 1:
            self._place = (contents.plane + step) % contents.pair.planes, view.row, view.column
            self._ask()

    def action_open(self) -> None:
        self.post_message(self.Opened())

    def on_heatmap_resized(self, event: Heatmap.Resized) -> None:
        event.stop()
        heatmap = event.heatmap
        if heatmap.id != "difference" or not heatmap.size.height or not heatmap.size.width:
            return
        if self.view is None:
            self._ask()
        else:
            self._turn(self.view.resized(heatmap.size.height, heatmap.size.width))

    def on_heatmap_pointed(self, event: Heatmap.Pointed) -> None:
        event.stop()
        self.focus()
        if self.view is not None:
            self._turn(self.view.pointed(event.row, event.column))

    def on_heatmap_selected(self, event: Heatmap.Selected) -> None:
        event.stop()
        self.focus()
        if self.view is not None:
            self._turn(self.view.framed(event.first, event.last))

    def on_unmount(self) -> None:
        if self._contents is not None:
            self._contents.pair.close()


def read(request: PaneRequest, cancelled: Callable[[], bool]) -> PaneContents:
    """Read the stage; its files stay open, to say other values. Raises `UnreadableError`."""
    pair = open_pair(request.sides, request.node)
    try:
        view = request.view or Viewport.of(pair.shape, *request.size, plain=request.plain)
        if request.place is None:
            plane, view, tiles = pair.beginning(view, cancelled)
        else:
            plane, row, column = request.place
            plane, view = min(plane, pair.planes - 1), view.at(row, column)
            tiles = pair.tiles(view, plane, cancelled)
        return PaneContents(pair, plane, view, tiles)
    except BaseException:
        pair.close()
        raise
