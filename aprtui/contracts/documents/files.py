"""Which files are meant by the paths that a user gives."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from aprtui.yaml_file import ContractError

SUFFIXES = (".yaml", ".yml")


def contract_files(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The files among `paths`, and the YAML files below the directories among them, sorted, each once.

    Hidden directories are left out. A path that is not there is kept: reading it says so. Raises `ContractError` for a
    directory without YAML files: nothing read must not look like nothing wrong.
    """
    found: dict[Path, None] = {}
    for path in paths:
        below = _below(path) if path.is_dir() else (path,)
        if not below:
            raise ContractError(path, None, "holds no .yaml file: name a contract or a folder of contracts")
        found.update(dict.fromkeys(below))
    return tuple(found)


def _below(directory: Path) -> tuple[Path, ...]:
    return tuple(
        path
        for path in sorted(directory.rglob("*"))
        if path.suffix in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    )
