"""Strict reading of what a YAML file holds: known fields only, every mistake named with file and field."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from aprtui.errors import UsageError


def fields_of(
    value: Any, path: Path, where: str, known: Collection[str], needed: Collection[str] = ()
) -> Mapping[str, Any]:
    """The fields of a mapping, all of them `known` and none of those `needed` missing. Raises `UsageError`."""
    if not isinstance(value, dict):
        raise UsageError(f"{path}: {where}: expected the fields {', '.join(sorted(known))}")
    unknown = {str(key) for key in value} - set(known)
    if unknown:
        raise UsageError(f"{path}: {where}: no field {sorted(unknown)[0]!r}: there are {', '.join(sorted(known))}")
    missing = set(needed) - value.keys()
    if missing:
        raise UsageError(f"{path}: {where}: the field {sorted(missing)[0]} is missing")
    return value


def texts_of(value: Any, path: Path, where: str, what: str = "names or globs of stages") -> Sequence[str]:
    """A list of texts that are not empty; `what` they are is told where they are none. Raises `UsageError`."""
    if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
        raise UsageError(f"{path}: {where}: expected {what}")
    return value
