"""Which build this is: the version, the revision it was built from, and whether that is a release as it was tagged.

The build backend's hook (`.ci/build_hook.py`) asks git once and puts the answer into the wheel and the sdist. A
checkout that is used as it lies asks git itself. Standard library only: the hook runs where nothing else is installed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from aprtui import __version__

DOCUMENTATION = "https://github.com/aprtui/aprtui/tree/main/docs"
"""Where the pages are: a wheel brings none."""
BUILD_FILE = "aprtui/data/build.json"
"""Where a wheel says what it was built from; an sdist brings the file along for the wheel that is built of it."""
_REVISION_DIGITS = 12
_MOST_SECONDS = 5.0
"""A git that answers later than this, on a file system that hangs, is not waited for."""


class BuildState(StrEnum):
    """How the files of a build stand to their revision."""

    RELEASE = "release"
    """Those of the revision that carries the tag of this version."""
    UNRELEASED = "not a release"
    """Those of a revision without that tag."""
    CHANGED = "with uncommitted changes"
    """A file under version control differs from the revision; a file that git does not know is not counted."""
    UNKNOWN = "unknown"
    """Nobody can say: no git here, or no repository."""


@dataclass(frozen=True, slots=True)
class Build:
    """A version and what it was built from; the revision is empty where it is unknown."""

    version: str
    revision: str = ""
    state: BuildState = BuildState.UNKNOWN

    def __str__(self) -> str:
        if not self.revision:
            return f"{self.version} (revision unknown)"
        return f"{self.version} (revision {self.revision}, {self.state})"


@cache
def this_build() -> Build:
    """The build that runs: as its wheel says, or as git says of the checkout around the package."""
    root = Path(__file__).parent.parent
    return packed_build(root) or build_of_checkout(root)


def release_of(version: str) -> str:
    """The version without the revision, in what a `Build` is as a text; any other text as it is."""
    return re.sub(r" \(revision .*\)$", "", version)


def packed_build(root: Path) -> Build | None:
    """What `root`, an unpacked wheel, says of itself; None in a checkout, and where the file says nothing."""
    try:
        fields = json.loads((root / BUILD_FILE).read_text(encoding="utf-8"))
        return Build(str(fields["version"]), str(fields["revision"]), BuildState(fields["state"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def build_of_checkout(root: Path) -> Build:
    """What git says of `root`; unknown where there is no git, or `root` is no checkout of its own."""
    if not (root / ".git").exists():  # a folder of another repository, with an environment in it, says nothing of us
        return Build(__version__)
    words = ["git", "--no-optional-locks", "describe", "--tags", "--match", f"v{__version__}", "--always", "--long",
             "--dirty", f"--abbrev={_REVISION_DIGITS}"]  # fmt: skip
    # In a hook of git these name the repository that the hook runs for.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            words, cwd=root, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_MOST_SECONDS, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return Build(__version__)
    return _described(done.stdout.strip())


def _described(text: str) -> Build:
    """Read `v0.1.0-0-g0123456789ab-dirty`, or the revision alone where no tag of this version leads to it."""
    described, changed, _ = text.partition("-dirty")
    tag_and_distance, _, revision = described.rpartition("-g")
    if not tag_and_distance:
        revision = described
    if not revision:
        return Build(__version__)
    released = tag_and_distance == f"v{__version__}-0"
    state = BuildState.CHANGED if changed else BuildState.RELEASE if released else BuildState.UNRELEASED
    return Build(__version__, revision, state)


def write_build(root: Path, path: Path) -> None:
    """Write what the checkout `root` is, for a wheel or an sdist of it, to `path`."""
    path.write_text(json.dumps(asdict(build_of_checkout(root))) + "\n", encoding="utf-8")
