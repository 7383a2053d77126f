"""A disk that is full and a folder that cannot be written: one line, exit code 4, and nothing that passes for whole."""

from __future__ import annotations

import ctypes
import errno
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.errors import ExitCode
from aprtui.trace.capture import Capture
from tests.faults.children import said

TOKENS = "--tokens 1,2,3 --backend numpy"
WRITES = {
    "trace": f"trace m.gguf {TOKENS} --save-tensor-dir OUT",
    "import": "import dump --out OUT",
    "mapping": "import states.npz --guess --write-map OUT",
    "npy": "export good --out OUT --format npy",
    "safetensors": "export good --out OUT --format safetensors",
    "csv": "export good --out OUT --format csv",
    "zip": "export good --out OUT --format zip",
    "record": f"run m.gguf {TOKENS} -n 3 --record OUT",
    "html": "diff good bad --html OUT",
    "svg": "diff good bad --svg OUT",
    "replay": "replay good --model m.gguf --backend numpy --html OUT",
    "render": "render s.jsonl --svg OUT",
}  # fmt: skip
"""A command for each kind of file that is written. A recorded session grows by lines, and is one as far as it goes."""
IN_THE_GATE = ("trace", "zip", "svg")
MOST_BYTES = 64
"""A file may be so long: less than any of them is."""
_VERSION, _DAC_OVERRIDE, _DAC_READ_SEARCH = 0x20080522, 1, 2


def small_disk(run: Callable[[], None]) -> None:
    """What a write meets on a full disk, without one: the file cannot grow."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, MOST_BYTES))
    run()


def without_privileges(run: Callable[[], None]) -> None:
    """Root may write anywhere: take that away."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0, errno.errorcode[ctypes.get_errno()]
    for index in range(3):
        sets[index] &= ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    assert libc.capset(header, sets) == 0, errno.errorcode[ctypes.get_errno()]
    run()


def require_refused(words: str, house: Path, out: Path, around: Callable[[Callable[[], None]], None]) -> None:
    done = said(words.replace("OUT", str(out)), house, around)
    assert done.code == ExitCode.ENGINE, done
    assert done.last.startswith("aprtui: ") and str(out.parent) in done.last, done.text
    assert "Traceback" not in done.text and "internal error" not in done.text, done.text
    assert not out.is_file() or "--record" in words, "a file that is cut off has the name of a whole one"
    if out.is_dir() and any(out.rglob("*.bin")):
        assert Capture.open(out).complete is False


_NAMES = [pytest.param(name, marks=() if name in IN_THE_GATE else pytest.mark.slow) for name in WRITES]


@pytest.mark.parametrize("name", _NAMES)
def test_a_full_disk_is_one_line(name: str, house: Path, tmp_path: Path) -> None:
    require_refused(WRITES[name], house, tmp_path / "out", small_disk)


@pytest.mark.parametrize("name", _NAMES)
def test_a_folder_that_cannot_be_written_is_one_line(name: str, house: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    require_refused(WRITES[name], house, tmp_path / "closed" / "out", without_privileges)
    assert not any((tmp_path / "closed").iterdir())
