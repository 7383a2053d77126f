"""The palette: the commands at hand by name, those of the screen first, each with its keys at the right."""

from __future__ import annotations

from functools import partial

from rich.cells import cell_len
from rich.text import Text
from textual.command import CommandList, CommandPalette, DiscoveryHit, Hit, Hits, Provider
from textual.events import Click

from aprtui.tui.frame.commands import Command, Reach, commands_at_hand

WIDTH = 80
"""Cells of the palette where the terminal has them: keys farther at the right belong to no name any more."""
MARGINS = 8
"""Cells around a line of the palette, its scroll bar among them."""

TITLES = {Reach.GO: "Go to", Reach.APP: "aprtui"}


class Palette(CommandPalette):
    """Textual's palette, in which keys do nothing as long as its list has no line to show: it would fail, as it would
    to wrap names where they have no room at all."""

    DEFAULT_CSS = "Palette CommandList { min-width: 12; }"

    def _on_click(self, event: Click) -> None:  # type: ignore[override]  # as Textual itself has it
        """Pass over a click beside the screen: a terminal that has just become smaller may still send one."""
        if not self.region.contains(event.screen_x, event.screen_y):
            event.prevent_default()

    def _action_command_list(self, action: str) -> None:
        if self.query_one(CommandList).scrollable_content_region:
            super()._action_command_list(action)


class ScreenCommands(Provider):
    """What a key does on the screen below the palette. Commands that move a cursor are left to their keys."""

    async def discover(self) -> Hits:
        for command in self._commands():
            name = self._name(command)
            yield DiscoveryHit(self._line(Text(name), command), partial(self._run, command), text=name)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for command in self._commands():
            name = self._name(command)
            score = matcher.match(name)
            if score > 0:
                marked = Text(name)
                for span in matcher.highlight(name).spans:
                    marked.stylize("underline", span.start, span.end)
                yield Hit(score, self._line(marked, command), partial(self._run, command), text=name)

    def _commands(self) -> list[Command]:
        themes = Command(Reach.APP, "", "Choose a theme", "app.change_theme", self.app, "", False)
        return [*filter(_can_be_named, commands_at_hand(self.screen)), themes]

    def _name(self, command: Command) -> str:
        screen = getattr(self.screen, "NAME", "").capitalize()
        return f"{TITLES.get(command.reach, screen)}: {command.description}"

    def _line(self, name: Text, command: Command) -> Text:
        keys = command.words(self.app.has_class("-ascii"))
        room = min(WIDTH, self.app.size.width) - MARGINS
        return name + Text(" " * max(room - name.cell_len - cell_len(keys), 1) + keys, style="not bold")

    async def _run(self, command: Command) -> None:
        await self.app.run_action(command.action, command.node)


def _can_be_named(command: Command) -> bool:
    """Not the palette itself, nor what needs a letter, nor moves of a cursor."""
    moves = command.group and command.reach is Reach.PANE
    return "*" not in command.keys and command.id != "palette" and not moves
