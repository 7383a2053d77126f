"""Lines of a widget that draws line by line, put into border and padding at little cost.

Textual computes the border's colours and characters anew for each line, and passes each segment through a filter that
replaces the colours of 16-colour themes: of 7.2 ms for a stage grid of 39 lines, its own drawing took 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.segment import Segment
from textual._styles_cache import StylesCache
from textual.color import Color
from textual.css.styles import StylesBase
from textual.filter import ANSIToTruecolor, LineFilter
from textual.geometry import Size, Spacing
from textual.strip import Strip

# Not a widget itself: Textual takes default styles from the first base that is one, and TextStream's is another.
if TYPE_CHECKING:
    from textual.widget import Widget as _Base
else:
    _Base = object

Sides = tuple[list[Segment], list[Segment]]
"""What stands before the content of a line, and behind it."""


class QuickLines(_Base):
    """A widget whose `render_line` uses no colours but those of its styles and of colour maps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._styles_cache = QuickCache()

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Those of the app that change something here."""
        return [each for each in super().get_line_filters() if not isinstance(each, ANSIToTruecolor)]


class QuickCache(StylesCache):
    """Textual's cache of drawn lines; the sides of a frame's lines are drawn once."""

    _sides: Sides | None = None

    def render(self, *args: Any, **kwargs: Any) -> list[Strip]:
        """Lines for a frame."""
        self._sides = None
        return super().render(*args, **kwargs)

    def render_line(
        self, styles: StylesBase, y: int, size: Size, content_size: Size, padding: Spacing, base_background: Color,
        background: Color, render_content_line: Any, *rest: Any,
    ) -> Strip:  # fmt: skip
        """Line `y` of the widget, border and padding included."""
        gutter = styles.gutter
        if not gutter.top <= y < min(size.height - gutter.bottom, gutter.top + content_size.height):
            return super().render_line(
                styles, y, size, content_size, padding, base_background, background, render_content_line, *rest
            )
        if self._sides is None:
            content = Segment(" " * content_size.width)
            line = list(
                super().render_line(
                    styles, y, size, content_size, padding, base_background, background,
                    lambda _: Strip([content], content_size.width), *rest,
                )
            )  # fmt: skip
            at = next(index for index, segment in enumerate(line) if segment is content)
            self._sides = line[:at], line[at + 1 :]
        left, right = self._sides
        strip = render_content_line(y - gutter.top)
        if strip.cell_length != content_size.width:
            inner, _ = self.get_inner_outer(base_background, background)
            strip = strip.adjust_cell_length(content_size.width, inner.rich_style)
        return Strip([*left, *strip, *right], size.width)
