"""What happens when a mapped file is shortened by another program: one line and an exit code, not death by SIGBUS.

The kernel sends SIGBUS to whoever touches a page behind the new end. There is no way back to the code that read there,
which is in the midst of a loop in C or in a compiled kernel, so the process ends, but it says why. A Python handler of
the module `signal` would never run: it waits for that loop. This one is called by the C library itself, through ctypes.
Programs that must not end so read by position instead (`aprtui.trace.positional`), as the app does.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

from aprtui.errors import ExitCode, printable

_ends: dict[str, int] = {}
"""Where the mapped part of each file ends."""
_installed: list[object] = []


def remember_mapped(path: Path, end: int) -> None:
    """Say that the bytes of `path` up to `end` are mapped, so that a SIGBUS can be explained."""
    name = os.fspath(path)
    _ends[name] = max(end, _ends.get(name, 0))
    if not _installed and signal.getsignal(signal.SIGBUS) is signal.SIG_DFL:
        handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_end_process)
        _installed.append(handler)  # it must outlive every mapping
        library = ctypes.CDLL(None)
        library.signal.argtypes, library.signal.restype = [ctypes.c_int, type(handler)], ctypes.c_void_p
        library.signal(int(signal.SIGBUS), handler)


def _end_process(_: int) -> None:
    """Called in the midst of anything: it writes a line and ends the process, and nothing else is safe to do."""
    words = next(filter(None, map(_shortened, _ends)), "a file that is mapped cannot be read any more (SIGBUS)")
    os.write(2, f"aprtui: {printable(words)}: run again when it is whole\n".encode(errors="backslashreplace"))
    os._exit(ExitCode.UNREADABLE)


def _shortened(name: str) -> str:
    """What has happened to a mapped file; empty where it is as long as it was, or another one has its name."""
    try:
        size = os.stat(name).st_size
    except OSError:
        return ""
    return f"{name}: byte {size}: ends here since it was opened, it had {_ends[name]}" if size < _ends[name] else ""
