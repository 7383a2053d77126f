"""The stage grid: layers × stages of one pass, and a cursor on one of them.

It has two views: numbers, a line for each layer; and an overview in colours alone, two or four layers a line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.cache import LRUCache
from textual.events import Resize
from textual.geometry import Size
from textual.strip import Strip

from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.tui.draw.bars import Bar, lens_cells
from aprtui.tui.draw.colours import LEVELS, ColourMap, Mark, glyph, level_colours, level_styles
from aprtui.tui.draw.figures import Figures, grid_tile
from aprtui.tui.draw.grid_layout import GridLayout, grid_layout, header_rows
from aprtui.tui.draw.overview import CODE_WIDTH, FAULT, WIDEST, OverviewPalette
from aprtui.tui.draw.text import SEPARATOR, clipped, padded
from aprtui.tui.widgets.layer_grid import LABEL, LayerGrid
from aprtui.tui.widgets.moves import MOVES, PAGES
from aprtui.tui.widgets.overview_grid import GridView, OverviewGrid

CACHED_STRIPS = 512

LEGEND = 8
"""Colours in the legend, two cells each."""

NUMBER_WIDTH = 4
"""Cells that are narrower have no room for a number."""

LENS_WIDTH, LENS_WANTED = 17, 26
"""Cells of one entry of the logit lens: at least, and with room for most tokens."""

LENS_GAP = 2

SIGNS: dict[int, str] = {Mark.NAN: "X", Mark.INF: "I"}
GLYPHS = tuple(glyph(level) for level in range(LEVELS + len(Mark)))

FAULT_COLOUR = "#{:02x}{:02x}{:02x}".format(*FAULT)


PERCENT = {GridView.NUMBERS: 70, GridView.OVERVIEW: 75}
"""A view takes at most this much of the height that there is, so that others have room beside the grid."""

LINES_AROUND = 7
"""Lines of a screen that are no panes."""


class StageGrid(OverviewGrid, can_focus=True):
    """Draws the cells of all layers, and above and below them the stages that the model has once.

    Unless one of the views is asked for, the overview is shown where not all layers have room with their numbers, and
    what each would say next beside them.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1, 0)", "Layer before", show=False, group=MOVES),
        Binding("down,j", "move(1, 0)", "Layer after", show=False, group=MOVES),
        Binding("left,h", "move(0, -1)", "Stage before", show=False, group=MOVES),
        Binding("right,l", "move(0, 1)", "Stage after", show=False, group=MOVES),
        Binding("pageup", "move(-10, 0)", "Ten layers up", show=False, group=PAGES),
        Binding("pagedown", "move(10, 0)", "Ten layers down", show=False, group=PAGES),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"layer-grid--{name}" for name in ("lens", "lens-last")}
    DEFAULT_CSS = """
    StageGrid {
        .layer-grid--lens { color: $text-muted; }
        .layer-grid--lens-last { color: $foreground; text-style: bold; }
        &:nocolor .layer-grid--other-label { text-style: dim; }
    }
    """
    LINES_ABOVE = 1
    LEAST_CELL = NUMBER_WIDTH

    class Pointed(LayerGrid.Pointed):
        """The cursor stands on another stage, or its numbers have changed."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._graph: StageGraph | None = None
        self._layout: GridLayout | None = None
        self._figures: Figures | None = None
        self._tile: NDArray[np.uint8] | None = None
        self._first_bad = ""
        self._faults: frozenset[Node] = frozenset()
        self._lens: Sequence[Bar] | None = None
        self._lens_note: Sequence[str] = ()
        self._version = 0
        self._strips: LRUCache[tuple[int, int, int, int, int, Node | None], Strip] = LRUCache(CACHED_STRIPS)
        self._level_styles: list[Style] = []

    @property
    def graph(self) -> StageGraph | None:
        return self._graph

    def open_graph(self, graph: StageGraph, node: Node | None = None) -> None:
        """Take the rows and columns from `graph`, with the cursor on `node`; nothing is known about its stages yet."""
        self._graph, self._layout = graph, grid_layout(graph)
        self._figures, self._tile, self._first_bad = None, None, ""
        self._version += 1
        columns = [stage.name for stage in self._layout.stages]
        self.set_shape(columns, self._layout.groups, range(len(self._layout.rows)), marks=graph.layer_marks)
        # Of logits alone there are no layers.
        self._cursor = Node(0, columns[0]) if columns else None
        self._column, self._first_row, self._first_column = 0, 0, 0
        if node is not None:
            self.put_cursor(node)
        self.refresh(layout=True)

    def mark_faults(self, nodes: Iterable[Node]) -> None:
        """Outline the cells of `nodes`, in which a fault is injected."""
        self._faults = frozenset(nodes)
        self._version += 1
        self.update_subtitle()
        self.refresh()

    def show_lens(self, bars: Sequence[Bar] | None, note: str = "") -> None:
        """Show at the right of each row what its layer would say next; None for not at all.

        Where there are no `bars`, a `note` says why.
        """
        lines = note.splitlines()
        if bars == self._lens and lines == self._lens_note:
            return
        turned = (bars is None) != (self._lens is None)
        self._lens, self._lens_note = bars, lines
        self._version += 1
        self.change_lines() if turned else self.refresh()

    def change_lines(self) -> None:
        self._version += 1
        super().change_lines()

    def show(self, figures: Figures, first_bad: str = "", *, notify: bool = True) -> None:
        """Draw `figures`; `first_bad` names the first node that holds NaN or Inf, wherever it is.

        A caller that describes the cell itself passes `notify=False`: the effect of a message comes a frame later.
        """
        if self._figures is None or figures.statistic is not self._figures.statistic:
            self._level_styles = []
            self._paints.clear()
        self._figures, self._first_bad = figures, first_bad
        self._tile = None if self._layout is None else grid_tile(self._layout, figures)
        self._version += 1
        self.update_subtitle()
        if notify:
            self.post_message(self.Pointed())
        self.refresh()

    def on_resize(self, event: Resize) -> None:
        """Announce the cursor again: the words about it may have more or less room."""
        if self._graph is not None:
            self.post_message(self.Pointed())

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._version += 1
        self._level_styles.clear()

    def below(self, width: int, overview: bool) -> int:
        return 1

    def draw_above(self, line: int) -> Strip:
        return Strip(self._model_segments(before=True, after=False))

    def draw_below(self, line: int) -> Strip:
        """The stages after the layers, and those before them where they have no line of their own; the legend."""
        has_line_above = self._lines.top > len(self._lines.head)
        return self._with_legend(self._model_segments(before=not has_line_above, after=True), self.size.width)

    def draw_row(self, row: int) -> Strip:
        """The cells of a line's layers, cached until their numbers, their width or their cursor change."""
        width, rows = self._lines.size.width, self._lines.rows
        node = self._cursor
        on_line = node is not None and node.layer is not None and row <= node.layer < row + rows and self.has_focus
        key = (row, rows, self._version, width, self._first_column, node if on_line else None)
        if key not in self._strips:
            cell = self._cell_width(width)
            used = LABEL + len(self._columns) * cell + max(len(self._groups_in_view), 1) - 1
            layers = range(row, min(row + rows, self._row_count))
            if self._overview:
                segments = self.overview_segments(row)
            else:
                segments = self._layer_segments(row, cell, self._column if on_line else None)
            # The length is known: measuring it again would cost a tenth of the frame.
            strip = Strip([*segments, *self._lens_segments(layers, width - used)], width)
            self._strips[key] = strip if self._overview else self._outlined(strip, row, cell)
        return self._strips[key]

    def room(self, view: GridView, container: Size, viewport: Size) -> int:
        # A cell of a layout grid is as high as its content: then only the screen tells how much room there is.
        frame, docked = self.styles.gutter.height, self.styles.dock == "bottom"
        height = container.height + frame if docked else viewport.height - LINES_AROUND
        return height * PERCENT[view] // 100 - frame

    @property
    def _has_lens(self) -> bool:
        return self._widths(self.size.width, self._overview)[1] > 0

    def _prefers_overview(self, size: Size) -> bool:
        """Also where the logit lens has room in the overview alone."""
        lens = self._widths(size.width, overview=False)[1], self._widths(size.width, overview=True)[1]
        return lens[0] == 0 < lens[1] or super()._prefers_overview(size)

    def _rows_in(self, size: Size) -> int:
        """Beside the logit lens each layer of the overview has a line of its own, if there is room."""
        if self._lens is not None and self._lines_beside_rows(size.width) + self._row_count <= size.height:
            return 1
        return super()._rows_in(size)

    def _widths(self, width: int, overview: bool) -> tuple[int, int]:
        """The cells of a column in a grid of `width` cells, and of the logit lens at the right; 0 where it has none."""
        columns = max(len(self.window(width)), 1)
        least, most = (CODE_WIDTH, WIDEST) if overview else (NUMBER_WIDTH, self.WIDEST)
        room = self._room_of_columns(width)
        if self._lens is None or room - least * columns - LENS_GAP < LENS_WIDTH:
            return super()._widths(width, overview)
        cell = min(max((room - LENS_GAP - LENS_WANTED) // columns, least), most)
        return cell, room - cell * columns - LENS_GAP

    def view_words(self, first: int, last: int) -> str:
        view = f"{self._row_count} layers"
        if last - first + 1 < self._row_count:
            view = f"layers {first}–{last} of {view}, more with ↑ ↓"
        faults = ", ".join(map(str, sorted(self._faults, key=str)[:2])) + (", …" if len(self._faults) > 2 else "")
        words = [f"[b $error]{self._first_bad}[/]"] if self._first_bad else []
        words += [f"[b {FAULT_COLOUR}]fault at {faults}[/]"] if faults else []
        if self._lens is not None and not self._has_lens:
            has_room = self._widths(self.size.width, overview=True)[1] > 0
            words.append("no room for the logit lens" + (": v" if has_room else ""))
        return SEPARATOR.join([*words, view])

    def _draw_head(self, width: int) -> list[Strip]:
        strips = super()._draw_head(width)
        if strips and self._has_lens:
            title = Segment(" " * LENS_GAP + "logit lens", self.style("group"))
            strips[-1] = Strip([*strips[-1], title])
        return strips

    def _draw_names(self, width: int) -> list[Strip]:
        """The groups share the first row of the stages where their names find room."""
        rows = self._header_segments(header_rows(self._columns, width))
        if not rows or any(len(name) >= room for name, room in self._room_for_groups(rows[0])):
            return super()._draw_names(width)
        return [Strip(self._header_line(row, self._groups)) for row in (self._with_groups(rows[0]), *rows[1:])]

    def _room_for_groups(self, headers: list[Segment]) -> list[tuple[str, int]]:
        """Each group's name, and the cells before its first text in a row of headers."""
        found = []
        for (name, members), cells in zip(self._groups, self._by_group(headers, self._groups), strict=True):
            blank = next((number for number, cell in enumerate(cells) if cell.text.strip()), members)
            found.append((name, sum(len(cell.text) for cell in cells[:blank])))
        return found

    def _with_groups(self, headers: list[Segment]) -> list[Segment]:
        """A row of headers with the group names in front, `─` up to the first text of each group."""
        merged: list[Segment] = []
        for (name, room), cells in zip(
            self._room_for_groups(headers), self._by_group(headers, self._groups), strict=True
        ):
            line = f"{name} ".ljust(room - 1, "─") + " "
            for cell in cells:
                merged.append(Segment(line[: len(cell.text)], self.style("group")) if line else cell)
                line = line[len(cell.text) :]
        return merged

    def _layer_segments(self, layer: int, width: int, cursor: int | None) -> list[Segment]:
        base = self.style()
        styles = self._styles_of_levels()
        if self._layout is None or self._figures is None or self._tile is None:
            segments = [Segment("·".center(width), base + Style(dim=True))] * len(self._all_columns)
        else:
            levels = self._tile[layer].tolist()
            texts = self._cells(self._figures, self._layout, layer, levels, width)
            segments = [Segment(text, styles[level]) for text, level in zip(texts, levels, strict=True)]
        if cursor is not None:
            text, style = segments[cursor].text, segments[cursor].style
            segments[cursor] = Segment(text, (style or base) + self.cursor_style)
        window = self.window(self._lines.size.width)
        shown = segments[window.start : window.stop]
        return self._separated(self.layer_label(layer), self._by_group(shown, self._groups))

    def _outlined(self, strip: Strip, layer: int, width: int) -> Strip:
        """A row with brackets around its faulty cells, in the blanks beside them, and a line below their numbers."""
        for start, name in zip(self._column_starts(), self._columns, strict=True):
            if Node(layer, name) in self._faults:
                style, end = self.style() + Style(color=FAULT_COLOUR, bold=True), start + width
                last = end - 1 if strip.text[end - 1] == " " else end
                closing = [Strip([Segment("]", style)])] if last < end else []
                inside = strip.crop(start, last).apply_style(Style(underline=True))
                strip = Strip.join(
                    [strip.crop(0, start - 1), Strip([Segment("[", style)]), inside, *closing, strip.crop(end)]
                )
        return strip

    def levels(self, rows: range) -> NDArray[np.uint8] | int:
        return Mark.MISSING if self._tile is None else self._tile[rows.start : rows.stop]

    def palette(self) -> OverviewPalette:
        colour_map = ColourMap.CIVIDIS if self._figures is None else self._figures.statistic.colour_map
        return OverviewPalette(level_colours(colour_map, dark=self.dark), SIGNS, GLYPHS)

    def outlined(self) -> Collection[Node]:
        return self._faults

    @property
    def marks_cursor(self) -> bool:
        return self.has_focus

    def _lens_segments(self, layers: range, width: int) -> list[Segment]:
        """What the layers of one line would say next, in `width` cells.

        Where there is no room for all of them, it is the layer under the cursor that is shown, or the last.
        """
        base = self.style()
        lens = self._widths(self.size.width, self._overview)[1]
        if not lens:
            return [Segment(" " * width, base)]
        line = layers[0] // self._lines.rows - self._first_row // self._lines.rows
        if not self._lens:
            note = self._lens_note[line] if line < len(self._lens_note) else ""
            text = clipped(" " * LENS_GAP + note, width)
            return [Segment(padded(text, width), self.style("lens"))]
        cursor = None if self._cursor is None else self._cursor.layer
        room = (lens + LENS_GAP) // self._lines.rows - LENS_GAP
        shown = list(layers)
        if room < LENS_WIDTH:
            shown, room = [cursor if cursor is not None and cursor in layers else layers[-1]], lens
        segments = []
        for layer in shown:
            bar = self._lens[layer]
            name = "cursor-label" if layer == cursor else "lens-last" if bar.marked else "lens"
            text = lens_cells(bar, LABEL - 1 if self._overview else 0, room, self.plain)
            segments += [Segment(" " * LENS_GAP, base), Segment(text, self.style(name))]
        used = (room + LENS_GAP) * len(shown)
        return [*segments, Segment(" " * (width - used), base)]

    def _styles_of_levels(self) -> list[Style]:
        if not self._level_styles:
            base = self.style()
            maps = () if self._figures is None else (self._figures.statistic.colour_map,)
            self._level_styles = [base + style for style in level_styles(*maps, dark=self.dark)]
        return self._level_styles

    def _cells(self, figures: Figures, layout: GridLayout, layer: int, levels: list[int], width: int) -> list[str]:
        """Texts of a row; glyphs stand in where there is no room for numbers. Signs need no blank between."""
        if width < 4:
            return [glyph(level).center(width) for level in levels]
        blank = "" if width == 4 and figures.statistic.is_signed else " "
        room = width - len(blank)
        return [
            (figures.text(node, room) if node >= 0 else "·").rjust(room) + blank for node in layout.rows[layer].tolist()
        ]

    def _model_segments(self, *, before: bool, after: bool) -> list[Segment]:
        """The stages that the model has once, those before the layers, those after them, or all."""
        assert self._layout is not None
        text = model_strip(self._layout, self._figures, self._faults, before=before, after=after)
        return [Segment(text[:LABEL], self.style("group")), Segment(text[LABEL:], self.style("label"))]

    def _with_legend(self, segments: list[Segment], width: int) -> Strip:
        """What the ends of the colours mean, at the right, where there is room."""
        low, high = ("", "") if self._figures is None else self._figures.statistic.ends
        used = sum(len(segment.text) for segment in segments)
        room = width - used - len(low) - len(high) - 2 - 2 * LEGEND
        if not low or room < 2 or self.plain:
            return Strip(segments)
        styles, group = self._styles_of_levels(), self.style("group")
        steps = [Segment("  ", styles[step * (LEVELS - 1) // (LEGEND - 1)]) for step in range(LEGEND)]
        ends = [Segment(" " * room + low + " ", group), *steps, Segment(" " + high, group)]
        return Strip([*segments, *ends])


def model_strip(
    layout: GridLayout, figures: Figures | None, faults: Collection[Node] = (), *, before: bool, after: bool
) -> str:
    """The figures of the stages that the model has once: those `before` its layers, and those `after` them.

    Those with a fault stand in brackets.
    """
    last = layout.rows.max(initial=0)
    fields = []
    for node, row in zip(layout.model_nodes, layout.model_rows.tolist(), strict=True):
        if before if row < last else after:
            text = f"{node.stage} {'·' if figures is None else figures.text(row, 6)}"
            fields.append(f"[{text}]" if node in faults else text)
    return SEPARATOR.join(["    " + fields[0], *fields[1:]]) if fields else ""
