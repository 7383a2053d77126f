"""Captures and models that were opened lately, remembered between runs in the user's state folder.

If the folder cannot be read or written, nothing is remembered; that is no error.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import platformdirs

from aprtui.errors import AprtuiError
from aprtui.trace.aprt import write_atomically

MOST_REMEMBERED = 20


def recent_file() -> Path:
    """Where they are remembered: below `APRTUI_STATE_DIR`, or below the user's state folder."""
    return Path(os.environ.get("APRTUI_STATE_DIR") or platformdirs.user_state_path("aprtui")) / "recent.json"


def recent_paths() -> tuple[Path, ...]:
    """What was opened lately and is still there, the latest first."""
    with suppress(OSError, ValueError):
        paths = json.loads(recent_file().read_text(encoding="utf-8"))
        if isinstance(paths, list):
            texts = [path for path in paths[:MOST_REMEMBERED] if isinstance(path, str)]
            return tuple(Path(path) for path in texts if os.path.exists(path))
    return ()


def remember(path: Path) -> None:
    opened = path.absolute()
    paths = [opened, *(path for path in recent_paths() if path != opened)][:MOST_REMEMBERED]
    with suppress(OSError, AprtuiError):
        write_atomically(recent_file(), json.dumps([str(path) for path in paths]).encode())
