"""Folders of ranks: which processes dumped, and which of them is taken."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from aprtui.errors import UnreadableError, UsageError


def one_rank(path: Path, pattern: re.Pattern[str], rank: int | None) -> Path:
    """The folder of a rank in `path`, or `path` itself where its own name is that of one.

    `pattern` matches the name of such a folder, with its number as the first group (nothing: 0).
    """
    if pattern.fullmatch(path.name) and not ranks_in(path, pattern):
        return path
    found = ranks_in(path, pattern)
    if not found:
        raise UnreadableError(f"{path}: no folder of a rank in it")
    return found[chosen_rank(path, found, rank)]


def ranks_in(path: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    """The folders of ranks in `path`, by number."""
    folders = sorted(child for child in path.iterdir() if child.is_dir()) if path.is_dir() else []
    matched = ((pattern.fullmatch(folder.name), folder) for folder in folders)
    return {int(match[1] or 0): folder for match, folder in matched if match is not None}


def chosen_rank(path: Path, ranks: Iterable[int], rank: int | None) -> int:
    """The rank that was asked for, or the only one. Raises `UsageError` with a list of them."""
    numbers = sorted(ranks)
    if rank is None and len(numbers) == 1:
        return numbers[0]
    if rank not in numbers or rank is None:
        listed = ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")
        raise UsageError(
            f"{path}: holds the ranks {listed}: choose one with --rank, or put them together: aprtui ranks {path}"
        )
    return rank


def unplaced(ranks: Iterable[int]) -> dict[int, dict[str, int]]:
    """Ranks of which nothing says where they stand in their groups."""
    return {rank: {} for rank in ranks}
