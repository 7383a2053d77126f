"""The last line of every screen: the keys of the focused pane and the screen, as many as there is room for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual.events import Click
from textual.strip import Strip

from aprtui.tui.draw.text import SEPARATOR
from aprtui.tui.frame.commands import Command, Reach, commands_at_hand, grouped
from aprtui.tui.frame.keymap import displayed_keys
from aprtui.tui.widgets.line_widget import LineWidget

LONGEST = 24
"""Cells of a description in the line; longer ones stand in the help."""


class KeyLine(LineWidget):
    """Keys and what they do, the most useful first; whole ones only. Help stands at the right end, always."""

    PREFIX = "key-line"
    COMPONENT_CLASSES: ClassVar[set[str]] = {"key-line--key"}
    DEFAULT_CSS = """
    KeyLine {
        dock: bottom; height: 1; padding: 0 1; background: $footer-background; color: $footer-description-foreground;
        .key-line--key { color: $footer-key-foreground; text-style: bold; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._commands: Sequence[Command] = ()
        self._places: list[tuple[range, Command]] = []
        """The cells that each command takes, for the mouse."""

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self._look())
        self._look()

    def _look(self) -> None:
        if self.is_attached:
            left_out: Collection[str] = getattr(self.screen, "left_out", ())  # dialogs have none
            self._commands = by_use(grouped(each for each in commands_at_hand(self.screen) if each.id not in left_out))
            self.refresh()

    def render_line(self, y: int) -> Strip:
        width, base, strong = self.size.width, self.style(), self.style("key")
        ascii_only = self.app.has_class("-ascii")
        items = [(displayed_keys(each.keys.split(",")[0], ascii_only), each) for each in self._commands]
        helps = [item for item in items if item[1].id == "help"]
        room = width - sum(_width(*item) + len(SEPARATOR) for item in helps)
        self._places, segments, at = [], [], 0
        for keys, command in [*fitting([item for item in items if item not in helps], room), *helps]:
            gap = width - _width(keys, command) - at if command.id == "help" else len(SEPARATOR) * bool(at)
            segments += [Segment(" " * gap, base), Segment(keys, strong), Segment(f" {command.description}", base)]
            self._places.append((range(at + gap, at + gap + _width(keys, command)), command))
            at += gap + _width(keys, command)
        return Strip(segments).adjust_cell_length(width, base)

    async def on_click(self, event: Click) -> None:
        at = event.x - self.styles.gutter.left
        for cells, command in self._places:
            if at in cells and command.action:
                await self.app.run_action(command.action, command.node)


def _width(keys: str, command: Command) -> int:
    return cell_len(keys) + 1 + cell_len(command.description)


def fitting(items: Iterable[tuple[str, Command]], room: int) -> list[tuple[str, Command]]:
    """The items that have room beside each other, in their order; one that has none leaves it to those after it."""
    taken = 0
    chosen: list[tuple[str, Command]] = []
    for keys, command in items:
        width = _width(keys, command) + len(SEPARATOR) * bool(chosen)
        if taken + width <= room:
            taken += width
            chosen.append((keys, command))
    return chosen


def by_use(commands: Iterable[Command]) -> list[Command]:
    """What a line of keys shows first: what is marked to be shown, of the pane, the screen, the app; then the others.

    The ways to other screens stand in the line of tabs.
    """
    short = (each for each in commands if each.reach is not Reach.GO and cell_len(each.description) <= LONGEST)
    return sorted(short, key=lambda each: (not each.shown, each.reach))
