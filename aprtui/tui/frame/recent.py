"""What was opened lately, remembered between runs in the user's state folder: models, captures, contracts, and pairs.

If the folder cannot be read or written, nothing is remembered; that is no error.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import platformdirs

from aprtui.config import Config
from aprtui.errors import AprtuiError
from aprtui.model.discovery.places import models_elsewhere
from aprtui.model.open_file import SUFFIXES
from aprtui.model.split_files import first_part
from aprtui.resources import embedded_model
from aprtui.trace.aprt import write_atomically
from aprtui.trace.archive import is_folder
from aprtui.tui.frame.state import ScreenName, ScreenState

MOST_REMEMBERED = 20

Opened = tuple[Path, ...]
"""One path, or the two captures of a comparison."""


def recent_file() -> Path:
    """Where they are remembered: below `APRTUI_STATE_DIR`, or below the user's state folder."""
    return Path(os.environ.get("APRTUI_STATE_DIR") or platformdirs.user_state_path("aprtui")) / "recent.json"


def recently_opened() -> tuple[Opened, ...]:
    """What was opened lately and is still there, the latest first."""
    with suppress(OSError, ValueError):
        entries = json.loads(recent_file().read_text(encoding="utf-8"))
        if isinstance(entries, list):
            found = [[entry] if isinstance(entry, str) else entry for entry in entries]
            opened = [tuple(map(Path, texts)) for texts in found if _is_opened(texts)]
            return tuple(paths for paths in opened if all(map(os.path.exists, paths)))
    return ()


def _is_opened(texts: object) -> bool:
    return isinstance(texts, list) and len(texts) in (1, 2) and all(isinstance(text, str) for text in texts)


def recent_paths() -> tuple[Path, ...]:
    """The models, captures and contracts among them."""
    return tuple(paths[0] for paths in recently_opened() if len(paths) == 1)


def recent_pairs() -> tuple[Opened, ...]:
    """The comparisons among them, each as its reference and the other capture."""
    return tuple(paths for paths in recently_opened() if len(paths) == 2)


def models_at_hand(*places: Path) -> tuple[Path, ...]:
    """Model files in which a capture's model may be found: those among or in `places`, those in the working directory,
    those that were opened lately, and the embedded one.
    """
    files: list[Path] = []
    for place in (*places, Path()):
        if place.is_dir():
            with suppress(OSError):
                files += sorted(path for path in place.iterdir() if path.suffix in SUFFIXES)
        elif place.suffix in SUFFIXES:
            files.append(place)
    files += [path for path in recent_paths() if path.suffix in SUFFIXES]
    return tuple(dict.fromkeys(first_part(path.absolute()) for path in (*files, embedded_model())))


def models_in_caches(config: Config) -> tuple[Path, ...]:
    """Model files elsewhere on this machine: in the folders of the configuration, and in the caches of other tools."""
    return tuple(model.path for model in models_elsewhere(config))


def remember(*opened: Path) -> None:
    """Note that a model, a capture, a contract, or a pair of captures was opened: Browse lists it from now on."""
    latest = tuple(first_part(path.absolute()) for path in opened)
    entries = [latest, *(paths for paths in recently_opened() if paths != latest)]
    # Not more pairs than push the single ones out.
    pairs = [paths for paths in entries if len(paths) == 2][:MOST_REMEMBERED]
    single = [paths for paths in entries if len(paths) == 1][:MOST_REMEMBERED]
    kept = [paths for paths in entries if paths in (single if len(paths) == 1 else pairs)]
    texts = [str(paths[0]) if len(paths) == 1 else [*map(str, paths)] for paths in kept]
    with suppress(OSError, AprtuiError):
        write_atomically(recent_file(), json.dumps(texts).encode())


def remember_state(state: ScreenState) -> None:
    """Note what a screen that was opened shows. Folders are looked into, they do not count as opened."""
    fields = {
        ScreenName.LIVE: ("model", "recording"), ScreenName.TENSOR: ("capture", "model"), ScreenName.DIFF: ("a", "b"),
        ScreenName.CONTRACTS: ("path",),
    }.get(state.screen, ())  # fmt: skip
    paths = [path for path in map(state.path, fields) if path is not None and path.exists()]
    for path in reversed(paths):
        # Neither single stage files nor folders of contracts.
        listed = (*SUFFIXES, ".jsonl")
        if path.is_file() if state.screen is ScreenName.CONTRACTS else is_folder(path) or path.suffix in listed:
            remember(path)
    if state.screen is ScreenName.DIFF and len(paths) == 2:
        remember(*paths)
