"""Results that are kept between runs because they cost time, not because they must last."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from aprtui.errors import EngineError
from aprtui.trace.aprt import write_atomically


def keep(path: Path, value: object) -> None:
    """Write `value` to `path` as JSON, whole or not at all. A cache that cannot be written is done without."""
    with suppress(EngineError):
        write_atomically(path, json.dumps(value).encode())
