"""Which keys would mean two things on one screen."""

from __future__ import annotations

from collections.abc import Iterable

from textual.binding import Binding

from aprtui.tui.frame.keymap import Chord, key_name
from aprtui.tui.frame.tool_screen import ToolScreen


def bindings_at_once(screen: type[ToolScreen]) -> list[list[Binding]]:
    """The keys that can be pressed at one time: one widget has the focus, or none."""
    return [screen.all_bindings(widgets) for widgets in ((), *((widget,) for widget in screen.WIDGETS))]


def clashes(bindings: Iterable[Binding], chords: Iterable[Chord]) -> list[str]:
    """Keys that mean two things on one screen, in words; a key with priority may stand for another one of a widget."""
    actions: dict[str, str] = {}
    clashing = []
    for binding in bindings:
        for key in map(key_name, binding.key.split(",")):
            if actions.get(key, binding.action) != binding.action:
                clashing.append(f"{key}: {actions[key]} and {binding.action}")
            actions[key] = binding.action
    pairs: dict[str, str] = {}
    for chord in chords:
        if chord.prefix in actions:
            clashing.append(f"{chord.prefix}: prefix of {chord.keys!r}, and {actions[chord.prefix]}")
        both = f"{chord.prefix} {chord.last}"
        if pairs.get(both, chord.action) != chord.action:
            clashing.append(f"{both}: {pairs[both]} and {chord.action}")
        pairs[both] = chord.action
    return clashing
