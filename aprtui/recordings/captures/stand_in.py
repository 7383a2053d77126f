"""A capture at a path, which may be that of a recording: of that, a capture that lasts as long as the program."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from aprtui.progress import Progress, no_progress
from aprtui.recordings.format import DATA_NAME, FILE_NAME
from aprtui.recordings.reading import Recording, is_recording
from aprtui.trace.capture import Capture


def open_capture(path: Path, copied: bool = False, progress: Progress = no_progress) -> Capture:
    """`Capture.open`, which also takes a recording: of that, the stages that its nodes are.

    Those are written to a folder that lasts as long as the program; the path of the capture is that of the recording.
    Raises what either raises.
    """
    if not is_recording(path):
        return Capture.open(path, copied)
    stored = stand_in(path, progress)
    return replace(Capture.open(stored, copied), path=path, stored=stored)


_stand_ins: dict[Path, tuple[tuple[int, ...], Path]] = {}


def stand_in(path: Path, progress: Progress = no_progress, announce: Callable[[str], None] = lambda _: None) -> Path:
    """A capture of the stages of the recording at `path`, which lasts as long as the program.

    `announce` gets what a person should know.
    """
    statuses = [(path / name).stat() for name in (FILE_NAME, DATA_NAME) if (path / name).exists()]
    changed = tuple(number for status in statuses for number in (status.st_size, status.st_mtime_ns))
    known = _stand_ins.get(path.absolute())
    if known is not None and known[0] == changed:
        return known[1]
    from aprtui.recordings.captures.as_capture import write_as_capture  # a tenth of a second that captures do not need

    folder = Path(tempfile.mkdtemp(prefix="aprtui-recording-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = folder / (path.name or "recording")
    recording = Recording.open(path)
    written = write_as_capture(recording, None, target, progress)
    ops = sum(len(graph.nodes) for graph in recording.graphs)
    announce(f"{path}: {len(written.nodes)} stage tensors of {ops} recorded ops")
    for note in written.notes:
        announce(f"{path}: {note}")
    _stand_ins[path.absolute()] = changed, target
    return target
