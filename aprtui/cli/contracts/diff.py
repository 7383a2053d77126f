"""`aprtui contracts diff`: what changed in meaning between two versions of a contract."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from aprtui.cli.contracts.shared import path_type, print_line
from aprtui.cli.json_lines import write_record
from aprtui.contracts.changes.difference import Change, changes
from aprtui.contracts.changes.facts import Value
from aprtui.contracts.documents.document import Document
from aprtui.contracts.documents.reader import read_document
from aprtui.errors import ExitCode

_WIDTH = 72


@click.command()
@click.argument("old", type=path_type)
@click.argument("new", type=path_type)
@click.option("--json", "as_json", is_flag=True, help="A JSON object a change, and a summary.")
def command(old: Path, new: Path, as_json: bool) -> int:
    """Say what changed in meaning from contract OLD to NEW: equations, falsifiers, bounds, statuses; not formatting.

    Exit code 0: nothing changed in meaning; 1: something did; 3: a contract cannot be read.
    """
    before, after = read_document(old), read_document(new)
    found = changes(before, after)
    (_write_json if as_json else _write_text)(before, after, found)
    return ExitCode.DIVERGENCE if found else ExitCode.PASS


def _write_text(old: Document, new: Document, found: Sequence[Change]) -> None:
    print_line(f"{old.name} {old.metadata.version} to {new.name} {new.metadata.version}")
    for change in found:
        place = " ".join(part for part in (change.section, change.name, change.field) if part)
        print_line(f"  {change.kind:<9}  {place}{_values(change)}")
    counts = Counter(change.kind for change in found)
    click.echo(", ".join(f"{count} {kind}" for kind, count in counts.items()) or "nothing changed in meaning")
    if found and old.metadata.version == new.metadata.version:
        click.echo("the version is the same")


def _values(change: Change) -> str:
    old, new = _text(change.old), _text(change.new)
    parts = [index for index, (one, other) in enumerate(zip(old, new, strict=False)) if one != other]
    values = " → ".join(_window(text, parts[0] if parts else 0) for text in (old, new) if text)
    line = change.old_line if change.new_line is None else change.new_line
    return f"{f': {values}' if values else ''} (line {line})"


def _text(value: Value | None) -> str:
    return ", ".join(value) if isinstance(value, tuple) else "" if value is None else str(value)


def _window(text: str, at: int) -> str:
    """A part of a long `text` around `at`, where it begins to differ."""
    start = max(0, at - _WIDTH // 4) if len(text) > _WIDTH else 0
    part = text[start : start + _WIDTH]
    return f"{'…' if start else ''}{part}{'…' if start + _WIDTH < len(text) else ''}"


def _write_json(old: Document, new: Document, found: Sequence[Change]) -> None:
    for change in found:
        write_record(_record(change))
    write_record(
        {
            "record": "summary",
            "old": {"path": str(old.path), "version": old.metadata.version},
            "new": {"path": str(new.path), "version": new.metadata.version},
            "changes": len(found),
            "kinds": Counter(str(change.kind) for change in found),
        }
    )


def _record(change: Change) -> dict[str, Any]:
    return {
        "record": "change", "kind": str(change.kind), "section": change.section, "name": change.name,
        "field": change.field, "old": change.old, "new": change.new, "old_line": change.old_line,
        "new_line": change.new_line,
    }  # fmt: skip
