"""The user's configuration: `config.toml` in the user's configuration folder, or where `APRTUI_CONFIG` says.

theme = "aprtui-light"        # or aprtui-dark, or a theme of Textual's
ascii = true                  # glyphs of ASCII alone
[keys]                        # commands by the id that the help shows
"diff.swap" = "f9"
"diff.first" = "g f"
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import platformdirs

from aprtui.errors import UsageError


@dataclass(frozen=True, slots=True)
class Config:
    """What the user has configured; `keys` are remapped commands by id, `path` the file."""

    path: Path
    theme: str | None = None
    ascii: bool = False
    keys: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def config_path() -> Path:
    return Path(os.environ.get("APRTUI_CONFIG") or platformdirs.user_config_path("aprtui") / "config.toml")


def read_config(path: Path) -> Config:
    """The configuration at `path`; without a file, the default. Raises `UsageError`."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Config(path)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}: fix or remove the file") from error
    keys = _pop(document, "keys", dict, {}, path)
    for name, value in keys.items():
        if not isinstance(value, str):
            raise UsageError(f"{path}: [keys] {name}: expected keys as a string, as in 'j,down'")
    config = Config(
        path, _pop(document, "theme", str, None, path), _pop(document, "ascii", bool, False, path), dict(keys)
    )
    if document:
        raise UsageError(f"{path}: {next(iter(document))}: no such setting: expected theme, ascii and [keys]")
    return config


def _pop(document: dict[str, Any], name: str, kind: type, default: Any, path: Path) -> Any:
    value = document.pop(name, default)
    if value is not default and not isinstance(value, kind):
        raise UsageError(f"{path}: {name}: expected a {kind.__name__}, found {value!r}")
    return value
