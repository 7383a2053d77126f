"""The panes of the tensor screen: the heatmap with its labels and scale, what is known beside it, the bytes below."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Container, Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import Static

from aprtui.tui.draw.levels import Mark
from aprtui.tui.draw.viewport import ruler
from aprtui.tui.screens.tensor.help_text import NOTHING_OPEN
from aprtui.tui.screens.tensor.map import ColourBar, TensorMap
from aprtui.tui.screens.tensor.shown import Shown
from aprtui.tui.screens.tensor.side import (
    OUTLIER_COLUMNS,
    Pointed,
    byte_pane,
    histogram_pane,
    label_lines,
    label_width,
    outlier_rows,
    value_lines,
    without_empty,
)
from aprtui.tui.screens.tensor.text import signed_number
from aprtui.tui.widgets.lines import Ink, Lines, Piece
from aprtui.tui.widgets.table import Table


class TensorBody(Container):
    """Draws what it is given."""

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
        """All panes."""
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
        """Name the panes."""
        self._lines("value").border_title = "value"
        self._lines("histogram").border_title = "all values, log of the counts"

    @property
    def heat(self) -> TensorMap:
        """The heatmap."""
        return self.query_one(TensorMap)

    @property
    def outliers(self) -> Table:
        """The list of outlier channels."""
        return self.query_one("#outliers", Table)

    def draw_map(self, shown: Shown) -> None:
        """The tile, its labels and its scale."""
        glimpse = shown.glimpse
        if glimpse is None:
            return
        scale = shown.scale()
        tile = shown.tile(glimpse, scale)
        if shown.view.numbers:
            self.heat.write_out(glimpse.values, tile, scale.colour_map, shown.view.cursor)
        else:
            self.heat.show(tile, scale.colour_map, shown.view.cursor)
        low, high = scale.ends()
        words = shown.scale_words() + (", + beyond it" if (tile == Mark.ABOVE).any() else "")
        self.query_one(ColourBar).show(scale.colour_map, (signed_number(low, 3), signed_number(high, 3)), words)
        pane = self.query_one("#map", Widget)
        pane.border_title, pane.border_subtitle = shown.title(), shown.zoom_words()
        self.draw_labels(shown)

    def move_cursor(self, shown: Shown) -> None:
        """The cursor on another value of the same tile."""
        self.heat.move_cursor(shown.view.cursor)
        self.draw_labels(shown)

    def draw_labels(self, shown: Shown) -> None:
        """Names of the rows, numbers of the columns."""
        view, labels = shown.view, self._lines("labels")
        width = label_width(view, shown.labels) + 1
        if labels.styles.width is None or labels.styles.width.value != width:
            labels.styles.width = width
        labels.show(label_lines(view, shown.labels, shown.profile, view.lines, plain=view.plain))
        self._lines("ruler").show([[(ruler(view, view.cells), Ink.MUTED)]])

    def draw_value(self, shown: Shown, found: Pointed | None) -> None:
        """The value under the cursor, and its bytes."""
        lines: list[list[Piece]] = []
        if found is not None:
            lines = value_lines(shown.source, shown.labels, found, shown.profile)
            pane = self._lines("bytes")
            if pane.size.height:
                pane.border_title, dump = byte_pane(shown.source, found, pane.size.height)
                pane.show(dump)
        self._lines("value").show(lines)

    def draw_whole(self, shown: Shown) -> None:
        """Histogram and outliers."""
        pane = self._lines("histogram")
        size = pane.size.height, pane.size.width
        pane.show(histogram_pane(shown.profile, shown.scale(), size, plain=shown.view.plain))
        table = self.outliers
        table.border_title = f"{shown.source.axes[1]}s with the largest rms"
        if shown.profile is not None:
            table.empty = "no finite values"
        rows = outlier_rows(shown.source, shown.profile, shown.labels)
        table.show(*without_empty(rows, OUTLIER_COLUMNS))

    def _lines(self, name: str) -> Lines:
        return self.query_one(f"#{name}", Lines)
