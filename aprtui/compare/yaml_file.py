"""Reading small YAML files that users write: safe, bounded, and with one line to say what is wrong and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aprtui.errors import UsageError

MOST_BYTES = 1 << 20
"""A policy or mapping is a page of text; what is larger is some other file."""


def read_yaml(path: Path) -> Any:
    """The document in `path`. Raises `UsageError` for a file that cannot be read, is too large, or is no YAML.

    Aliases are refused: nested ones grow without bound, and no file of ours needs them.
    """
    import yaml

    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}: give a readable YAML file") from error
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path}: larger than {MOST_BYTES} bytes: not a file of this kind")
    try:
        text = data.decode()
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) and event.start_mark is not None:
                line = event.start_mark.line + 1
                raise UsageError(f"{path}: line {line}: YAML aliases are not allowed: write it out")
        return yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start}: not UTF-8: save it as UTF-8 text") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise UsageError(f"{path}: {where}not YAML ({problem}): correct it") from error
