"""Paths as text."""

from __future__ import annotations

import os
from pathlib import Path


def as_typed(path: Path) -> str:
    """A path as a person would type it here: relative where it lies below the working directory."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(path)


def short_path(path: Path, working: Path) -> str:
    """A path as short as it can be: relative to the folder `working`, or to the home of the user as `~`."""
    absolute = path.absolute()
    if absolute.is_relative_to(working):
        return str(absolute.relative_to(working)) if absolute != working else f".{os.sep} ({working.name})"
    home = Path.home()
    return f"~{os.sep}{absolute.relative_to(home)}" if absolute.is_relative_to(home) else str(absolute)
