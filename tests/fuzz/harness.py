"""What is fuzzed: a reader behind a function of bytes, and what a well-formed input of it looks like."""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aprtui.errors import AprtuiError

MOST_SECONDS = 20.0
"""Of processor time: far more than any reader takes for a small file."""


@dataclass(frozen=True, slots=True)
class Target:
    """A reader that is ready: `run` hands it some bytes, `samples` are well formed, `words` occur in such inputs."""

    run: Callable[[bytes], object]
    samples: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Harness:
    """`prepare` makes the target in a folder of its own. `name` is also that of its folder of former crashes."""

    name: str
    prepare: Callable[[Path], Target]


class HangError(Exception):
    """A reader that did not come back."""


@contextlib.contextmanager
def strict() -> Iterator[None]:
    """Makes warnings errors, and a run that takes too much processor time a `HangError`. Main thread only."""

    def interrupt(*_: object) -> None:
        raise HangError(f"took more than {MOST_SECONDS:g} s of processor time")

    before = signal.signal(signal.SIGPROF, interrupt)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ResourceWarning)  # temporary files of archives that are forgotten
            yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def execute(target: Target, data: bytes) -> bool:
    """Run the target on `data` within `strict`; whether it was accepted. Anything but our own errors is raised."""
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        target.run(data)
    except AprtuiError as error:
        assert str(error).isprintable(), repr(error)
        return False
    return True


def replace_file(path: Path, data: bytes) -> Path:
    """Write `data` to a new file of that name: one that is still mapped keeps its own bytes."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # not by pathlib, which takes three times as long, millions of times
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
    return path


def files_of(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.rglob("*") if path.is_file()))


def in_folder(folder: Path, read: Callable[[Path], object], words: tuple[bytes, ...] = ()) -> Target:
    """A reader of a folder: the first byte of an input says which of its files has the rest as its contents."""
    files = files_of(folder)
    contents = tuple(file.read_bytes() for file in files)

    def run(data: bytes) -> None:
        number = data[0] % len(files) if data else 0
        replace_file(files[number], data[1:])
        try:
            read(folder)
        finally:
            replace_file(files[number], contents[number])

    return Target(run, tuple(bytes([number]) + content for number, content in enumerate(contents)), words)


def memory_folder() -> str | None:
    """A folder in memory, where there is one: inputs are files, and no disk need see millions of them."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a folder of its own is made in it
