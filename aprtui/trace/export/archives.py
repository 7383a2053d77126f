"""Captures as one file, which is read where it lies (`aprtui.trace.archive`)."""

from __future__ import annotations

import importlib
import io
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from aprtui.errors import EngineError
from aprtui.trace.aprt import HEADER_BYTES
from aprtui.trace.archive import read_whole
from aprtui.trace.capture import PROVENANCE
from aprtui.trace.export.output import new_file
from aprtui.trace.export.selection import ExportSelection
from aprtui.trace.manifest import FILE_NAME, manifest_text, relative_path
from aprtui.trace.positional import PositionalFile

_CHUNK = 1 << 22
_LOCAL_HEADER = 30
_ALIGNMENT = 8
_PADDING = 0xD935
"""The kind of an extra field that holds nothing: with it, the values of a stage begin where float32 may."""
_MOST_BYTES = 1 << 26


def write_zip(selection: ExportSelection, path: Path, overwrite: bool) -> int:
    """Write a `.zip` of stored files; how many stages. Raises `UnreadableError` for a file that is damaged."""
    with new_file(path, overwrite) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as opened:
        for name, size, source in _files(selection):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr, info.file_size = 0o644 << 16, size
            begin = file.tell() + _LOCAL_HEADER + len(name.encode()) + 4
            padding = -(begin + HEADER_BYTES) % _ALIGNMENT
            info.extra = struct.pack("<HH", _PADDING, padding) + bytes(padding)
            with opened.open(info, "w") as target:
                shutil.copyfileobj(source, target, _CHUNK)
    return len(selection.nodes)


def write_tar_zst(selection: ExportSelection, path: Path, overwrite: bool) -> int:
    """Write a `.tar.zst`; how many stages. Raises `EngineError` where nothing writes zstd."""
    module = _zstd_module(path)
    with (
        new_file(path, overwrite) as file,
        _zstd_writer(module, file) as packed,
        tarfile.open(fileobj=packed, mode="w|") as opened,
    ):
        for name, size, source in _files(selection):
            info = tarfile.TarInfo(name)
            info.size, info.mode = size, 0o644
            opened.addfile(info, source)
    return len(selection.nodes)


def _zstd_module(path: Path) -> Any:
    for name in ("compression.zstd", "zstandard"):
        with suppress(ImportError):
            return importlib.import_module(name)
    raise EngineError(f"{path}: zstandard is not installed: pip install 'aprtui[zstd]'")


def _zstd_writer(module: Any, file: BinaryIO) -> Any:
    if hasattr(module, "ZstdFile"):
        return module.ZstdFile(file, "w")
    return module.ZstdCompressor().stream_writer(file, closefd=False)


def _files(selection: ExportSelection) -> Iterator[tuple[str, int, BinaryIO]]:
    """Name, size and bytes of the files of the archive, what describes them first. Each is open until the next one is
    asked for."""
    capture = selection.capture
    for name, text in _descriptions(selection):
        yield name, len(text), io.BytesIO(text)
    for node in selection.nodes:
        capture.read(node)  # what is damaged is not passed on
        file = PositionalFile(capture.files[node].path)
        try:
            own = node if capture.manifest is not None else capture.files[node].node
            yield relative_path(own), file.size, cast("BinaryIO", _InOrder(file))
        finally:
            file.close()


@dataclass(slots=True)
class _InOrder:
    """A file that is read from its beginning on."""

    file: PositionalFile
    at: int = 0

    def read(self, count: int) -> bytes:
        found = self.file.read(self.at, count)
        self.at += len(found)
        return found


def _descriptions(selection: ExportSelection) -> Iterator[tuple[str, bytes]]:
    capture = selection.capture
    if capture.manifest is not None:
        names = {relative_path(node) for node in selection.nodes}
        files = {name: info for name, info in capture.manifest.files.items() if name in names}
        yield FILE_NAME, manifest_text(replace(capture.manifest, files=files)).encode()
    elif capture.provenance:
        yield PROVENANCE, read_whole(capture.folder / PROVENANCE, _MOST_BYTES)
