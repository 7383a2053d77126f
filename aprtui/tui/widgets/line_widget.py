"""The base of widgets that draw themselves line by line, twenty times a second: it caches what Textual does not.

Textual computes component styles at 0.1 ms a call, computes the border's colours and characters again for each line,
and passes each segment through a filter that replaces the colours of 16-colour themes: of 7.2 ms for a stage grid of
39 lines, its own drawing took 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.segment import Segment
from rich.style import Style
from textual._styles_cache import StylesCache
from textual.color import Color
from textual.css.styles import StylesBase
from textual.filter import ANSIToTruecolor, LineFilter
from textual.geometry import Size, Spacing
from textual.strip import Strip
from textual.widget import Widget

from aprtui.tui.draw.colours import CURSOR, Rgb

PLAIN = "-plain"
"""The CSS class of an app that shows values as glyphs, since it has no colours or no block characters."""


class LineWidget(Widget):
    """A widget whose `render_line` uses no colours but those of its styles and of colour maps."""

    PREFIX = ""
    """What the names of the component classes begin with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._styles_cache = BorderCache()
        self._styles_by_name: dict[str, Style] = {}
        self._background_behind_text: Rgb | None = None

    @property
    def plain(self) -> bool:
        return self.app.has_class(PLAIN)

    def style(self, name: str = "", *, partial: bool = False) -> Style:
        """The component style `name`, or the widget's own; a `partial` one has only what its own rules set."""
        if name not in self._styles_by_name:
            self._styles_by_name[name] = (
                self.get_component_rich_style(f"{self.PREFIX}--{name}", partial=partial) if name else self.rich_style
            )
        return self._styles_by_name[name]

    @property
    def background(self) -> Rgb:
        if self._background_behind_text is None:
            self._background_behind_text = self.background_colors[1].rgb
        return self._background_behind_text

    @property
    def dark(self) -> bool:
        """Whether the theme is dark."""
        return self.app.current_theme.dark

    @property
    def cursor_style(self) -> Style:
        """The style of the cell under the cursor, to be added to the cell's own."""
        return CURSOR[self.dark]

    def notify_style_update(self) -> None:
        """Forget the styles: the theme or the focus has changed."""
        super().notify_style_update()
        self._styles_by_name.clear()
        self._background_behind_text = None

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [each for each in super().get_line_filters() if not isinstance(each, ANSIToTruecolor)]


class BorderCache(StylesCache):
    """Textual's cache of drawn lines; what stands before and behind the content of a line is drawn once a frame."""

    _sides: tuple[list[Segment], list[Segment]] | None = None

    def render(self, *args: Any, **kwargs: Any) -> list[Strip]:
        self._sides = None
        return super().render(*args, **kwargs)

    def render_line(
        self, styles: StylesBase, y: int, size: Size, content_size: Size, padding: Spacing, base_background: Color,
        background: Color, render_content_line: Any, *rest: Any,
    ) -> Strip:  # fmt: skip
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
