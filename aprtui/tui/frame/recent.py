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
from aprtui.resources import embedded_model
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


def models_at_hand(*places: Path) -> tuple[Path, ...]:
    """GGUF files in which a capture's model may be found: those among or in `places`, those in the working directory,
    those that were opened lately, and the embedded one.
    """
    files: list[Path] = []
    for place in (*places, Path()):
        if place.is_dir():
            with suppress(OSError):
                files += sorted(place.glob("*.gguf"))
        elif place.suffix == ".gguf":
            files.append(place)
    files += [path for path in recent_paths() if path.suffix == ".gguf"]
    return tuple(dict.fromkeys(path.absolute() for path in (*files, embedded_model())))


def remember(path: Path) -> None:
    """Note that `path` was opened: it is listed in the app from now on."""
    opened = path.absolute()
    paths = [opened, *(path for path in recent_paths() if path != opened)][:MOST_REMEMBERED]
    with suppress(OSError, AprtuiError):
        write_atomically(recent_file(), json.dumps([str(path) for path in paths]).encode())
