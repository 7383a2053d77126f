"""The grid of a comparison: layers × stages, two signals a cell by half blocks, a cursor, a legend in words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from aprtui.compare.align.pairing import Unpaired
from aprtui.compare.comparison import StageComparison
from aprtui.trace.graph.stage import Node
from aprtui.tui.draw.colours import LEVELS, ColourMap, glyph, level_colours, on_colour
from aprtui.tui.draw.numbers import short_number
from aprtui.tui.draw.overview import Outlines, OverviewPalette
from aprtui.tui.screens.diff.cells import (
    SIGN_TEXTS,
    STEP_TEXTS,
    STEPS,
    DiffCell,
    DiffLayout,
    DiffRow,
    Greys,
    Sign,
    step_level,
)
from aprtui.tui.screens.diff.overview import overview_legend, overview_level, overview_palette
from aprtui.tui.widgets.heatmap import UPPER
from aprtui.tui.widgets.layer_grid import LABEL, LayerGrid
from aprtui.tui.widgets.moves import ENDS, MOVES, PAGES
from aprtui.tui.widgets.overview_grid import GridView, OverviewGrid

NOTHING = DiffCell(None, None, Sign.NONE)

OVERVIEW_CELL_BELOW = 4
"""Cells of a stage that the model has once, in the overview: three, and a blank."""

LOUD = (Sign.ADDS, Sign.NAN, Sign.INF, Sign.DAMAGED)
"""The signs of what is wrong at the stage itself."""


class DiffPaint:
    """Draws `cells`, of which those without a bound are on the scale `greys`; what was drawn is kept.

    `style` gives the grid's styles by name, `cursor` is that of the cell under it. `plain` screens have no colours or
    half blocks; `dark` says whether the theme is.
    """

    def __init__(
        self, style: Callable[[str], Style], cursor: Style, cells: Collection[DiffCell], greys: Greys, *, plain: bool,
        dark: bool,
    ) -> None:  # fmt: skip
        self._style = style
        self._cursor = style("") + cursor
        self._cells = cells
        self._greys = greys
        self._plain = plain
        self._dark = dark
        self._made: dict[tuple[DiffCell, int], list[Segment]] = {}
        self._legends: dict[tuple[int, bool], list[Strip]] = {}

    def cell(self, cell: DiffCell, width: int) -> list[Segment]:
        """The two halves, then the sign."""
        key = (cell, width)
        if key not in self._made:
            self._made[key] = list(self._drawn(cell, width))
        return self._made[key]

    def under_cursor(self, cell: DiffCell, stage: StageComparison | Unpaired | None, width: int) -> Segment:
        """The cell under the cursor: the number of the stage, where there is room, and the sign."""
        text = ""
        if isinstance(stage, StageComparison) and cell.sign not in (Sign.NAN, Sign.INF):
            error = stage.metrics.deviation(self._greys.metric) if cell.grey else stage.verdict.error
            text = "" if error is None else short_number(abs(error), width - 1)
        return Segment(f"{text:>{width - 1}}{cell.sign.value}", self._cursor)

    def legend(self, width: int, overview: bool) -> list[Strip]:
        """What halves, colours and signs mean: only what occurs."""
        key = width, overview
        if key not in self._legends:
            drawn = self._legend_of_overview(width) if overview else self._legend(width)
            self._legends[key] = [Strip(line) for line in drawn]
        return self._legends[key]

    def _drawn(self, cell: DiffCell, width: int) -> Iterator[Segment]:
        sign = self._sign(cell.sign)
        if self._plain:
            yield Segment(_glyphs(cell, width - 1), self._style(""))
            yield sign
            return
        ground = self._style("").bgcolor

        def colour(level: int | None, colour_map: ColourMap) -> Color | None:
            rgb = None if level is None else level_colours(colour_map, dark=self._dark)[level]
            return ground if rgb is None else Color.from_rgb(*rgb)

        if cell.upper is None and cell.lower is None:
            yield Segment(" " * (width - 1), self._style(""))
        else:
            upper, lower = colour(cell.upper, cell.upper_map), colour(cell.lower, cell.lower_map)
            yield Segment(UPPER * (width - 1), Style(color=upper, bgcolor=lower))
        yield sign

    def _legend(self, width: int) -> list[list[Segment]]:
        muted = self._style("other-label")
        halves = ("left", "right") if self._plain else ("upper half", "lower half")
        words = f"{halves[0]}: what the stage adds · {halves[1]}: difference observed"
        lines = [[Segment(f"{words}  ", muted)]]
        for items in (self._swatches(muted), self._signs(muted)):
            whole = [segment for item in items for segment in item]
            if _length([*lines[-1], *whole]) <= width:
                lines[-1] += whole
            else:
                lines += _wrapped(items, width)
        return lines

    def _legend_of_overview(self, width: int) -> list[list[Segment]]:
        muted, palette = self._style("other-label"), overview_palette(dark=self._dark)
        return _wrapped(
            [
                [*self._levels(swatch.levels, palette), Segment(f" {swatch.text}  ", muted)]
                for swatch in overview_legend(self._cells, self._greys)
            ],
            width,
        )

    def _levels(self, levels: Sequence[int], palette: OverviewPalette) -> Iterator[Segment]:
        """A cell of each of these levels of the overview, a sign on the middle one; without colours, their glyphs."""
        if self._plain:
            glyphs = dict.fromkeys(palette.signs.get(level) or palette.glyphs[level] for level in levels)
            yield Segment("".join(glyphs), self._style(""))
            return
        for number, level in enumerate(levels):
            colour = palette.colours[level]
            sign = palette.signs.get(level, " ") if number == len(levels) // 2 else " "
            yield Segment(sign, self._style("") if colour is None else on_colour(colour, bold=True))

    def _swatches(self, muted: Style) -> list[list[Segment]]:
        """The steps of error against its bound, and the ends of the scale of what has none, where they occur."""
        maps = {colour_map for cell in self._cells for colour_map in (cell.upper_map, cell.lower_map)}
        bounded = any(
            not cell.grey and any(0 < (level or 0) < LEVELS for level in (cell.upper, cell.lower))
            for cell in self._cells
        )
        swatches: list[list[Segment]] = []
        if bounded:
            levels = [step_level(step) for step in range(STEPS)]
            swatches += [
                [self._swatch(DiffCell(level, level, Sign.NONE)), Segment(f" {text}  ", muted)]
                for level, text in zip(levels, STEP_TEXTS, strict=True)
            ]
        if ColourMap.UNBOUNDED in maps:
            ends = [DiffCell(level, level, Sign.NONE, *[ColourMap.UNBOUNDED] * 2) for level in (0, LEVELS - 1)]
            first, last = map(self._swatch, ends)
            swatches.append([first, Segment(f" {self._greys.words} ", muted), last, Segment("  ", muted)])
        return swatches

    def _swatch(self, cell: DiffCell) -> Segment:
        return next(self._drawn(cell, 3))

    def _signs(self, muted: Style) -> list[list[Segment]]:
        occurring = [sign for sign in SIGN_TEXTS if any(cell.sign is sign for cell in self._cells)]
        return [[self._sign(sign), Segment(f" {SIGN_TEXTS[sign]}  ", muted)] for sign in occurring]

    def _sign(self, sign: Sign) -> Segment:
        return Segment(sign.value, self._style("sign" if sign in LOUD else "quiet-sign"))


def _length(segments: list[Segment]) -> int:
    """Cells of the segments; blanks at the end need no room."""
    return len("".join(segment.text for segment in segments).rstrip())


def _wrapped(items: Sequence[list[Segment]], width: int) -> list[list[Segment]]:
    """The items on as few lines as they need."""
    lines: list[list[Segment]] = []
    for item in items:
        if lines and _length([*lines[-1], *item]) <= width:
            lines[-1] += item
        else:
            lines.append([*item])
    return lines


def _glyphs(cell: DiffCell, width: int) -> str:
    """The halves as glyphs side by side; the lower one alone where there is room for one."""
    upper, lower = (" " if level is None else glyph(level) for level in (cell.upper, cell.lower))
    return (lower if width < 2 else upper + lower).ljust(width)


class DiffGrid(OverviewGrid, can_focus=True):
    """Draws a line for each layer or fold of layers, and below them the stages that the model has once."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1, 0)", "Layer before", show=False, id="diff.layer.up", group=MOVES),
        Binding("down,j", "move(1, 0)", "Layer after", show=False, id="diff.layer.down", group=MOVES),
        Binding("left,h", "move(0, -1)", "Stage before", show=False, id="diff.stage.left", group=MOVES),
        Binding("right,l", "move(0, 1)", "Stage after", show=False, id="diff.stage.right", group=MOVES),
        Binding("pageup", "move(-10, 0)", "Ten layers up", show=False, group=PAGES),
        Binding("pagedown", "move(10, 0)", "Ten layers down", show=False, group=PAGES),
        Binding("home", "move(-100000, 0)", "First layer", show=False, group=ENDS),
        Binding("end", "move(100000, 0)", "Last layer", show=False, group=ENDS),
        Binding("enter", "open", "Open tensor", id="diff.open"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"layer-grid--sign", "layer-grid--quiet-sign", "layer-grid--fold"}
    DEFAULT_CSS = """
    DiffGrid {
        .layer-grid--cursor-label { text-style: bold underline; }
        .layer-grid--sign { color: $error; text-style: bold; }
        .layer-grid--quiet-sign { color: $text-muted; }
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
        self._tile: NDArray[np.uint8] = np.zeros((0, 0), np.uint8)

    def show(
        self, layout: DiffLayout, rows: tuple[DiffRow, ...], cells: Mapping[Node, DiffCell],
        stages: Mapping[Node, StageComparison | Unpaired], greys: Greys, marks: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Draw other cells, with `marks` for the kinds of layers; the cursor stays on its stage where that is seen."""
        resized = (len(rows), layout.columns) != (len(self._rows), self._all_columns)
        self._rows, self._cells, self._stages, self._greys = rows, cells, stages, greys
        self._painter = None
        self._tile = np.array(
            [
                [overview_level(cells.get(Node(row.layers[0], name), NOTHING)) for name in layout.columns]
                for row in rows
            ],
            np.uint8,
        ).reshape(len(rows), len(layout.columns))
        layers = [None if row.folded else row.layers[0] for row in rows]
        self.set_shape(layout.columns, layout.groups, layers, layout.once, marks)
        self.put_cursor(self._cursor if self._cursor in stages else next(iter(stages), None))
        self.refresh(layout=resized)

    def centre(self) -> None:
        """Bring the rows around the cursor into view, more of those after it than of those before."""
        row, height = self._row_of(self._cursor), self._rows_in_view
        if row is not None:
            self._first_row = max(0, row - height // 3)
            self._scroll()
            self.refresh()

    def action_open(self) -> None:
        self.post_message(self.Opened())

    def click_on_cursor(self) -> None:
        self.action_open()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._painter = None

    def below(self, width: int, overview: bool) -> int:
        return bool(self._below) + len(self._legend(width, overview))

    def room(self, view: GridView, container: Size, viewport: Size) -> int:
        frame, most = self.styles.gutter.height, self.styles.max_height
        around = Size(container.width, container.height + frame)
        return (around.height if most is None else int(most.resolve(around, viewport))) - frame

    @property
    def may_show_overview(self) -> bool:
        """Folds have a line each."""
        return not any(row.folded for row in self._rows) and super().may_show_overview

    def levels(self, rows: range) -> NDArray[np.uint8]:
        return self._tile[rows.start : rows.stop]

    def palette(self) -> OverviewPalette:
        return overview_palette(dark=self.dark)

    def draw_row(self, row: int) -> Strip:
        if self._overview:
            return Strip(self.overview_segments(row))
        shown = self._rows[row]
        if shown.folded:
            return Strip([Segment(f"  ⋯ {shown.text}", self.style("fold"))])
        width, layer = self._cell_width(self.size.width), shown.layers[0]
        cells = [self._cell(Node(layer, name), width) for name in self._columns]
        groups = ([segment for cell in group for segment in cell] for group in self._by_group(cells, self._groups))
        return Strip(self._separated(self.layer_label(layer), groups))

    def draw_below(self, line: int) -> Strip:
        if self._below and line == 0:
            return Strip(list(self._once_segments()))
        return self._legend(self.size.width, self._overview)[line - bool(self._below)]

    def places_below(self) -> Iterator[tuple[Node, int, int]]:
        at, width = LABEL, self._width_below
        for node in self._below:
            length = len(node.stage) + 2 + width
            yield node, at, length
            at += length

    def view_words(self, first: int, last: int) -> str:
        layers = sum(len(row.layers) for row in self._rows)
        if last - first + 1 == len(self._rows):
            return f"{layers} layers"
        return f"layers {self._rows[first].layers[0]}–{self._rows[last].layers[-1]} of {layers}, more with ↑ ↓"

    @property
    def _has_cells(self) -> bool:
        return bool(self._stages)

    @property
    def _width_below(self) -> int:
        """The width of the cells below the rows."""
        return OVERVIEW_CELL_BELOW if self._overview else self._cell_width(self.size.width)

    def _once_segments(self) -> Iterator[Segment]:
        yield Segment(" " * LABEL, self.style("label"))
        for node, cell in zip(self._below, self._cells_below(), strict=True):
            current = node == self._cursor
            yield Segment(node.stage, self.style("cursor-label" if current else "other-label"))
            yield Segment(" ", self.style())
            yield from cell
            yield Segment(" ", self.style())

    def _cells_below(self) -> list[list[Segment]]:
        width = self._width_below
        if not self._overview:
            return [self._cell(node, width) for node in self._below]
        levels = [overview_level(self._cells.get(node, NOTHING)) for node in self._below]
        cursor = (0, self._below.index(self._cursor)) if self._cursor in self._below else None
        return self.overview_cells(np.array([levels], np.uint8), Outlines(cursor=cursor), width)

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
                self.style, self.cursor_style, self._cells.values(), self._greys, plain=self.plain,
                dark=self.app.current_theme.dark,
            )  # fmt: skip
        return self._painter

    def _legend(self, width: int, overview: bool) -> list[Strip]:
        return self._paint.legend(width, overview) if self._stages else []
