"""Files that another program shortens, replaces or writes while they are read."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from aprtui.contracts.evidence.files import read_evidence, write_evidence
from aprtui.errors import ExitCode, UsageError
from aprtui.model.model import load_model
from aprtui.recordings.format import DATA_NAME
from aprtui.trace.aprt import SMALL_VALUES, write_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.writer import CaptureWriter
from tests.contracts.evidence_samples import PASSED
from tests.model.gguf_files import write_model
from tests.recordings.made import attention_recording
from tests.trace.test_capture import feed, planned

STAGE = """
import os, sys
from pathlib import Path
from aprtui.trace.aprt import read_aprt
path = Path(sys.argv[1])
values = read_aprt(path).values
os.truncate(path, 4096)
print(values.sum())
"""
MODEL = """
import os, sys
from pathlib import Path
from aprtui.model.model import load_model
path = Path(sys.argv[1])
model = load_model(path)
os.truncate(path, os.path.getsize(path) // 2)
for weight in model.weights.values():
    weight.dequantize()
"""
KERNELS = """
import os, sys
from contextlib import closing
from pathlib import Path
from aprtui.engine.opening import open_engine
from aprtui.model.model import load_model
path = Path(sys.argv[1])
model = load_model(path)
with closing(open_engine(model, backend="cpu", context=8)) as engine:
    engine.forward([1])
    os.truncate(path, os.path.getsize(path) // 2)
    engine.forward([2])
"""
RECORDING = """
import os, sys
from pathlib import Path
from aprtui.recordings.reading import Recording
path = Path(sys.argv[1])
data = Recording.open(path.parent).data
os.truncate(path, 0)
print(data.sum())
"""


def ended(script: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)


def require_explained(done: subprocess.CompletedProcess[str], path: Path) -> None:
    assert done.returncode == ExitCode.UNREADABLE, done
    assert done.stderr.startswith(f"aprtui: {path}: byte ") and done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""


def test_a_stage_file_that_is_shortened_while_mapped_ends_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_aprt(path, 0, np.ones(SMALL_VALUES + 1, np.float32))
    require_explained(ended(STAGE, path), path)


def test_a_recording_that_is_shortened_while_mapped_ends_in_one_line(tmp_path: Path) -> None:
    path = attention_recording(tmp_path / "r") / DATA_NAME
    require_explained(ended(RECORDING, path), path)


@pytest.mark.parametrize("script", [MODEL, pytest.param(KERNELS, marks=pytest.mark.slow)], ids=["values", "kernels"])
def test_a_model_that_is_shortened_while_mapped_ends_in_one_line(tmp_path: Path, script: str) -> None:
    path = write_model(tmp_path / "m.gguf")
    require_explained(ended(script, path), path)


def test_a_model_that_is_replaced_while_open_is_read_as_it_was(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf")
    model = load_model(path)
    name, weight = next(iter(model.weights.items()))
    before = weight.dequantize()
    write_model(tmp_path / "other.gguf", seed=1).replace(path)
    assert np.array_equal(weight.dequantize(), before)
    assert not np.array_equal(load_model(path).weights[name].dequantize(), before)


def test_two_writers_never_share_a_folder(tmp_path: Path) -> None:
    first = CaptureWriter(tmp_path / "c", planned())
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="another capture is being written there"):
            CaptureWriter(tmp_path / "c", planned(), overwrite=overwrite)
    feed(first, [5])
    first.finish(planned())
    assert Capture.open(tmp_path / "c").complete
    CaptureWriter(tmp_path / "c", planned(), overwrite=True).close()


def test_a_clock_that_goes_backwards_changes_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wall clocks are set back by people and by daemons: what is measured uses the monotonic one."""
    now = iter(range(2_000_000_000, 0, -86_400))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    monkeypatch.setattr(time, "time_ns", lambda: next(now) * 10**9)
    writer = CaptureWriter(tmp_path / "c", planned())
    feed(writer, [3, 2])
    assert (writer.finish(planned()).wall_seconds or 0) >= 0
    assert Capture.open(tmp_path / "c").complete
    first, second = (write_evidence(tmp_path / "evidence", PASSED) for _ in range(2))
    assert first != second and read_evidence(first) == read_evidence(second) == PASSED
