"""The statements of a contract as facts that can be compared: by section, entry and field, without formatting.

White space, quoting, comments, and the order of entries and of lists do not count, nor do fields about the document
itself (its version, dates, authors, references, changelog, descriptions and notes).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from aprtui.contracts.documents.document import Document, Entry, Equation, Falsifier, Harness, Obligation, QaGate

Value = str | int | float | bool | tuple[str, ...]
"""A text with single spaces, a number, a truth value, or a list of texts, sorted."""

_ABOUT_THE_DOCUMENT = frozenset(
    {"author", "changelog", "created", "date", "description", "id", "note", "notes", "references", "updated", "version"}
)
_LONGEST_NAME = 60
STATUS = "status"
LIFE_CYCLE = "life cycle"


@dataclass(frozen=True, slots=True)
class Facts:
    """One entry of a section: its fields, its line, and a `title` for people."""

    section: str
    name: str
    title: str
    line: int
    fields: Mapping[str, Value]


Key = tuple[str, str]


def facts_of(document: Document) -> Mapping[Key, Facts]:
    """Every entry of `document` by section and name."""
    found: dict[Key, Facts] = {}
    for section, entries in _sections(document):
        for name, title, line, fields in entries:
            found[_unused(found, section, _folded(name))] = Facts(section, _folded(name), title, line, fields)
    return found


def _unused(taken: Mapping[Key, Facts], section: str, name: str) -> Key:
    number, free = 1, name
    while (section, free) in taken:
        number += 1
        free = f"{name} #{number}"
    return section, free


_Found = tuple[str, str, int, dict[str, Value]]


def _sections(document: Document) -> Iterable[tuple[str, list[_Found]]]:
    metadata, gate = document.metadata, document.qa_gate
    yield "metadata", [("", "", metadata.line, _metadata(document))]
    yield "equation", [(found.name, found.formula, found.line, _equation(found)) for found in document.equations]
    yield "obligation", _named(document.obligations, lambda found: found.property, _obligation)
    yield "falsifier", _named(document.falsifiers, lambda found: found.title, partial(_falsifier, document))
    yield "harness", _named(document.harnesses, lambda found: found.obligation, _harness)
    if gate is not None:
        yield "qa_gate", [(gate.id, gate.name, gate.line, _qa_gate(gate))]
    for name, value in document.extras.items():
        if name not in (*_ABOUT_THE_DOCUMENT, STATUS):
            yield name, [("", "", document.line_of(name), _flat({"": value}))]


def _named(
    entries: Iterable[Any], title: Callable[[Any], str], fields: Callable[[Any], dict[str, Value]]
) -> list[_Found]:
    """Entries by id; an entry without one is named by its title."""
    return [(found.id or title(found), title(found), found.line, fields(found)) for found in entries]


def _metadata(document: Document) -> dict[str, Value]:
    metadata = document.metadata
    fields = {
        LIFE_CYCLE: document.life_cycle, "kind": metadata.kind, "registry": metadata.registry or None,
        "depends_on": metadata.depends_on, "binds_to": metadata.binds_to,
        "vouches_for": metadata.vouches_for, **_extras(metadata),
    }  # fmt: skip
    return _flat(fields)


def _equation(equation: Equation) -> dict[str, Value]:
    fields = {
        "formula": equation.formula, "domain": equation.domain, "codomain": equation.codomain,
        "invariants": equation.invariants, **_extras(equation),
    }  # fmt: skip
    return _flat(fields)


def _obligation(obligation: Obligation) -> dict[str, Value]:
    fields = {
        "type": obligation.type, "property": obligation.property, "formal": obligation.formal,
        "applies_to": obligation.applies_to, "requires": obligation.requires, "applies_to_phase": obligation.phase,
        "parent_contract": obligation.parent, "na_reason": obligation.na_reason, "na_owner": obligation.na_owner,
        **_extras(obligation),
    }  # fmt: skip
    return _flat(fields)


def _falsifier(document: Document, falsifier: Falsifier) -> dict[str, Value]:
    check = falsifier.check
    is_own = falsifier.vouches_for != document.metadata.vouches_for
    blocks_on = tuple(found.text for found in falsifier.blockers if found.key == "full_discharge_blocks_on")
    fields = {
        "rule": falsifier.rule, "name": falsifier.name, "prediction": falsifier.prediction, "test": falsifier.test,
        "if_fails": falsifier.if_fails, STATUS: falsifier.status, "binds_to": falsifier.binds_to,
        "check": None if check is None else check.name, "full_discharge_blocks_on": blocks_on,
        "vouches_for": falsifier.vouches_for if is_own else None, **_extras(falsifier),
    }  # fmt: skip
    parameters = {} if check is None else {f"check.{name}": value for name, value in check.parameters.items()}
    evidence = {found.key: found.texts or dict(found.parts) for found in falsifier.evidence}
    return _flat({**fields, **parameters, **evidence})


def _harness(harness: Harness) -> dict[str, Value]:
    return _flat({"obligation": harness.obligation, "bound": harness.bound, **_extras(harness)})


def _qa_gate(gate: QaGate) -> dict[str, Value]:
    fields = {"name": gate.name, "checks": gate.checks, "pass_criteria": gate.pass_criteria, **_extras(gate)}
    return _flat(fields)


def _extras(entry: Entry) -> dict[str, Any]:
    known = {"vouches_for", "full_discharge_blocks_on"} | _ABOUT_THE_DOCUMENT
    return {name: value for name, value in entry.extras.items() if name not in known}


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Value]:
    """Nested mappings as fields with dotted names; empty fields are left out."""
    found: dict[str, Value] = {}
    for name, value in fields.items():
        path = ".".join(part for part in (prefix, name) if part)
        if isinstance(value, Mapping):
            found |= _flat(value, path)
        elif isinstance(value, list | tuple):
            found[path] = tuple(sorted(_item(item) for item in value))
        elif isinstance(value, str):
            found[path] = _folded(value)
        elif value is not None:
            found[path] = value
    return {path: value for path, value in found.items() if value not in ("", ())}


def _item(value: Any) -> str:
    """An item of a list as a text; a list or mapping as JSON with sorted keys."""
    if isinstance(value, list | Mapping):
        return _folded(json.dumps(value, sort_keys=True, ensure_ascii=False).replace("\\n", " "))
    return _folded(str(value))


def _folded(text: str) -> str:
    return " ".join(text.split())
