"""Help: the keys at hand in columns, what the screen shows in prose, and the names that a configuration uses."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import ClassVar

from rich.console import RenderableType
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.events import Resize
from textual.screen import ModalScreen
from textual.widgets import Static

from aprtui.tui.frame.commands import Reach, commands_at_hand, grouped
from aprtui.tui.frame.key_line import KeyLine
from aprtui.tui.frame.tool_screen import ToolScreen
from aprtui.tui.screens.help.columns import KeyList, in_columns


class HelpPage(StrEnum):
    """What help shows; `tab` shows the next one."""

    KEYS = "keys"
    PROSE = "what it shows"
    NAMES = "names for [keys] of config.toml"


TITLES = {
    Reach.PANE: "This pane", Reach.SCREEN: "This screen", Reach.APP: "Every screen", Reach.GO: "Screens",
}  # fmt: skip


class HelpScreen(ModalScreen[None]):
    """Explains a screen as it is: the commands of the pane that has the focus come first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark", "dismiss", "Close"),
        Binding("tab", "turn_page(1)", "Next page"),
        Binding("shift+tab", "turn_page(-1)", "Page before", show=False),
        Binding("down,j", "scroll_by(1)", "Down", show=False),
        Binding("up,k", "scroll_by(-1)", "Up", show=False),
        Binding("pagedown,space", "scroll_by(10)", "Page down", show=False),
        Binding("pageup", "scroll_by(-10)", "Page up", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"help--title", "help--key", "help--text"}
    DEFAULT_CSS = """
    HelpScreen {
        align: center middle;
        .help--title { color: $accent; text-style: bold; background: $surface; }
        .help--key { color: $foreground; text-style: bold; background: $surface; }
        .help--text { color: $foreground; background: $surface; }
    }
    HelpScreen > VerticalScroll {
        width: 160; max-width: 100%; height: auto; max-height: 1fr; background: $surface; scrollbar-size-vertical: 1;
    }
    HelpScreen Static { width: 100%; }
    """

    def __init__(self, screen: ToolScreen) -> None:
        super().__init__()
        self._explained = screen
        self._commands = commands_at_hand(screen)
        self._page = HelpPage.KEYS

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="pane", can_focus=False):
            yield Static(markup=False)
        yield KeyLine()

    def on_resize(self, event: Resize) -> None:
        self.call_after_refresh(self._show)

    def action_scroll_by(self, lines: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)

    def action_turn_page(self, by: int) -> None:
        pages = list(HelpPage)
        self._page = pages[(pages.index(self._page) + by) % len(pages)]
        self.query_one(VerticalScroll).scroll_home(animate=False)
        self._show()

    def _show(self) -> None:
        box, text = self.query_one(VerticalScroll), self.query_one(Static)
        box.border_title = f"{self._explained.NAME.capitalize()}: {self._page}"
        others = [f"tab {page}" if page is not HelpPage.KEYS else "tab keys" for page in HelpPage]
        following = others[(list(HelpPage).index(self._page) + 1) % len(others)]
        box.border_subtitle = f"{following}  j k scroll  escape closes"
        pages: dict[HelpPage, Callable[[], RenderableType]] = {
            HelpPage.KEYS: self._keys, HelpPage.PROSE: self._prose, HelpPage.NAMES: self._names,
        }  # fmt: skip
        text.update(pages[self._page]())

    def _keys(self) -> Segments:
        width = self.query_one(VerticalScroll).scrollable_content_region.width
        styles = (self.get_component_rich_style(f"help--{name}") for name in ("title", "key", "text"))
        lines = in_columns(self._lists(), width, *styles)
        return Segments([segment for line in lines for segment in (*line, Segment.line())])

    def _lists(self) -> list[KeyList]:
        ascii_only, commands = self.app.has_class("-ascii"), grouped(self._commands)

        def rows(reach: Reach) -> list[tuple[str, str]]:
            return [(each.words(ascii_only), each.description) for each in commands if each.reach is reach]

        lists = [KeyList(TITLES[reach], rows(reach)) for reach in (Reach.PANE, Reach.SCREEN, Reach.APP, Reach.GO)]
        return [*lists, KeyList("Signs", self._explained.SIGNS)]

    def _prose(self) -> Text:
        return Text(self._explained.EXPLANATION)

    def _names(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for command in (command for command in self._commands if command.id):
            keys = Text(command.words(self.app.has_class("-ascii")), style="bold")
            table.add_row(keys, Text(command.id), Text(command.description, style="dim"))
        return table
