"""How a cell of a comparison is drawn: two halves and a sign, and the legend that explains them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from aprtui.compare.align.pairing import Unpaired
from aprtui.compare.comparison import StageComparison
from aprtui.compare.metrics.measure import Metric
from aprtui.tui.draw.colours import ColourMap, glyph, level_colours
from aprtui.tui.draw.numbers import short_number
from aprtui.tui.screens.diff.cells import SIGN_TEXTS, STEP_TEXTS, STEPS, DiffCell, Greys, Sign, step_level
from aprtui.tui.widgets.heatmap import UPPER


class DiffPaint:
    """Draws `cells`, of which those without a bound are on the scale `greys`; what was drawn is kept.

    `style` gives the grid's styles by name, `cursor` is that of the cell under it. `plain` screens have no colours or
    half blocks.
    """

    def __init__(
        self, style: Callable[[str], Style], cursor: Style, cells: Collection[DiffCell], greys: Greys, *, plain: bool
    ) -> None:
        self._style = style
        self._cursor = style("") + cursor
        self._cells = cells
        self._greys = greys
        self._plain = plain
        self._made: dict[tuple[DiffCell, int], list[Segment]] = {}
        self._legends: dict[int, list[Strip]] = {}

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

    def legend(self, width: int) -> list[Strip]:
        """What halves, colours and signs mean: only what occurs."""
        if width not in self._legends:
            self._legends[width] = [Strip(line) for line in self._legend(width)]
        return self._legends[width]

    def _drawn(self, cell: DiffCell, width: int) -> Iterator[Segment]:
        sign = Segment(cell.sign.value, self._style("sign"))
        if self._plain:
            yield Segment(_glyphs(cell, width - 1), self._style(""))
            yield sign
            return
        colours = level_colours(ColourMap.GREY if cell.grey else ColourMap.ERROR)
        ground = self._style("").bgcolor

        def colour(level: int | None) -> Color | None:
            rgb = None if level is None else colours[level]
            return ground if rgb is None else Color.from_rgb(*rgb)

        if cell.upper is None and cell.lower is None:
            yield Segment(" " * (width - 1), self._style(""))
        else:
            yield Segment(UPPER * (width - 1), Style(color=colour(cell.upper), bgcolor=colour(cell.lower)))
        yield sign

    def _legend(self, width: int) -> list[list[Segment]]:
        muted = self._style("other-label")
        halves = ("left glyph", "right glyph") if self._plain else ("upper half", "lower half")
        words = f"{halves[0]}: error that the stage adds · {halves[1]}: difference observed"
        lines = [[Segment(words + "  " if len(words) + 60 < width else words, muted)]]
        for items in (self._swatches(muted), self._signs(muted)):
            whole = [segment for item in items for segment in item]
            if _length(lines[-1]) + _length(whole) <= width:
                lines[-1] += whole
                continue
            lines.append([])
            for item in items:
                if _length(lines[-1]) + _length(item) > width:
                    lines.append([])
                lines[-1] += item
        return lines

    def _swatches(self, muted: Style) -> list[list[Segment]]:
        if any(cell.grey for cell in self._cells):
            low, high = (f"{number:.2g}" for number in (self._greys.low, self._greys.high))
            less = "1 − " if self._greys.metric is Metric.COSINE else ""
            return [[Segment(f"greys: {less}{self._greys.metric}, no bound: {low} … {high}  ", muted)]]
        levels = [step_level(step) for step in range(STEPS)]
        return [
            [next(self._drawn(DiffCell(level, level, Sign.NONE), 3)), Segment(f" {text}  ", muted)]
            for level, text in zip(levels, STEP_TEXTS, strict=True)
        ]

    def _signs(self, muted: Style) -> list[list[Segment]]:
        occurring = [sign for sign in SIGN_TEXTS if any(cell.sign is sign for cell in self._cells)]
        return [
            [Segment(sign.value, self._style("sign")), Segment(f" {SIGN_TEXTS[sign]}  ", muted)] for sign in occurring
        ]


def _length(segments: list[Segment]) -> int:
    return sum(segment.cell_length for segment in segments)


def _glyphs(cell: DiffCell, width: int) -> str:
    """The halves as glyphs side by side; the lower one alone where there is room for one."""
    upper, lower = (" " if level is None else glyph(level) for level in (cell.upper, cell.lower))
    return (lower if width < 2 else upper + lower).ljust(width)
