"""What changed in meaning between two versions of a contract.

Entries and fields come and go; statuses are raised and lowered by the ladder of maturity; bounds are loosened and
tightened. The life cycle of a document has no order: it changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from aprtui.contracts.changes.bounds import moved, moved_in_text, same_but_numbers
from aprtui.contracts.changes.facts import STATUS, Facts, Value, facts_of
from aprtui.contracts.documents.document import Document
from aprtui.contracts.documents.maturity import Maturity, maturity_of

_CLAIMS = frozenset({"formula", "invariants", "prediction", "property", "formal", "rule", "pass_criteria"})
"""Fields whose text says what must hold: a bound in them is one of the claim. Elsewhere a number may mean anything."""


class Kind(StrEnum):
    """What happened."""

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

    `old` and `new` are the values, None where there was none; of an entry its title. `old_line` and `new_line` are
    where the entry stands.
    """

    kind: Kind
    section: str
    name: str
    field: str
    old: Value | None
    new: Value | None
    old_line: int | None
    new_line: int | None


def changes(old: Document, new: Document) -> tuple[Change, ...]:
    """What changed from `old` to `new`: in the order of `old`, what was added last."""
    before, after = facts_of(old), facts_of(new)
    found: list[Change] = []
    for key in dict.fromkeys((*before, *after)):
        then, now = before.get(key), after.get(key)
        if then is not None and now is not None:
            found += _fields(then, now)
        elif then is not None:
            found.append(Change(Kind.REMOVED, *key, "", then.title, None, then.line, None))
        elif now is not None:
            found.append(Change(Kind.ADDED, *key, "", None, now.title, None, now.line))
    return tuple(found)


def _fields(then: Facts, now: Facts) -> Iterator[Change]:
    for field in dict.fromkeys((*then.fields, *now.fields)):
        old, new = then.fields.get(field), now.fields.get(field)
        if old == new and isinstance(old, bool) == isinstance(new, bool):
            continue
        pairs = [(old, new)]
        if isinstance(old, tuple) and isinstance(new, tuple):
            pairs = list(_items(old, new))
        for one, other in pairs:
            kind = _kind(field, one, other)
            yield Change(kind, now.section, now.name, field, one, other, then.line, now.line)


_Pair = tuple[Value | None, Value | None]


def _items(old: tuple[str, ...], new: tuple[str, ...]) -> Iterator[_Pair]:
    """What of two lists came and went; what was replaced alone, or differs in numbers alone, is one that changed."""
    gone = [item for item in old if item not in new]
    come = [item for item in new if item not in old]
    if len(gone) == len(come) == 1:
        yield gone[0], come[0]
        return
    for item in gone:
        twin = next((other for other in come if same_but_numbers(item, other)), None)
        if twin is not None:
            come.remove(twin)
        yield item, twin
    for item in come:
        yield None, item


def _kind(field: str, old: Value | None, new: Value | None) -> Kind:
    if field == STATUS:
        return _of_status(str(old or ""), str(new or ""))
    if old is None:
        return Kind.ADDED
    if new is None:
        return Kind.REMOVED
    move = None
    if isinstance(old, int | float) and isinstance(new, int | float) and not isinstance(old, bool):
        move = moved(field, float(old), float(new))
    elif isinstance(old, str) and isinstance(new, str) and field in _CLAIMS:
        move = moved_in_text(old, new)
    return Kind.CHANGED if move is None else Kind(move.value)


def _of_status(old: str, new: str) -> Kind:
    was, is_now = maturity_of(old), maturity_of(new)
    if Maturity.UNRANKED in (was, is_now) or was == is_now:
        return Kind.CHANGED
    return Kind.RAISED if is_now > was else Kind.LOWERED
