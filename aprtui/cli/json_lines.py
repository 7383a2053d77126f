"""JSON lines on stdout (RFC 8259): non-finite numbers as the strings `"nan"`, `"inf"`, `"-inf"`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from aprtui.trace.json_value import json_value


def write_record(record: Mapping[str, Any]) -> None:
    """Write one record as a line, flushed so that a reader sees it at once."""
    sys.stdout.write(json.dumps(json_value(record), ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()
