"""JSON lines on stdout (RFC 8259): non-finite numbers as the strings `"nan"`, `"inf"`, `"-inf"`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """`value` with every non-finite float, at any depth, as its string."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def write_record(record: Mapping[str, Any]) -> None:
    """Write one record as a line, flushed so that a reader sees it at once."""
    sys.stdout.write(json.dumps(plain(record), ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()
