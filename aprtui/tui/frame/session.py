"""What the screens of one run of the app share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aprtui.engine.sampling import Sampling
from aprtui.tui.frame.source import LiveSource


@dataclass(frozen=True, slots=True)
class Session:
    """Where the live screen gets its data, how it begins, and the paths given to look in."""

    source: LiveSource
    prompt: str = ""
    sampling: Sampling | None = None
    paths: tuple[Path, ...] = ()
