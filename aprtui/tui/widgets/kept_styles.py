"""Styles of a widget that draws line by line, kept from frame to frame."""

from __future__ import annotations

from rich.style import Style

from aprtui.tui.draw.colours import CURSOR, Rgb
from aprtui.tui.widgets.line_widget import QuickLines


class KeptStyles(QuickLines):
    """Looks styles up once: Textual computes them anew at 0.1 ms a call, which a frame of many lines cannot pay."""

    PREFIX = ""
    """What the names of the component classes begin with."""

    _kept_styles: dict[str, Style] | None = None
    _kept_background: Rgb | None = None

    def style(self, name: str = "") -> Style:
        """The component style `name`, or the widget's own."""
        if self._kept_styles is None:
            self._kept_styles = {}
        if name not in self._kept_styles:
            component = f"{self.PREFIX}--{name}"
            self._kept_styles[name] = self.get_component_rich_style(component) if name else self.rich_style
        return self._kept_styles[name]

    @property
    def background(self) -> Rgb:
        """The colour behind the text."""
        if self._kept_background is None:
            self._kept_background = self.background_colors[1].rgb
        return self._kept_background

    @property
    def cursor_style(self) -> Style:
        """Of the cell under the cursor, over its own."""
        return CURSOR[self.app.current_theme.dark]

    def notify_style_update(self) -> None:
        """The theme or the focus has changed: what was looked up is out of date."""
        super().notify_style_update()
        self._kept_styles = self._kept_background = None
