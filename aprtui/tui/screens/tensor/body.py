"""The panes of the tensor screen: the heatmap with its labels and scale, what is known beside it, the bytes below."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from textual.app import ComposeResult
from textual.containers import Container, Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import Static

from aprtui.trace.profile import Profile
from aprtui.tui.draw.colours import Mark
from aprtui.tui.draw.numbers import number
from aprtui.tui.draw.tiles import Scale, ScaleKind, Tiling, finite_range, scale_for
from aprtui.tui.draw.viewport import Viewport, ruler, zoom_words
from aprtui.tui.screens.tensor.load import TileValues
from aprtui.tui.screens.tensor.map import ColourBar, TensorMap
from aprtui.tui.screens.tensor.source import TensorSource
from aprtui.tui.screens.tensor.text import (
    OUTLIER_COLUMNS,
    CursorValue,
    RowLabels,
    byte_pane,
    drop_empty_column,
    histogram_pane,
    key_lines,
    label_lines,
    label_width,
    outlier_rows,
    value_lines,
)
from aprtui.tui.widgets.lines import Ink, Lines, Piece
from aprtui.tui.widgets.table import Table

NOTHING_OPEN = """\
No tensor is open.
Press 2 for Browse, choose a capture, and in it a stage, each with enter.
`aprtui open FILE` opens a stage file."""


@dataclass(frozen=True, slots=True, eq=False)
class DisplayedPlane:
    """All that the screen shows of one plane of a source; `values` and `profile` are None until a thread has read them.

    The scale covers the share `clip` of the values.
    """

    source: TensorSource
    plane: int
    viewport: Viewport
    labels: RowLabels
    kind: ScaleKind
    clip: float
    values: TileValues | None = None
    profile: Profile | None = None

    def scale(self) -> Scale:
        """The scale: over all values if they have been read, else over those in the viewport."""
        stats = self.source.stats if self.profile is None else self.profile.stats
        if stats is not None and stats.min is not None and stats.max is not None:
            low, high = stats.min, stats.max
        else:
            low, high = (0.0, 0.0) if self.values is None else finite_range(self.values.values)
        if self.profile is not None and self.clip < 1:
            most = self.profile.magnitude_below(self.clip)
            low, high = max(low, -most), min(high, most)
        return scale_for(self.kind, low, high)

    def title(self) -> str:
        rows, columns = ("queries" if axis == "query" else f"{axis}s" for axis in self.source.axes)
        heads = f", head {self.plane} of {self.source.planes}" if self.source.planes > 1 else ""
        return f"{self.source.title}{heads}: {rows} × {columns}"


def mark_missing(tile: NDArray[np.uint8], tiling: Tiling, known: int, causal: bool) -> NDArray[np.uint8]:
    """`tile` with marks for cells that have not been read and, in an attention map, for cells with key > query."""
    tile = tile.copy()
    tile[known:] = Mark.MISSING
    if causal:
        last_row = tiling.row + (np.arange(tile.shape[0]) + 1) * tiling.rows_per_cell - 1
        first_column = tiling.column + np.arange(tile.shape[1]) * tiling.columns_per_cell
        tile[first_column[None, :] > last_row[:, None]] = Mark.MISSING
    return tile


class TensorBody(Container):
    """Draws a `DisplayedPlane`."""

    DEFAULT_CSS = """
    TensorBody {
        height: 1fr; layout: horizontal;
        #nothing { height: 100%; color: $text-muted; display: none; }
        #main { height: 100%; width: 1fr; }
        #map, #cells { height: 1fr; }
        #heat { height: 1fr; }
        #labels { width: 14; height: 100%; }
        #ruler { height: 1; }
        #side { width: 40; height: 100%; }
        #value { height: 9; }
        #histogram { height: 12; }
        #outliers { height: 1fr; }
        #bytes { height: 9; }
    }
    TensorBody.-empty #nothing { display: block; }
    TensorBody.-empty #main, TensorBody.-empty #side { display: none; }
    """

    def compose(self) -> ComposeResult:
        yield Static(NOTHING_OPEN, id="nothing", classes="pane", markup=False)
        with Vertical(id="main"):
            with Vertical(id="map", classes="pane"):
                with Horizontal(id="cells"):
                    yield Lines(id="labels")
                    with Vertical():
                        yield Lines(id="ruler")
                        yield TensorMap(id="heat")
                yield ColourBar(id="bar")
            yield Lines(id="bytes", classes="pane")
        with Vertical(id="side"):
            yield Lines(id="value", classes="pane")
            yield Lines(id="histogram", classes="pane")
            yield Table(OUTLIER_COLUMNS, "being read…", id="outliers")

    def on_mount(self) -> None:
        self._lines("value").border_title = "value"
        self._lines("histogram").border_title = "all values, log of the counts"

    @property
    def heat(self) -> TensorMap:
        return self.query_one(TensorMap)

    @property
    def outliers(self) -> Table:
        return self.query_one("#outliers", Table)

    def draw_map(self, plane: DisplayedPlane) -> None:
        values = plane.values
        if values is None:
            return
        scale = plane.scale()
        levels = mark_missing(scale.levels(values.values), values.tiling, values.known, plane.source.causal)
        tile = plane.viewport.enlarged(levels)
        numbers = values.values if plane.viewport.numbers else None
        self.heat.show(tile, scale.colour_map, plane.viewport.cursor, numbers)
        low, high = scale.ends()
        words = f"{plane.kind} scale" + ("" if plane.clip == 1 else f" of {100 * plane.clip:g} % of the values")
        words += ", + beyond it" if (tile == Mark.ABOVE).any() else ""
        zero = None if plane.kind is ScaleKind.LOG or not low < 0 < high else -low / (high - low)
        self.query_one(ColourBar).show(scale.colour_map, (number(low, 3), number(high, 3)), words, zero)
        pane = self.query_one("#map", Widget)
        pane.border_title, pane.border_subtitle = plane.title(), zoom_words(plane.viewport)
        self.draw_labels(plane)

    def move_cursor(self, plane: DisplayedPlane) -> None:
        self.heat.move_cursor(plane.viewport.cursor)
        self.draw_labels(plane)

    def draw_labels(self, plane: DisplayedPlane) -> None:
        viewport, labels, columns = plane.viewport, self._lines("labels"), self._lines("ruler")
        width = label_width(viewport, plane.labels, self.query_one("#map").size.width // 7)
        keys = key_lines(viewport, plane.labels.texts) if plane.source.axes[1] == "key" else []
        for styles, name, wanted in ((labels.styles, "width", width + 1), (columns.styles, "height", 1 + len(keys))):
            if (set_to := getattr(styles, name)) is None or set_to.value != wanted:
                setattr(styles, name, wanted)
        lines = label_lines(viewport, plane.labels, plane.profile, viewport.lines, width, plain=viewport.plain)
        labels.show([*[[] for _ in keys], *lines])
        columns.show([[(ruler(viewport, viewport.cells), Ink.MUTED)], *keys])

    def draw_value(self, plane: DisplayedPlane, value: CursorValue | None) -> None:
        lines: list[list[Piece]] = []
        if value is not None:
            width = self._lines("value").size.width
            lines = value_lines(plane.source, plane.labels, value, plane.profile, width)
            pane = self._lines("bytes")
            if pane.size.height:
                pane.border_title, dump = byte_pane(plane.source, value, *pane.size[::-1])
                pane.show(dump)
        self._lines("value").show(lines)

    def draw_whole(self, plane: DisplayedPlane) -> None:
        pane = self._lines("histogram")
        size = pane.size.height, pane.size.width
        lines, pane.border_subtitle = histogram_pane(plane.profile, plane.scale(), size, plain=plane.viewport.plain)
        pane.show(lines)
        table = self.outliers
        table.border_title = f"{plane.source.axes[1]}s with the largest rms"
        if plane.profile is not None:
            table.empty = "no finite values"
        rows = outlier_rows(plane.source, plane.profile, plane.labels)
        table.show(*drop_empty_column(rows, OUTLIER_COLUMNS))

    def _lines(self, name: str) -> Lines:
        return self.query_one(f"#{name}", Lines)
