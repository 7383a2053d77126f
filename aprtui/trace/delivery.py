"""Captures written here and delivered to an address, so that a part of one never looks whole.

What says that the capture is complete comes last: until then the address has a manifest, or a provenance, that says it
is not.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from aprtui.progress import Progress, no_progress
from aprtui.trace.address import Address, listed
from aprtui.trace.capture import COMPLETE, PROVENANCE, claimed_files
from aprtui.trace.manifest import FILE_NAME, manifest_text, read_manifest
from aprtui.trace.writer import require_usable


@contextmanager
def delivered(target: Path, overwrite: bool, progress: Progress = no_progress) -> Iterator[Path]:
    """Where to write a capture that belongs to `target`: there, or in a folder here from which it is copied at the end.

    Raises `UsageError` where the target may not be replaced, `EngineError` where it cannot be written.
    """
    if not isinstance(target, Address):
        yield target
        return
    require_usable(target, overwrite)
    with tempfile.TemporaryDirectory(prefix="aprtui-") as folder:
        local = Path(folder) / (target.name or "capture")
        yield local
        _deliver(local, target, progress)


def _deliver(local: Path, target: Address, progress: Progress) -> None:
    with listed(target):
        former = {str(file) for _, file in claimed_files(target)}
    last = [name for name in (FILE_NAME, PROVENANCE) if (local / name).is_file()]
    for name in last:
        (target / name).write_whole(_unfinished(local, name))
    names = sorted(file.relative_to(local).as_posix() for file in local.rglob("*") if file.is_file())
    files = [name for name in names if name not in last]
    for done, name in enumerate(files):
        progress("writing to " + str(target), done, len(files))
        (target / name).put(local / name)
    for old in former - {str(target / name) for name in files}:
        Address(old).unlink(missing_ok=True)
    for name in reversed(last):
        (target / name).put(local / name)


def _unfinished(local: Path, name: str) -> bytes:
    """The file that says what the capture is, saying that it is not complete."""
    if name == FILE_NAME:
        manifest = read_manifest(local)
        assert manifest is not None, "it is there"
        return manifest_text(replace(manifest, complete=False)).encode()
    text = (local / name).read_text(encoding="utf-8")
    return (re.sub(rf"(?m)^{COMPLETE}:.*\n", "", text) + f"{COMPLETE}: false\n").encode()
