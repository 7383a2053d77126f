"""One key means one thing on all screens: the table in docs/app.md, held against all bindings and chords."""

from __future__ import annotations

import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from textual.binding import Binding
from textual.screen import ModalScreen
from textual.widget import Widget

from aprtui.tui.app import SCREENS
from aprtui.tui.frame.commands import declared_bindings
from aprtui.tui.frame.keymap import key_name
from aprtui.tui.tour.app import TourApp

APP_MD = Path(__file__).parents[3] / "docs" / "app.md"
TITLE = "## One key, one meaning"

SAME: Mapping[str, set[str]] = {
    "M": {"statistic", "scale", "turn_metric"},
    "r": {"again", "read_again", "judge"},
    "space": {"pause", "mark", "turn"},
    "left": {"move", "turn"},
    "right": {"move", "turn"},
    "v": {"turn_view", "turn_cells"},
    "enter": {"choose", "open", "edit", "submit", "send"},
    "escape": {"leave", "back", "end_filter"},
    "up": {"move", "cursor_up"},
    "down": {"move", "cursor_down"},
    "home": {"move", "move_to", "oldest"},
    "end": {"move", "move_to", "newest"},
    "shift+left": {"move", "travel"},
    "shift+right": {"move", "travel"},
}
"""The actions that are the one meaning of a key in different panes; a key that is not here has one action."""


def meanings() -> dict[str, str]:
    """Key, or keys of a chord, to meaning, as docs/app.md has them. A key that stands there twice is an error."""
    section = APP_MD.read_text(encoding="utf-8").split(TITLE)[1].split("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    found = [(key, cells[1].strip()) for cells in rows for key in re.findall(r"`([^`]+)`", cells[0])]
    assert not [key for key, count in Counter(key for key, _ in found).items() if count > 1]
    return dict(found)


def kinds(root: type[Widget] = Widget) -> Iterator[type[Widget]]:
    """Our screens and widgets; a dialog takes its keys for itself while it is open."""
    for kind in root.__subclasses__():
        if not issubclass(kind, ModalScreen):
            if kind.__module__.startswith("aprtui."):
                yield kind
            yield from kinds(kind)


def bound() -> dict[str, set[str]]:
    """Every key that is bound anywhere, with the names of its actions."""
    actions = defaultdict(set)
    bindings: set[Binding] = {binding for kind in kinds() for binding in declared_bindings(kind)}
    bindings.update(declared_bindings(TourApp))
    for binding in bindings:
        for key in map(key_name, binding.key.split(",")):
            actions[key].add(re.sub(r"^(app|screen)\.|\(.*", "", binding.action))
    for screen in SCREENS.values():
        for chord in screen.CHORDS:
            actions[chord.keys].add(re.sub(r"\(.*", "", chord.action))
    return actions


SIGNS = {key_name(sign): sign for sign in string.punctuation}


def written(key: str) -> str:
    """A bound key as the table has it: `right_square_bracket` is `]`, the chord of all letters `m a`."""
    return key.replace("*", "a") if " " in key else SIGNS.get(key, key)


def test_every_key_has_its_meaning_in_the_documentation() -> None:
    known = meanings()
    assert {key: actions for key, actions in bound().items() if written(key) not in known} == {}


def test_the_documentation_has_no_key_that_is_not_bound() -> None:
    assert meanings().keys() <= {written(key) for key in bound()}


def test_a_key_does_the_same_kind_of_thing_on_all_screens() -> None:
    allowed = {key: SAME.get(key, set()) for key in bound()}
    assert {key: found for key, found in bound().items() if len(found) > 1 and not found <= allowed[key]} == {}
    assert {key: SAME[key] - bound()[key] for key in SAME if SAME[key] - bound()[key]} == {}
