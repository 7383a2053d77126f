"""The statements of a contract as facts that can be compared: by section, entry and field, without formatting.

White space, quoting, comments, and the order of entries and of lists do not count, nor do fields about the document
itself (its version, dates, authors, references, changelog, descriptions and notes).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aprtui.contracts.documents.document import Document, Entry, Falsifier

Value = str | int | float | bool | tuple[str, ...]
"""A text with single spaces, a number, a truth value, or a list of texts, sorted."""

_ABOUT_THE_DOCUMENT = frozenset(
    {"author", "changelog", "created", "date", "description", "id", "note", "notes", "references", "updated", "version"}
)
_LONGEST_NAME = 60
STATUS = "status"
_OF_OBLIGATIONS = (
    "type", "property", "formal", "applies_to", "requires", "applies_to_phase", "parent_contract", "na_reason",
    "na_owner",
)  # fmt: skip


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
    for section, name, title, line, fields in _entries(document):
        found[_unused(found, section, _folded(name))] = Facts(section, _folded(name), title, line, _flat(fields))
    return found


def _unused(taken: Mapping[Key, Facts], section: str, name: str) -> Key:
    number, free = 1, name
    while (section, free) in taken:
        number += 1
        free = f"{name} #{number}"
    return section, free


def _entries(document: Document) -> Iterator[tuple[str, str, str, int, dict[str, Any]]]:
    """Section, name, title, line and fields of every entry; an entry without an id is named by its title."""
    metadata, gate = document.metadata, document.qa_gate
    yield "metadata", "", "", metadata.line, _metadata(document)
    for equation in document.equations:
        fields = _fields(equation, "formula", "domain", "codomain", "invariants")
        yield "equation", equation.name, equation.formula, equation.line, fields
    for obligation in document.obligations:
        fields = _fields(obligation, *_OF_OBLIGATIONS)
        yield "obligation", obligation.id or obligation.property, obligation.property, obligation.line, fields
    for test in document.falsifiers:
        yield "falsifier", test.id or test.title, test.title, test.line, _falsifier(document, test)
    for harness in document.harnesses:
        fields = _fields(harness, "obligation", "bound")
        yield "harness", harness.id or harness.obligation, harness.obligation, harness.line, fields
    if gate is not None:
        yield "qa_gate", gate.id, gate.name, gate.line, _fields(gate, "name", "checks", "pass_criteria")
    for name, value in document.extras.items():
        if name not in (*_ABOUT_THE_DOCUMENT, STATUS):
            yield name, "", "", document.line_of(name), {"": value}


def _metadata(document: Document) -> dict[str, Any]:
    metadata = document.metadata
    return {
        "life cycle": document.life_cycle, "kind": metadata.kind, "registry": metadata.registry or None,
        "depends_on": metadata.depends_on, "binds_to": metadata.binds_to,
        "vouches_for": metadata.vouches_for, **_extras(metadata),
    }  # fmt: skip


def _falsifier(document: Document, falsifier: Falsifier) -> dict[str, Any]:
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
    return {**fields, **parameters, **evidence}


def _fields(entry: Entry, *names: str) -> dict[str, Any]:
    """The fields `names` of an entry, and those that its record has no field for."""
    return {**{name: getattr(entry, name) for name in names}, **_extras(entry)}


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
