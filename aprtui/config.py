"""The user's configuration: `config.toml` in the user's configuration folder, or where `APRTUI_CONFIG` says.

theme = "aprtui-light"        # or aprtui-dark, or a theme of Textual's
ascii = true                  # glyphs of ASCII alone
[keys]                        # commands by the id that the help shows
"diff.swap" = "f9"
"diff.first" = "g f"
[models]
folders = ["~/gguf"]          # searched as well
default = ["coder", "smollm2-135m-q4_1"]   # what MODEL means where it is left out: the first that can be run
[aliases]
coder = "qwen2.5-coder-0.5b-instruct-q4_k_m"   # a name that `aprtui models` lists, or a path
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
    """What the user has configured; `keys` are remapped commands by id, `path` the file.

    `folders` are searched for models; `default` are names of models in the order of preference; `aliases` maps names to
    names or paths.
    """

    path: Path
    theme: str | None = None
    ascii: bool = False
    keys: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    folders: tuple[Path, ...] = ()
    default: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


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
    keys = _texts_by_name(document, "keys", "keys as a string, as in 'j,down'", path)
    aliases = _texts_by_name(document, "aliases", "the name or the path of a model", path)
    theme, is_ascii = _pop(document, "theme", str, None, path), _pop(document, "ascii", bool, False, path)
    models = _pop(document, "models", dict, {}, path)
    folders, default = (_texts(models, name, path) for name in ("folders", "default"))
    for where, left in (("", document), ("[models] ", models)):
        if left:
            expected = "folders and default" if where else "theme, ascii, [keys], [models] and [aliases]"
            raise UsageError(f"{path}: {where}{next(iter(left))}: no such setting: expected {expected}")
    return Config(
        path, theme, is_ascii, keys, tuple(path.parent / expanded(text) for text in folders), default, aliases
    )


def expanded(text: str) -> Path:
    """The path `text`, with a home directory in place of `~`, where there is one."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def _pop(document: dict[str, Any], name: str, kind: type, default: Any, path: Path) -> Any:
    value = document.pop(name, default)
    if value is not default and not isinstance(value, kind):
        raise UsageError(f"{path}: {name}: expected a {kind.__name__}, found {value!r}")
    return value


def _texts_by_name(document: dict[str, Any], name: str, expected: str, path: Path) -> dict[str, str]:
    table: dict[str, str] = _pop(document, name, dict, {}, path)
    for key, value in table.items():
        if not isinstance(value, str):
            raise UsageError(f"{path}: [{name}] {key}: expected {expected}")
    return dict(table)


def _texts(models: dict[str, Any], name: str, path: Path) -> tuple[str, ...]:
    """A string, or a list of such."""
    value = models.pop(name, [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise UsageError(f"{path}: [models] {name}: expected a string or a list of strings")
    return tuple(texts)
