"""A process that is killed while it writes leaves the former state, or one that says that it is not whole.

Each writer runs in a child that kills itself at a random line of this package, or in the midst of a write.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest

from aprtui.contracts.evidence.files import read_evidence, write_evidence
from aprtui.errors import UnreadableError
from aprtui.importing.importer import import_capture
from aprtui.importing.reading import ImportRequest
from aprtui.progress import no_progress
from aprtui.recordings.reading import Recording, is_recording
from aprtui.recordings.writing import RecordingWriter
from aprtui.trace.capture import Capture
from aprtui.trace.export.archives import write_zip
from aprtui.trace.export.selection import select
from aprtui.trace.writer import CaptureWriter
from tests.contracts.evidence_samples import PASSED
from tests.faults.children import count_lines, in_child
from tests.fuzz.captures import write_small_capture
from tests.fuzz.dumps import WRITERS
from tests.recordings.made import attention_recording
from tests.trace.test_capture import feed, planned

_STAGES = ("embedding", "attn_norm", "lm_head")


@dataclass(frozen=True)
class Job:
    """A writer: `before` makes the former state, `write` the new one over it, `state` says what a reader finds.

    A state is `incomplete` where the reader says so or finds nothing, or a text that tells whole states apart.
    """

    before: Callable[[Path], None]
    write: Callable[[Path], None]
    state: Callable[[Path], str]


def _state_of_capture(folder: Path) -> str:
    """By the values of all that is promised; the shape tells the former capture from the new one."""
    try:
        capture = Capture.open(folder / "c", copied=True)
    except UnreadableError:
        return "incomplete"
    if capture.complete is False or (capture.manifest is None and not capture.provenance):
        assert not capture.complete
        return "incomplete"
    return f"{len(capture.files)}: " + " ".join(
        f"{node} {float(np.abs(capture.values(node)).sum()):.6g}" for node in sorted(capture.promised, key=str)
    )


def _write_capture(folder: Path) -> None:
    whole = planned()
    files = {name: info for name, info in whole.files.items() if info.stage in _STAGES}
    writer = CaptureWriter(folder / "c", replace(whole, files=files), overwrite=True)
    feed(writer, [2, 3])
    writer.finish(replace(whole, files=files))


def _import(folder: Path) -> None:
    dump = folder / "dump"
    if not dump.exists():
        dump.mkdir()
        WRITERS["sglang-passes"](dump)
    import_capture(dump, folder / "c", ImportRequest(), no_progress, overwrite=True)


def _state_of_evidence(folder: Path) -> str:
    found = sorted((folder / "evidence").glob("*.json"))
    assert all(read_evidence(path) == PASSED for path in found)
    return f"{len(found)} records"


def _record(folder: Path, seed: int = 0) -> None:
    """The sample recording with other bytes, written as recorders do."""
    source = folder / "source"
    if not source.exists():
        attention_recording(source)
    sample = Recording.open(source)
    writer = RecordingWriter(folder / "r", sample.header, overwrite=True)
    writer.blob(bytes(sample.data ^ np.uint8(seed)))
    for graph in sample.graphs:
        writer.add(graph)
    writer.finish()
    writer.close()


def _state_of_recording(folder: Path) -> str:
    if not is_recording(folder / "r"):
        return "incomplete"
    recording = Recording.open(folder / "r")
    return "incomplete" if not recording.header.complete else f"{int(recording.data.sum(dtype=np.int64))}"


def _export(folder: Path) -> None:
    capture = Capture.open(folder / "c")
    write_zip(select(capture, None, None, None), folder / "c.zip", overwrite=True)


def _state_of_export(folder: Path) -> str:
    if not (folder / "c.zip").exists():
        return "incomplete"
    capture = Capture.open(folder / "c.zip")
    return f"{len([capture.values(node) for node in capture.files])} stages"


def _small(folder: Path) -> None:
    write_small_capture(folder / "c")


JOBS: Mapping[str, Job] = {
    "capture": Job(_small, _write_capture, _state_of_capture),
    "import over a capture": Job(_small, _import, _state_of_capture),
    "import over an import": Job(_import, _import, _state_of_capture),
    "evidence": Job(lambda folder: None, lambda folder: void(write_evidence(folder / "evidence", PASSED)),
                    _state_of_evidence),
    "recording": Job(_record, lambda folder: _record(folder, 1), _state_of_recording),
    "export": Job(_small, _export, _state_of_export),
}  # fmt: skip


def void(_: object) -> None:
    """For writers that return what they have written."""


def require_safe(name: str, folder: Path, points: int) -> None:
    job, random = JOBS[name], Random(name)
    (whole := folder / "whole").mkdir()
    job.before(whole)
    former = job.state(whole)
    total = count_lines(partial(job.write, whole))
    new = job.state(whole)
    assert new != "incomplete"
    killed = 0
    for number in range(points):
        (own := folder / str(number)).mkdir()
        job.before(own)
        kill_at, half = (0, random.randrange(1, 8)) if number % 4 == 3 else (random.randrange(1, total + 1), 0)
        code = in_child(partial(count_lines, partial(job.write, own), kill_at, half))
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        assert job.state(own) in ({new} if code == 0 else {former, new, "incomplete"}), (kill_at, half)
        job.write(own)
        assert name == "evidence" or job.state(own) == new, "what is left can be written over"
    assert killed > points // 3


@pytest.mark.parametrize("name", JOBS)
def test_a_writer_that_is_killed_leaves_nothing_that_passes_for_whole(name: str, tmp_path: Path) -> None:
    require_safe(name, tmp_path, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_a_writer_that_is_killed_at_two_hundred_points(name: str, tmp_path: Path) -> None:
    require_safe(name, tmp_path, 200)
