"""The changes in meaning between two versions of a contract.

Entries and fields are added and removed; statuses are raised and lowered on the ladder of maturity; bounds are loosened
and tightened. The life cycle of a document has no order: it only changes.

The direction of a bound is read from the words beside the number (`>= 0.99`, `0.9 <= x`, `at most 3`) or from the name
of a parameter (`at_least`, `tolerance`). Where it cannot be read, the bound counts as changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from aprtui.contracts.changes.facts import STATUS, Facts, Value, facts_of
from aprtui.contracts.documents.bounds import NUMBER, is_least, named_least
from aprtui.contracts.documents.document import Document, Maturity, maturity_of

_CLAIMS = frozenset({"formula", "invariants", "prediction", "property", "formal", "rule", "pass_criteria"})
"""Fields whose text says what must hold: a bound in them belongs to the claim. Elsewhere a number may mean anything."""


class ChangeKind(StrEnum):
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    RAISED = "raised"
    LOWERED = "lowered"
    LOOSENED = "loosened"
    TIGHTENED = "tightened"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a `field` of an entry; of the entry itself where `field` is empty.

    `old` and `new` are the values, None where there was none; for an entry, its title. `old_line` and `new_line` are
    the lines of the entry.
    """

    kind: ChangeKind
    section: str
    name: str
    field: str
    old: Value | None
    new: Value | None
    old_line: int | None
    new_line: int | None


def changes(old: Document, new: Document) -> tuple[Change, ...]:
    """The changes from `old` to `new` in the order of `old`; additions come last."""
    before, after = facts_of(old), facts_of(new)
    found: list[Change] = []
    for key in dict.fromkeys((*before, *after)):
        then, now = before.get(key), after.get(key)
        if then is not None and now is not None:
            found += _fields(then, now)
        elif then is not None:
            found.append(Change(ChangeKind.REMOVED, *key, "", then.title, None, then.line, None))
        elif now is not None:
            found.append(Change(ChangeKind.ADDED, *key, "", None, now.title, None, now.line))
    return tuple(found)


def _fields(then: Facts, now: Facts) -> Iterator[Change]:
    for field in dict.fromkeys((*then.fields, *now.fields)):
        old, new = then.fields.get(field), now.fields.get(field)
        if old == new and isinstance(old, bool) == isinstance(new, bool):
            continue
        pairs: list[tuple[Value | None, Value | None]] = [(old, new)]
        if isinstance(old, tuple) and isinstance(new, tuple):
            pairs = list(_items(old, new))
        for one, other in pairs:
            kind = _kind(field, one, other)
            yield Change(kind, now.section, now.name, field, one, other, then.line, now.line)


def _items(old: tuple[str, ...], new: tuple[str, ...]) -> Iterator[tuple[str | None, str | None]]:
    """The items removed from and added to a list; paired where one replaces one, or only numbers differ."""
    gone = [item for item in old if item not in new]
    come = [item for item in new if item not in old]
    if len(gone) == len(come) == 1:
        yield gone[0], come[0]
        return
    for item in gone:
        twin = next((other for other in come if _masked(other) == _masked(item)), None)
        if twin is not None:
            come.remove(twin)
        yield item, twin
    for item in come:
        yield None, item


def _kind(field: str, old: Value | None, new: Value | None) -> ChangeKind:
    if field == STATUS:
        return _of_status(str(old or ""), str(new or ""))
    if old is None:
        return ChangeKind.ADDED
    if new is None:
        return ChangeKind.REMOVED
    move = None
    if isinstance(old, int | float) and isinstance(new, int | float) and not isinstance(old, bool):
        move = moved(field, float(old), float(new))
    elif isinstance(old, str) and isinstance(new, str) and field in _CLAIMS:
        move = moved_in_text(old, new)
    return move or ChangeKind.CHANGED


def _of_status(old: str, new: str) -> ChangeKind:
    was, is_now = maturity_of(old), maturity_of(new)
    if Maturity.UNRANKED in (was, is_now) or was == is_now:
        return ChangeKind.CHANGED
    return ChangeKind.RAISED if is_now > was else ChangeKind.LOWERED


def moved(field: str, old: float, new: float) -> ChangeKind | None:
    """Whether a changed number in `field` loosens or tightens the claim, by the words of the field's name."""
    least = named_least(field)
    return None if least is None or old == new else _direction(least, old, new)


def moved_in_text(old: str, new: str) -> ChangeKind | None:
    """Whether changed bounds in an otherwise equal text loosen or tighten it; None where they do not all agree."""
    if _masked(old) != _masked(new):
        return None
    moves = set(_moves(old, new))
    return moves.pop() if len(moves) == 1 else None


def _masked(text: str) -> str:
    """`text` without its numbers."""
    return NUMBER.sub("#", text)


def _moves(old: str, new: str) -> Iterator[ChangeKind | None]:
    for before, after in zip(NUMBER.finditer(old), NUMBER.finditer(new), strict=True):
        if float(before[0]) != float(after[0]):
            least = is_least(old[: before.start()], old[before.end() :])
            yield None if least is None else _direction(least, float(before[0]), float(after[0]))


def _direction(least: bool, old: float, new: float) -> ChangeKind:
    return ChangeKind.TIGHTENED if (new > old) == least else ChangeKind.LOOSENED
