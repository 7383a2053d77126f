"""Captures in one file (`.zip`, `.tar`, `.tar.zst`), read where they lie.

A path that goes through an archive names what is in it: `capture.zip/layer-0/attn_norm.bin`. What is stored is read
from the archive itself, by position; what is deflated is inflated once, when it is first read, and a `.tar.zst` once as
a whole, into a temporary file without a name. Nothing is unpacked into folders, so no name in an archive leads
anywhere; names that would are refused all the same, and so are sizes that cannot be.
"""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from aprtui.errors import AprtuiError, EngineError, UnreadableError
from aprtui.trace.address import ARCHIVE_SUFFIXES, Address, fetched, read_range

MOST_MEMBERS = 1 << 20
"""More files than the largest model has stage tensors."""
MOST_BYTES = 1 << 35
"""A stage file is at most half as large."""
EXPANSION = 200
"""How many times larger a member may get beyond `FREELY` bytes; stage tensors do not."""
FREELY = 1 << 28
_BEST_DEFLATE = 1032
"""Deflate cannot expand further."""
_CHUNK = 1 << 20
_HEADROOM = 64 << 20
_LOCAL_HEADER = 30
NO_ARCHIVE = (
    zipfile.BadZipFile, tarfile.TarError, EOFError, struct.error, ValueError, RuntimeError, OverflowError, zlib.error
)  # fmt: skip
"""What Python's readers raise for damaged archives, for encrypted ones, and for versions that they do not know."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """An open file, or the part of an open archive that is one; whoever opened it closes the descriptor.

    `container` is the file on disk.
    """

    descriptor: int
    offset: int
    size: int
    container: Path


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in an archive: where its bytes begin, how many it has, and how many there are of it when deflated.

    `header` says that a local header stands before them, as in a zip.
    """

    offset: int
    size: int
    packed: int | None = None
    crc: int | None = None
    header: bool = False


def is_archive(path: Path) -> bool:
    """Whether `path` is a file whose name says that it is a capture in one file."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES) and path.is_file()


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder, an archive, or a folder in one. Raises `UnreadableError` for a broken archive."""
    if path.is_dir() or is_archive(path):
        return True
    found = _located(path)
    return found is not None and found[1] in found[0].folders


def is_single_file(path: Path) -> bool:
    """Whether there is a file at `path` that is no archive: on disk, or in an archive that can be read."""
    if path.is_file():
        return not is_archive(path)
    try:
        found = _located(path)
    except AprtuiError:
        return False
    return found is not None and found[1] in found[0].members


def members(folder: Path) -> list[Path] | None:
    """What is in a folder of an archive, or in the archive itself, sorted; None where `folder` is neither."""
    found = (open_archive(folder), "") if is_archive(folder) else _located(folder)
    if found is None or found[1] not in found[0].folders:
        return None
    archive, name = found
    return sorted(folder / child for child in archive.folders[name])


def read_whole(path: Path, most: int) -> bytes:
    """All bytes of a file, which may lie in an archive.

    Raises `FileNotFoundError` where there is none, `UnreadableError` for one of more than `most` bytes.
    """
    part = open_part(path)
    try:
        if part.size > most:
            raise UnreadableError(f"{path}: {part.size} bytes, at most {most} are read: not a file of this format")
        return os.pread(part.descriptor, part.size, part.offset)
    finally:
        os.close(part.descriptor)


def open_part(path: Path, first: int | None = None) -> FilePart:
    """Open a file, which may lie in an archive; with `first`, only so many bytes of it are asked for.

    Raises `OSError` where it cannot be opened, `UnreadableError` for a broken archive.
    """
    if isinstance(path, Address):
        return _of_address(path, first)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except NotADirectoryError:
        found = _located(path)
        if found is None:
            raise
        return found[0].open(found[1], first)
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        os.close(descriptor)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return FilePart(descriptor, 0, status.st_size, path)


def _of_address(path: Address, first: int | None) -> FilePart:
    """A file on another machine, or its first bytes, fetched; it may lie in an archive there."""
    found = _located(path)
    if found is not None:
        return found[0].open(found[1], first)
    info = path.info()
    if info["type"] == "directory":
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    size = int(info["size"])
    return FilePart(*fetched(path, 0, size if first is None else min(first, size)), size, path)


def _opened_binary(path: Path) -> BinaryIO:
    return path.opened() if isinstance(path, Address) else open(path, "rb")


def _located(path: Path) -> tuple[Archive, str] | None:
    """The archive that `path` goes through, and the name in it."""
    for parent in path.parents:
        if isinstance(parent, Address) and not parent.name.lower().endswith(ARCHIVE_SUFFIXES):
            continue  # each question is one to another machine
        if is_archive(parent):
            return open_archive(parent), path.relative_to(parent).as_posix()
        if parent.exists():
            return None
    return None


def open_archive(path: Path) -> Archive:
    """The archive at `path`, whose list is read again only when it has changed. Raises `UnreadableError`."""
    try:
        status = path.stat()
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _opened(path.absolute(), path, status.st_mtime_ns, status.st_size, status.st_ino)


@lru_cache(8)
def _opened(absolute: Path, path: Path, modified: int, size: int, number: int) -> Archive:
    return Archive(path)


class Archive:
    """The files of an archive by name, and the folders that they lie in, the root being an empty name.

    Raises `UnreadableError` for what is no archive, and for names, sizes and kinds of files that a capture has not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._spool: Any = None
        self._spooled: dict[str, int] = {}
        try:
            found = list(self._zipped() if path.name.lower().endswith(".zip") else self._tarred())
        except NO_ARCHIVE as error:
            raise UnreadableError(f"{path}: cannot be read as {path.suffix}: {error}: make it again") from error
        except OSError as error:
            raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
        self.members: Mapping[str, _Member] = self._checked(found)
        self.folders: dict[str, set[str]] = {"": set()}
        for name in self.members:
            while name:
                folder, _, child = name.rpartition("/")
                self.folders.setdefault(folder, set()).add(child)
                name = folder

    def open(self, name: str, first: int | None = None) -> FilePart:
        """A descriptor of where the bytes of `name` are; with `first`, of its first bytes alone where it is deflated.

        Raises `FileNotFoundError` for a name that there is not.
        """
        member = self.members.get(name)
        if member is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path / name))
        if member.packed is not None:
            return self._inflated(name, member, first)
        if self._spool is not None and not member.header:
            return FilePart(os.dup(self._spool.fileno()), member.offset, member.size, self.path)
        if isinstance(self.path, Address):
            wanted = member.size if first is None else min(first, member.size)
            at = self._data(name, member, read_range(self.path, member.offset, _LOCAL_HEADER))
            return FilePart(*fetched(self.path, at, wanted), member.size, self.path)
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            head = os.pread(descriptor, _LOCAL_HEADER, member.offset)
            return FilePart(descriptor, self._data(name, member, head), member.size, self.path)
        except BaseException:
            os.close(descriptor)
            raise

    def _zipped(self) -> Iterator[tuple[str, _Member]]:
        size = self.path.stat().st_size
        end = 0
        with _opened_binary(self.path) as file, zipfile.ZipFile(file) as opened:
            infos = opened.infolist()
        for info in sorted(infos, key=lambda info: info.header_offset):
            kind = info.external_attr >> 16
            if info.orig_filename.endswith("/"):  # `is_dir` fails at names that begin with a zero byte
                continue
            if info.flag_bits & 1:
                raise self._refused(info.filename, "is encrypted: make the archive without a password")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise self._refused(info.filename, "is neither stored nor deflated: make the archive with one of these")
            if stat.S_IFMT(kind) not in (0, stat.S_IFREG):
                raise self._refused(info.filename, "is no file: a capture has files alone")
            deflated = info.compress_type == zipfile.ZIP_DEFLATED
            first = info.header_offset + _LOCAL_HEADER
            if info.header_offset < end or first + info.compress_size > size:
                raise self._refused(info.filename, f"lies over other files, or beyond the {size} bytes of the archive")
            if not deflated and info.compress_size != info.file_size:
                raise self._refused(info.filename, f"is stored in {info.compress_size} bytes, but has {info.file_size}")
            if deflated and info.file_size > _BEST_DEFLATE * info.compress_size + 64:
                raise self._refused(info.filename, f"{info.compress_size} bytes cannot inflate to {info.file_size}")
            end = first + info.compress_size
            packed = info.compress_size if deflated else None
            yield info.orig_filename, _Member(info.header_offset, info.file_size, packed, info.CRC, header=True)

    def _tarred(self) -> Iterator[tuple[str, _Member]]:
        plain = self.path.name.lower().endswith(".tar")
        if not plain:
            self._spool = tempfile.TemporaryFile(prefix="aprtui-")  # noqa: SIM115 - it lives as long as the archive
            self._decompress()
        with _opened_binary(self.path) if plain else os.fdopen(os.dup(self._spool.fileno()), "rb") as file:
            size = self.path.stat().st_size if plain else os.fstat(file.fileno()).st_size
            with tarfile.open(fileobj=file, mode="r:") as opened:
                for info in opened:
                    if info.isdir():
                        continue
                    if not info.isreg() or info.issparse():
                        raise self._refused(info.name, "is no plain file: a capture has files alone")
                    if info.offset_data + info.size > size:
                        raise self._refused(info.name, "ends behind the end of the archive: truncated")
                    yield info.name, _Member(info.offset_data, info.size)

    def _decompress(self) -> None:
        packed, written = self.path.stat().st_size, 0
        free = shutil.disk_usage(tempfile.gettempdir()).free - _HEADROOM
        with _opened_binary(self.path) as source:
            for chunk in _zstd_chunks(self.path, source):
                written += len(chunk)
                self._require_likely(self.path.name, written, packed)
                if written > free:
                    raise EngineError(f"{self.path}: temporary files have room for {free} bytes, it needs more")
                self._spool.write(chunk)
        self._spool.seek(0)  # descriptors of one open file share its place

    def _checked(self, found: Iterable[tuple[str, _Member]]) -> dict[str, _Member]:
        """By the names in the capture: what all lies in one folder, as `zip -r` leaves it, lies at the root."""
        checked: dict[str, _Member] = {}
        for raw, member in found:
            name = raw.removeprefix("./")
            parts = name.split("/")
            if not all(part not in ("", ".", "..") for part in parts) or any(c in name for c in "\\:\0"):
                raise self._refused(raw, "leads out of the archive: names are relative, as layer-0/attn_norm.bin")
            if parts[0] == "__MACOSX":
                continue
            if name in checked:
                raise self._refused(raw, "is there twice: which one is meant?")
            if member.size > MOST_BYTES:
                raise self._refused(raw, f"has {member.size} bytes, a stage file has at most {MOST_BYTES}")
            checked[name] = member
            if len(checked) > MOST_MEMBERS:
                raise UnreadableError(f"{self.path}: more than {MOST_MEMBERS} files: not a capture")
        roots = {name.partition("/")[0] for name in checked}
        root = next(iter(roots)) if len(roots) == 1 else ""
        if root and root not in checked and not root.startswith("layer-"):
            return {name.removeprefix(f"{root}/"): member for name, member in checked.items()}
        return checked

    def _data(self, name: str, member: _Member, head: bytes) -> int:
        """Where the bytes of a member begin, `head` being the first ones at its place."""
        if not member.header:
            return member.offset
        if len(head) < _LOCAL_HEADER or head[:4] != b"PK\x03\x04":
            raise self._refused(name, f"has no local header at byte {member.offset}: make the archive again")
        names, extra = struct.unpack("<HH", head[26:30])
        return int(member.offset + _LOCAL_HEADER + names + extra)

    def _inflated(self, name: str, member: _Member, first: int | None) -> FilePart:
        """A member in the temporary file, or its first bytes in one of their own."""
        if first is not None and name not in self._spooled:
            with tempfile.TemporaryFile(prefix="aprtui-") as short:
                for chunk in self._inflate(name, member, first):
                    short.write(chunk)
                short.flush()
                return FilePart(os.dup(short.fileno()), 0, member.size, self.path)
        with self._lock:
            if name not in self._spooled:
                self._spooled[name] = self._to_spool(name, member)
            return FilePart(os.dup(self._spool.fileno()), self._spooled[name], member.size, self.path)

    def _to_spool(self, name: str, member: _Member) -> int:
        if shutil.disk_usage(tempfile.gettempdir()).free - _HEADROOM < member.size:
            raise EngineError(f"{self.path}: {name} needs {member.size} bytes for a temporary file, fewer are free")
        if self._spool is None:
            self._spool = tempfile.TemporaryFile(prefix="aprtui-")  # noqa: SIM115 - it lives as long as the archive
        at: int = self._spool.seek(0, os.SEEK_END)
        at += self._spool.write(bytes(-at % 8 + 4))  # values behind a header of 12 bytes are where their kind may be
        crc = 0
        for chunk in self._inflate(name, member, member.size):
            crc = zlib.crc32(chunk, crc)
            self._spool.write(chunk)
        self._spool.flush()
        if crc != member.crc:
            raise self._refused(name, f"CRC32 is {crc:08x}, the archive says {member.crc:08x}: make it again")
        return at

    def _inflate(self, name: str, member: _Member, most: int) -> Iterator[bytes]:
        assert member.packed is not None
        self._require_likely(name, member.size, member.packed)
        stream, left = zlib.decompressobj(-zlib.MAX_WBITS), min(most, member.size)
        with _opened_binary(self.path) as file:
            file.seek(member.offset)
            at = self._data(name, member, file.read(_LOCAL_HEADER))
            end = at + member.packed
            data = b""
            while left:
                file.seek(at)
                data = stream.unconsumed_tail or file.read(min(_CHUNK, end - at))
                at += 0 if stream.unconsumed_tail else len(data)
                try:
                    chunk = stream.decompress(data, min(left, _CHUNK))
                except zlib.error as error:
                    raise self._refused(name, f"cannot be inflated: {error}: make the archive again") from error
                if not chunk and (stream.eof or not data):
                    raise self._refused(name, f"inflates to {member.size - left} of {member.size} bytes: truncated")
                left -= len(chunk)
                yield chunk

    def _require_likely(self, name: str, size: int, packed: int) -> None:
        if size > FREELY and size > EXPANSION * packed:
            raise self._refused(name, f"{packed} bytes become {size} or more: unpack it yourself if that is meant")

    def _refused(self, name: str, problem: str) -> UnreadableError:
        return UnreadableError(f"{self.path}: {name!r:.120} {problem}")


def _zstd_chunks(path: Path, source: Any) -> Iterator[bytes]:
    """What a zstd stream holds, by Python's own module or by `zstandard`."""
    try:
        module: Any = importlib.import_module("compression.zstd")
        opened = module.ZstdFile(source)
        problem: type[Exception] = module.ZstdError
    except ImportError:
        try:
            module = importlib.import_module("zstandard")
        except ImportError as error:
            raise EngineError(f"{path}: zstandard is not installed: pip install 'aprtui[zstd]'") from error
        opened, problem = module.ZstdDecompressor().stream_reader(source, read_across_frames=True), module.ZstdError
    try:
        while chunk := opened.read(_CHUNK):
            yield chunk
    except (problem, EOFError) as error:
        raise UnreadableError(f"{path}: cannot be read as .zst: {error}: make it again") from error
