"""JSON lines on stdout (RFC 8259): non-finite numbers as the strings `"nan"`, `"inf"`, `"-inf"`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aprtui.trace.json_value import json_value


def write_record(record: Mapping[str, Any]) -> None:
    """Write one record as a line, flushed so that a reader sees it at once."""
    sys.stdout.write(_line(record))
    sys.stdout.flush()


def write_file(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records to a file, a line each. Raises `EngineError` where it cannot be written."""
    from aprtui.trace.export.output import write_text

    write_text(path, "".join(map(_line, records)))


def _line(record: Mapping[str, Any]) -> str:
    """A record as a line; what is no Unicode, as bytes of a file name, escaped."""
    text = json.dumps(json_value(record), ensure_ascii=False, allow_nan=False)
    return text.encode(errors="backslashreplace").decode() + "\n"
