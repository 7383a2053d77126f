"""All formats, in the order in which a source is held against them."""

from __future__ import annotations

from pathlib import Path

from aprtui.errors import UsageError
from aprtui.importing.formats import mapped
from aprtui.importing.formats.base import ImportFormat

FORMATS: tuple[ImportFormat, ...] = (mapped.FORMAT,)


def format_of(path: Path) -> ImportFormat | None:
    """The format that `path` surely has, or None."""
    return next((entry for entry in FORMATS if entry.recognises(path)), None)


def format_named(name: str) -> ImportFormat:
    """The format of that name. Raises `UsageError` with a list of all."""
    found = next((entry for entry in FORMATS if entry.name == name), None)
    if found is None:
        raise UsageError(f"--as {name}: no such format: there are {', '.join(entry.name for entry in FORMATS)}")
    return found
