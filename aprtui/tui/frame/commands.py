"""The commands at hand: those of the focused pane, of its screen and of all screens, with the keys they have now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import zip_longest
from typing import Any

from textual.binding import Binding
from textual.dom import DOMNode
from textual.screen import Screen

from aprtui.tui.frame.keymap import Chord, displayed_keys
from aprtui.tui.frame.state import ScreenName

SCREENS = Binding.Group(", ".join(name.capitalize() for name in ScreenName))
SCREEN_BINDINGS = [
    Binding(str(number), f"app.go('{name}')", f"{name.capitalize()} screen", show=False, id=f"go.{name}", group=SCREENS)
    for number, name in enumerate(ScreenName, 1)
]
PANES = Binding.Group("Next pane, the one before")
SHARED_BINDINGS = [
    Binding("tab", "app.focus_next", "Next pane", show=False, id="pane.next", group=PANES),
    Binding("shift+tab", "app.focus_previous", "Pane before", show=False, id="pane.previous", group=PANES),
    Binding("escape", "leave", "Back", show=False, id="back"),
    Binding("z", "zoom_pane", "Zoom pane", show=False, id="zoom.pane"),
    Binding("J", "jump_to_label", "Jump to a label", show=False, id="jump"),
    Binding("y", "copy_command", "Copy the headless command", show=False, id="copy.command"),
    Binding("Y", "copy_state", "Copy a command that opens this screen", show=False, id="copy.state"),
    Binding("s", "save_picture", "Save the screen as SVG", show=False, id="save.picture"),
    Binding("T", "app.turn_theme", "Light or dark", show=False, id="theme"),
    Binding("colon,ctrl+p", "app.command_palette", "All commands", id="palette"),
    Binding("q", "app.quit", "Quit", id="quit"),
    Binding("question_mark,f1", "app.help", "Help", id="help"),
]
"""What every screen can do; help, which explains all the others, stands last."""
TOUR_BINDINGS = [
    Binding("f2", "skip_step", "Tour: skip the step", show=False, id="tour.skip"),
    Binding("f3", "end_tour", "Tour: end it", show=False, id="tour.end"),
]
"""What is added to that while the tour is shown."""
_SHARED = {binding.id: place for place, binding in enumerate((*SHARED_BINDINGS, *SCREEN_BINDINGS))}


class Reach(IntEnum):
    """Where a command can be given, from near to far; its group in lists of commands."""

    PANE = 0
    SCREEN = 1
    GO = 2
    APP = 3


@dataclass(frozen=True, slots=True)
class Command:
    """One thing to do, or a `group` of them; `keys` as they are bound: "down,j", "g d", of a group "up down,k j".

    `shown` marks those that a line of keys shows first.
    """

    reach: Reach
    keys: str
    description: str
    action: str
    node: DOMNode
    id: str
    shown: bool
    group: str = ""

    def words(self, ascii_only: bool) -> str:
        """The keys as a person calls them."""
        return displayed_keys(self.keys, ascii_only)


_LAST_OF = {Reach.PANE: 0, Reach.SCREEN: 0, Reach.GO: 0, Reach.APP: len(_SHARED)}
"""Where commands that are not shared stand among those of their reach."""


def commands_at_hand(screen: Screen[Any]) -> list[Command]:
    """All that can be done on `screen` as it is now, the nearest first, each once with all its keys."""
    keys: dict[tuple[int, str], list[str]] = {}
    found: dict[tuple[int, str], tuple[DOMNode, Binding]] = {}
    for key, (node, binding, _, _) in screen.active_bindings.items():
        if binding.action.startswith("chord(") or binding.action not in _actions(node):
            continue
        name = (id(node), binding.action)
        keys.setdefault(name, []).append(key)
        found.setdefault(name, (node, binding))
    commands = [
        Command(
            _reach(node, binding, screen), ",".join(keys[name]), binding.description, binding.action, node,
            binding.id or "", binding.show, binding.group.description if binding.group is not None else "",
        )
        for name, (node, binding) in found.items()
    ]  # fmt: skip
    chords: tuple[Chord, ...] = getattr(screen, "chords", ())
    commands += [
        Command(Reach.SCREEN, chord.keys, chord.description, chord.action, screen, chord.id, False) for chord in chords
    ]
    return sorted(commands, key=lambda command: (command.reach, _SHARED.get(command.id, _LAST_OF[command.reach])))


def grouped(commands: Iterable[Command]) -> list[Command]:
    """The same with one command for each group, such as the four that move a cursor: it says what all of them do."""
    groups: dict[tuple[int, str], list[Command]] = {}
    for number, command in enumerate(commands):
        groups.setdefault((id(command.node), command.group) if command.group else (number, ""), []).append(command)
    return [_merged(group) for group in groups.values()]


def _merged(group: Sequence[Command]) -> Command:
    if len(group) == 1:
        return group[0]
    alternatives = zip_longest(*(command.keys.split(",") for command in group), fillvalue="")
    keys = ",".join(" ".join(filter(None, keys)) for keys in alternatives)
    return replace(group[0], keys=keys, description=group[0].group, action="", id="")


def _reach(node: DOMNode, binding: Binding, screen: Screen[Any]) -> Reach:
    if binding.id in _SHARED:
        return Reach.GO if binding.group is SCREENS else Reach.APP
    if node is screen:
        return Reach.SCREEN
    return Reach.APP if node is screen.app else Reach.PANE


def declared_bindings(kind: type) -> Iterator[Binding]:
    """Bindings that `kind` itself declares, if it is one of ours."""
    if kind.__module__.startswith("aprtui."):
        yield from (each for each in kind.__dict__.get("BINDINGS", ()) if isinstance(each, Binding))


def _actions(node: DOMNode) -> set[str]:
    """The actions of our own that `node` binds: a field of text binds forty of Textual's."""
    return {binding.action for kind in type(node).__mro__ for binding in declared_bindings(kind)}
