"""The folder of a sweep: what is done, and the captures that are needed or kept. One file a task, whole or not there.

    captures/KEY/          a capture, while verdicts need it or because it is kept
    verdicts/KEY.jsonl.gz  a verdict: its outcome on the first line, then the records of the comparison
    rollups/KEY.json       what many verdicts come to
    results.jsonl …        the tables, written at the end of every run

All workers of a sweep see this folder; on several machines it lies on a file system that they share.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprtui.errors import EngineError, UnreadableError, UsageError
from aprtui.trace.aprt import output_error, write_atomically
from aprtui.trace.json_value import json_value

_TEMPORARY = ".being-made-"
_LOCK = ".lock"
_TOKEN = ".seen-by-"

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """A folder of results at `root`."""

    root: Path

    def capture(self, key: str) -> Path:
        return self.root / "captures" / key

    def verdict(self, key: str) -> Path:
        return self.root / "verdicts" / f"{key}.jsonl.gz"

    def rollup(self, key: str) -> Path:
        return self.root / "rollups" / f"{key}.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep others from sweeping in it; removes what a run that died has left half made.

        Raises `UsageError` where another run is at work, `EngineError` for a folder that cannot be written.
        """
        try:
            for part in ("captures", "verdicts", "rollups"):
                (self.root / part).mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise output_error(self.root, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise UsageError(f"{self.root}: another sweep is at work there: wait for it, or choose --out") from error
        try:
            for left in (self.root / "captures").glob(f"{_TEMPORARY}*"):
                shutil.rmtree(left, ignore_errors=True)
            for left in self.root.glob(f"{_TOKEN}*"):
                left.unlink(missing_ok=True)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def making(self, key: str) -> Iterator[Path]:
        """A place for the capture `key` that is being made; it appears in the folder when the block ends well.

        Two workers may make the same one (a scheduler that lost touch with the first asks a second): one is kept.
        """
        temporary = self.root / "captures" / f"{_TEMPORARY}{key}-{uuid.uuid4().hex}"
        try:
            yield temporary
            try:
                temporary.rename(self.capture(key))
            except OSError as error:
                if not self.capture(key).is_dir():
                    raise EngineError(f"{self.capture(key)}: cannot be written: {error.strerror}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def remove_capture(self, key: str) -> None:
        """Remove a capture; it is out of the way at once, also where removing its files takes time or fails."""
        away = self.root / "captures" / f"{_TEMPORARY}{key}-{uuid.uuid4().hex}"
        try:
            self.capture(key).rename(away)
        except FileNotFoundError:
            return
        shutil.rmtree(away, ignore_errors=True)

    def write_verdict(self, key: str, outcome: Record, records: Iterable[Record]) -> None:
        lines = "".join(json.dumps(json_value(record), allow_nan=False) + "\n" for record in (outcome, *records))
        write_atomically(self.verdict(key), gzip.compress(lines.encode(), 6, mtime=0))

    def read_outcome(self, key: str) -> Record | None:
        """The first record of a verdict; None where there is none. Raises `UnreadableError` for a damaged one."""
        return next(iter(self.read_verdict(key)), None) if self.verdict(key).exists() else None

    def read_verdict(self, key: str) -> Iterator[Record]:
        """All records of a verdict, the outcome first."""
        path = self.verdict(key)
        try:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                for line in file:
                    yield json.loads(line)
        except (OSError, EOFError, ValueError) as error:
            raise UnreadableError(f"{path}: damaged: remove it, and the sweep makes it again") from error

    def leave_token(self) -> str:
        """The name of a new file in the folder, by which a worker shows that it sees the same one."""
        token = f"{_TOKEN}{uuid.uuid4().hex}"
        write_atomically(self.root / token, b"")
        return token
