"""Writing recordings: blobs at once, so that no tensor is kept, and `graph.json` at the end of each graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from aprtui.errors import UsageError
from aprtui.recordings.format import DATA_NAME, FILE_NAME, FORMAT, VERSION, OpGraph, RecordingHeader
from aprtui.recordings.reading import Recording
from aprtui.trace.aprt import output_error, write_atomically
from aprtui.trace.json_value import json_value


def require_free(directory: Path, overwrite: bool) -> None:
    """Raise `UsageError` where `directory` has something in it that must not be replaced."""
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory}: is no directory: choose another one")
    found = sorted(entry.name for entry in directory.iterdir()) if directory.exists() else []
    foreign = [name for name in found if name not in (FILE_NAME, DATA_NAME)]
    if foreign:
        raise UsageError(f"{directory}: has {foreign[0]!r} in it, which is of no recording: choose an empty directory")
    if found and not overwrite:
        raise UsageError(f"{directory}: has a recording in it: choose another directory, or give --overwrite")


class RecordingWriter:
    """Writes a recording to `directory`; the caller closes it. Raises `EngineError` where it cannot be written."""

    def __init__(self, directory: Path, header: RecordingHeader, *, overwrite: bool = False) -> None:
        require_free(directory, overwrite)
        self.directory, self.header, self._graphs = directory, replace(header, complete=False), list[OpGraph]()
        self.bytes = 0
        self._path = directory / DATA_NAME
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # What described the former data goes first; who has those mapped keeps them.
            for path in (directory / FILE_NAME, self._path):
                path.unlink(missing_ok=True)
            self._file = self._path.open("wb")
        except OSError as error:
            raise output_error(self._path, error) from error

    def blob(self, data: bytes | memoryview) -> tuple[int, int]:
        """Write bytes to the data file; where they lie."""
        place = self.bytes, len(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise output_error(self._path, error) from error
        self.bytes += len(data)
        return place

    def add(self, graph: OpGraph) -> None:
        """Take a graph whose blobs are written."""
        self._graphs.append(graph)

    def finish(self) -> RecordingHeader:
        """Write `graph.json` of a run that is complete; what it says."""
        self.header = replace(self.header, complete=True)
        self._write()
        return self.header

    def close(self) -> None:
        """Close the data file. Of a run that broke off, the graphs that are whole stay readable; without any, nothing
        is left."""
        if not self.header.complete and self._graphs:
            self._write()
        self._file.close()
        if not self._graphs:
            self._path.unlink(missing_ok=True)
            with suppress(OSError):
                self.directory.rmdir()

    def _write(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            raise output_error(self._path, error) from error
        document = {"format": FORMAT, "version": VERSION, **asdict(self.header)}
        document["graphs"] = [_graph(graph) for graph in self._graphs]
        text = json.dumps(json_value(document), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        write_atomically(self.directory / FILE_NAME, text.encode())


def _graph(graph: OpGraph) -> Mapping[str, Any]:
    """The graph as JSON has it, without fields that have their default."""
    document = asdict(graph)
    for part, kept in (("roots", ("kind", "bytes")), ("nodes", ("op", "sources", "outputs", "blobs"))):
        document[part] = [
            {key: value for key, value in entry.items() if key in kept or value not in (None, "", {}, False)}
            for entry in document[part]
        ]
    return document


def state_stages(recording: Recording, stages: Mapping[str, str]) -> None:
    """Write into the recording which stages its nodes are, by patterns of their names. Raises `EngineError`."""
    file = recording.path / FILE_NAME
    document = {**json.loads(file.read_text(encoding="utf-8")), "stages": dict(stages)}
    text = json.dumps(document, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    write_atomically(file, text.encode())
