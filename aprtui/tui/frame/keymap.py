"""Keys: chords of two of them, and keys that the user has remapped.

Single keys are Textual's bindings and are remapped by their id. A *chord* is two keys in turn, as in `g d`: its first
key, the prefix, does nothing by itself, so no key is both a command and a prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from textual.binding import Binding
from textual.keys import _character_to_key, format_key

from aprtui.errors import UsageError


@dataclass(frozen=True, slots=True)
class Chord:
    """Two keys in turn, as in "g d" or "] d", and what they do; `*` as the second is any letter."""

    keys: str
    action: str
    description: str
    id: str

    @property
    def prefix(self) -> str:
        return key_name(self.keys.split()[0])

    @property
    def last(self) -> str:
        return self.keys.split()[1] if self.keys.endswith("*") else key_name(self.keys.split()[1])


def key_name(key: str) -> str:
    """Textual's name of a key that may be given as its character: `]` is `right_square_bracket`."""
    return _character_to_key(key) if len(key) == 1 else key


def displayed_keys(keys: str, ascii_only: bool = False) -> str:
    """The keys of a binding ("down,j") or a chord ("g d") as a person calls them; names for arrows in ASCII."""
    parts = ([_displayed(key, ascii_only) for key in sequence.split()] for sequence in keys.split(","))
    return " ".join(("" if all(len(key) == 1 for key in part) else " ").join(part) for part in parts)


def _displayed(key: str, ascii_only: bool) -> str:
    if key == "*":
        return "a-z" if ascii_only else "a…z"
    text = format_key(key)
    return key if ascii_only and not text.isascii() else text


def remapped(chords: Iterable[Chord], keys: Mapping[str, str]) -> tuple[Chord, ...]:
    """The chords with the keys that the user has chosen for them by id."""
    return tuple(replace(chord, keys=keys[chord.id]) if chord.id in keys else chord for chord in chords)


def first_key(
    name: str, bindings: Iterable[Binding], chords: Iterable[Chord], keys: Mapping[str, str], ascii_only: bool
) -> str:
    """The key of the command with the id `name`, or the first of several, as a person calls it; the user's own `keys`
    count. Raises `KeyError` where neither `bindings` nor `chords` have that id."""
    bound = {binding.id: binding.key for binding in bindings} | {chord.id: chord.keys for chord in chords}
    return displayed_keys(keys.get(name, bound[name]).split(",")[0], ascii_only)


def check_remapping(keys: Mapping[str, str], bindings: Iterable[Binding], chords: Iterable[Chord], where: str) -> None:
    """Check remapped keys against the commands that exist. Raises `UsageError`, naming the file `where`."""
    chord_ids = {chord.id for chord in chords}
    known = chord_ids | {binding.id for binding in bindings if binding.id}
    for name, value in keys.items():
        if name not in known:
            raise UsageError(
                f"{where}: [keys] {name}: there is no such command: see the ids in the help of each screen"
            )
        expected = 2 if name in chord_ids else 1
        if not value or any(len(keys.split()) != expected for keys in value.split(",")):
            example = "two keys with a space between them, as in 'g d'" if expected == 2 else "keys as in 'j,down'"
            raise UsageError(f"{where}: [keys] {name} = {value!r}: expected {example}")
