"""Writing capture directories: planned first, streamed while the engine runs, whole only at the end.

Until `finish`, the manifest says `"complete": false` and no stage file has its header: a process that dies in between
leaves nothing that could pass for a whole capture or a whole stage file.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.errors import EngineError, UnreadableError, UsageError
from aprtui.trace.aprt import HEADER_BYTES, header, output_error, write_atomically
from aprtui.trace.capture import INCOMPLETE, PROVENANCE, claimed_files
from aprtui.trace.checksum import combine
from aprtui.trace.graph.stage import Node, Stage
from aprtui.trace.graph.stage_graph import StageGraph, graph_for
from aprtui.trace.manifest import FILE_NAME, FileInfo, Manifest, read_manifest, relative_path, write_manifest
from aprtui.trace.stats import Accumulator, accumulate, causal

_CHUNK = 1 << 22
_HEADROOM = 16 << 20


def planned_files(graph: StageGraph, nodes: Iterable[Node], tokens: int, logits: int) -> dict[str, FileInfo]:
    """The files that a capture of `nodes` over `tokens` positions will hold, `logits` of them with logits.

    Of a recurrent layer's state they hold the last one.
    """
    chosen = frozenset(nodes)
    return {
        relative_path(node): FileInfo(
            node.layer,
            node.stage,
            stage.stated_shape(_rows(stage, tokens, logits)),
            tuple(map(str, stage.axes)),
        )
        for node, stage in ((node, graph[node.stage]) for node in graph.nodes if node in chosen)
    }


def _rows(stage: Stage, tokens: int, logits: int) -> int:
    if stage.holds_state:
        return 1
    return logits if stage.holds_logits else tokens


def planned_bytes(files: Iterable[FileInfo]) -> int:
    """Bytes that `files` take on disk, headers included."""
    return sum(HEADER_BYTES + 4 * int(np.prod(info.shape, dtype=np.int64)) for info in files)


def require_usable(path: Path, overwrite: bool) -> None:
    """Raise `UsageError` unless `path` can become a capture directory; changes nothing.

    It may hold files only with `overwrite`, and then no `manifest.json` but ours.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file: choose a directory for the capture")
    if not path.is_dir() or not any(path.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{path}: is not empty: choose another directory, or --overwrite replaces the capture in it")
    try:
        read_manifest(path)
    except UnreadableError as error:
        raise UsageError(f"{error}; remove it yourself if it may go, --overwrite does not") from error


def _prepare_directory(path: Path, needed: int) -> None:
    """Make `path` an empty capture directory with room for `needed` bytes.

    Removes the files that a manifest or the naming rule claims, `_PROVENANCE.txt`, and nothing else. Raises
    `EngineError` for a directory that cannot be written or has too little free space.
    """
    if path.is_dir():
        remove_capture(path)
    free = shutil.disk_usage(path).free
    if needed + _HEADROOM > free:
        raise EngineError(
            f"{path}: the capture needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free: "
            "select fewer stages or layers, or another directory"
        )


def _lock(path: Path) -> int:
    """A descriptor of directory `path` that is locked against other writers until it is closed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise UsageError(f"{path}: another capture is being written there: choose another directory") from error
    return descriptor


def take_directory(path: Path, needed: int, overwrite: bool) -> int:
    """Make `path` an empty capture directory with room for `needed` bytes; a descriptor that locks it until closed.

    It is locked before anybody looks into it, so that two writers never share one. Raises `UsageError` for a directory
    that cannot become a capture, `EngineError` for one that cannot be written.
    """
    require_usable(path, overwrite=True)
    descriptor = -1
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(path)
        require_usable(path, overwrite)
        _prepare_directory(path, needed)
    except BaseException as error:
        if descriptor >= 0:
            os.close(descriptor)
        if isinstance(error, OSError):
            raise output_error(path, error) from error
        raise
    return descriptor


def remove_capture(path: Path) -> None:
    """Remove the capture in `path`, which says that it is not whole before the first of its files goes."""
    claimed = {file for _, file in claimed_files(path)}
    manifest = read_manifest(path)
    if manifest:
        claimed |= {path / name for name in manifest.files}
        write_manifest(path, replace(manifest, complete=False))
    elif claimed:
        write_atomically(path / PROVENANCE, INCOMPLETE)
    for file in claimed:
        file.unlink(missing_ok=True)
    for folder in {file.parent for file in claimed} - {path}:
        if folder.is_dir() and not any(folder.iterdir()):  # a writer that was killed here may have removed it
            folder.rmdir()
    for name in (FILE_NAME, PROVENANCE):
        (path / name).unlink(missing_ok=True)


@dataclass(slots=True)
class _OpenFile:
    """A file that is being written. While `in_order`, `crc` covers the header and the first `appended` values."""

    info: FileInfo
    path: Path
    crc: int
    appended: int = 0
    in_order: bool = True
    rows: int = 0
    sums: Accumulator = field(default_factory=Accumulator)

    @classmethod
    def planned(cls, path: Path, info: FileInfo) -> _OpenFile:
        return cls(info, path, zlib.crc32(header(info.layer, int(np.prod(info.shape, dtype=np.int64)))))


class CaptureWriter:
    """Takes stage tensors from taps (it is a `TapSink`) and writes them to the files that the manifest plans.

    It works on the calling thread: the engine waits, and no tensor is lost. Raises `EngineError` for output
    that fails.
    """

    def __init__(self, path: Path, manifest: Manifest, *, overwrite: bool = False) -> None:
        self.path = path
        self.manifest = replace(manifest, complete=False)
        self._graph = graph_for(manifest.graph)
        self._files = {info.node: _OpenFile.planned(path / name, info) for name, info in manifest.files.items()}
        self._pool = ThreadPoolExecutor(2, "capture-crc")
        self._directory = -1
        self._started = time.perf_counter()
        try:
            self._directory = take_directory(path, planned_bytes(manifest.files.values()), overwrite)
            self._preallocate()
        except BaseException:
            self.close()
            raise

    def _preallocate(self) -> None:
        """The manifest first, then every file at its full size and without a header."""
        write_manifest(self.path, self.manifest)
        for directory in {file.path.parent for file in self._files.values()}:
            directory.mkdir(exist_ok=True)
        for file in self._files.values():
            try:
                with open(file.path, "wb") as handle:
                    handle.truncate(planned_bytes([file.info]))
            except OSError as error:
                raise output_error(file.path, error) from error

    def put(self, node: Node, position: int, values: NDArray[np.float32] | None, stats: Accumulator | None) -> None:
        """Write the `values` of `node` from `position` on; nodes that were not planned are ignored."""
        file = self._files.get(node)
        if file is None or values is None:
            return
        stage = self._graph[node.stage]
        if stats is None:
            stats = accumulate(causal(values, position) if stage.is_attention_map else values)
        if _is_last_row(stage, file.info):
            file.sums = Accumulator()
        file.sums.merge(stats)
        try:
            if stage.is_attention_map:
                self._write_maps(file, position, values)
            else:
                self._write_rows(file, position, values)
        except OSError as error:
            raise output_error(file.path, error) from error

    def _write_rows(self, file: _OpenFile, position: int, values: NDArray[np.float32]) -> None:
        row = 0 if _is_last_row(self._graph[file.info.stage], file.info) else position
        width = file.info.row_shape[1]
        self._write(file, row * width, np.ascontiguousarray(values, "<f4"))
        file.rows = max(file.rows, row + values.shape[0])

    def _write_maps(self, file: _OpenFile, position: int, values: NDArray[np.float32]) -> None:
        heads, tokens, _ = file.info.shape
        count, keys = values.shape[1:]
        if count == keys == tokens:
            self._write(file, 0, np.ascontiguousarray(values, "<f4"))
        else:
            file.in_order = False
            with open(file.path, "r+b", buffering=0) as handle:
                for head in range(heads):
                    block = np.zeros((count, tokens), "<f4")
                    block[:, :keys] = values[head]
                    write_at(handle.fileno(), block, HEADER_BYTES + 4 * tokens * (head * tokens + position))
        file.rows = position + count

    def _write(self, file: _OpenFile, start: int, values: NDArray[np.float32]) -> None:
        if start != file.appended:
            file.in_order = False
        file.appended = start + values.size
        view = values.reshape(-1).view(np.uint8).data
        half = len(view) // 2
        # Two threads share the checksum while this one writes: the engine waits for a shorter time.
        sums = [self._pool.submit(zlib.crc32, part) for part in (view[:half], view[half:]) if file.in_order]
        with open(file.path, "r+b", buffering=0) as handle:
            write_at(handle.fileno(), values, HEADER_BYTES + 4 * start)
        if sums:
            file.crc = combine(file.crc, sums[0].result(), half)
            file.crc = combine(file.crc, sums[1].result(), len(view) - half)

    def finish(self, manifest: Manifest, wall_seconds: float | None = None, rows: int | None = None) -> Manifest:
        """Give every file its header and the manifest its figures; returns the manifest as written.

        `manifest` is the planned one with what is known only after the run, such as generated tokens; fewer tokens than
        planned shorten the files. `rows` are the last positions that the files hold, where those are not all. Raises
        `EngineError` if a planned file did not get all its values.
        """
        held = len(manifest.tokens) if rows is None else rows
        done = {relative_path(node): self._finish_file(file, held) for node, file in self._files.items()}
        wall = time.perf_counter() - self._started if wall_seconds is None else wall_seconds
        final = replace(manifest, files=done, complete=True, wall_seconds=wall)
        write_manifest(self.path, final)
        self.close()
        return final

    def _finish_file(self, file: _OpenFile, tokens: int) -> FileInfo:
        stage = self._graph[file.info.stage]
        rows = 1 if _is_last_row(stage, file.info) else tokens
        shape = stage.stated_shape(rows)
        if file.rows < rows:
            raise EngineError(
                f"{file.path}: got {file.rows} of {rows} positions: the engine did not hand out {file.info.node}"
            )
        count = int(np.prod(shape, dtype=np.int64))
        head = header(file.info.layer, count)
        try:
            with open(file.path, "r+b", buffering=0) as handle:
                if stage.is_attention_map and shape != file.info.shape:
                    _compact_maps(handle.fileno(), shape, file.info.shape[1])
                handle.truncate(HEADER_BYTES + 4 * count)
                write_at(handle.fileno(), np.frombuffer(head, np.uint8), 0)
        except OSError as error:
            raise output_error(file.path, error) from error
        streamed = file.in_order and file.appended == count and shape == file.info.shape
        crc = file.crc if streamed else file_crc(file.path)
        return replace(file.info, shape=shape, bytes=HEADER_BYTES + 4 * count, crc32=crc, stats=file.sums.finish())

    def close(self) -> None:
        """Stop the writer's thread and free the directory; an unfinished capture stays marked as incomplete."""
        self._pool.shutdown()
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1


def _is_last_row(stage: Stage, info: FileInfo) -> bool:
    """Whether the file holds logits or the state of one position only: the latest, which replaces the one before."""
    return stage.of_last_position and info.shape[0] == 1


def write_at(descriptor: int, values: NDArray[Any], offset: int) -> None:
    """Write the bytes of a contiguous array at `offset` of an open file."""
    view = values.reshape(-1).view(np.uint8).data
    while view:
        written = os.pwrite(descriptor, view[: 1 << 30], offset)
        view, offset = view[written:], offset + written


def _compact_maps(descriptor: int, shape: tuple[int, ...], planned: int) -> None:
    """Move `[heads, T, T]` maps that lie in rows of `planned` keys together, in place and front to back."""
    heads, tokens, _ = shape
    for row in range(heads * tokens):
        head, query = divmod(row, tokens)
        source = HEADER_BYTES + 4 * planned * (head * planned + query)
        write_at(
            descriptor,
            np.frombuffer(os.pread(descriptor, 4 * tokens, source), np.uint8),
            HEADER_BYTES + 4 * row * tokens,
        )


def file_crc(path: Path) -> int:
    """CRC32 of a whole file."""
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc
