"""Places on other machines as paths: `s3://bucket/capture`, `gs://…`, `sftp://…`, `memory://…`, by fsspec.

An `Address` is a path whose questions (is there, what is in it, how large) are answered by the file system that its
scheme names; `/` makes addresses of addresses. What is read of it comes by ranges into temporary files without a name,
a stage file once, when its values are wanted, and its first bytes alone where those are enough. fsspec is imported for
addresses only; without it, or without what it needs for a scheme, there is one line that says what to install.
"""

from __future__ import annotations

import errno
import importlib
import io
import logging
import os
import re
import stat
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PosixPath
from typing import Any, BinaryIO, TypeVar, cast

from aprtui.errors import EngineError, UnreachableError, UnreadableError, printable

Result = TypeVar("Result")

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://?(.*)", re.DOTALL)
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "sftp": "paramiko", "abfs": "adlfs", "az": "adlfs",
             "http": "aiohttp", "https": "aiohttp"}  # fmt: skip
"""What fsspec needs for a scheme."""
_PASSWORD = re.compile(r"(://[^\s/:@]+:)[^\s/@]+@")
_CHUNK = 1 << 22
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.zst", ".tzst")
"""What captures in one file are called."""


def is_address(text: str) -> bool:
    """Whether `text` names a place on another machine: it has a scheme of at least two letters and `://`."""
    match = re.match(r"[a-z][a-z0-9+.-]+://", text)
    return match is not None and not text.startswith("file://")


def place(text: str) -> Path:
    """The path that `text` is, or the address."""
    return Address(text) if is_address(text) else Path(text)


class Address(PosixPath):
    """A place on another machine; asking raises `FileNotFoundError`, or `UnreachableError` where nobody answers."""

    def __str__(self) -> str:
        match = _SCHEME.fullmatch(super().__str__())
        return super().__str__() if match is None else f"{match[1]}://{match[2].lstrip('/')}"

    def __format__(self, spec: str) -> str:
        """For messages: without the password that it may have."""
        return format(_PASSWORD.sub(r"\1…@", str(self)), spec)

    def __fspath__(self) -> str:
        return str(self)

    def __hash__(self) -> int:
        return hash(str(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and str(other) == str(self)

    def absolute(self) -> Address:
        return self

    def info(self) -> dict[str, Any]:
        """What the file system says of it, or the listing of a folder that is, or was, looked at as a whole.

        Raises `FileNotFoundError`.
        """
        if _in_archive(self):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self))
        known = _listing_with(self)
        if known is None:
            return _SEEN.get(str(self)) or cast("dict[str, Any]", asked(self, lambda files, path: files.info(path)))
        if str(self) not in known:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return known[str(self)]

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        found = self.info()
        kind = stat.S_IFDIR if found["type"] == "directory" else stat.S_IFREG
        when = found.get("mtime") or found.get("LastModified") or found.get("created") or 0
        seconds = when.timestamp() if hasattr(when, "timestamp") else float(when)
        number = hash(str(found.get("ETag") or found.get("md5Hash") or "")) & 0x7FFFFFFF
        size = int(found.get("size") or 0)
        return os.stat_result((kind | 0o644, number, 0, 1, 0, 0, size, int(seconds), int(seconds), int(seconds)))

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self.is_file() or self.is_dir()

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self._is_of("directory")

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return self._is_of("file")

    def _is_of(self, kind: str) -> bool:
        try:
            return bool(self.info()["type"] == kind)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def iterdir(self) -> Generator[Address, None, None]:
        if _in_archive(self / "any"):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self))
        known = _listing_with(self)
        if known is not None:
            yield from (Address(name) for name in sorted(known) if Address(name).parent == self and name != str(self))
            return
        found = asked(self, lambda files, path: [name for name in files.ls(path, detail=False) if name != path])
        names = {str(name).rstrip("/").rpartition("/")[2] for name in found} - {""}
        yield from (self / name for name in sorted(names))

    def write_whole(self, data: bytes) -> None:
        """Put a file there, in place of what is there. Raises `EngineError`."""
        self._write(lambda files, path: files.pipe_file(path, data))

    def put(self, source: Path) -> None:
        """Copy a local file there. Raises `EngineError`."""
        self._write(lambda files, path: files.put_file(str(source), path))

    def _write(self, request: Callable[[Any, str], object]) -> None:
        """Have a file written there; object stores have no folders, but other file systems want theirs first."""
        _SEEN.pop(str(self), None)
        try:
            try:
                asked(self, request)
            except FileNotFoundError:
                asked(self.parent, lambda files, path: files.makedirs(path, exist_ok=True))
                asked(self, request)
        except (OSError, UnreachableError) as error:
            raise EngineError(f"{self}: cannot be written: {_reason(error)}") from error

    def unlink(self, missing_ok: bool = False) -> None:
        _SEEN.pop(str(self), None)
        try:
            asked(self, lambda files, path: files.rm_file(path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        raise EngineError(f"{self}: this command writes to local folders: write there, then copy it to the address")

    def open(self, mode: str = "r", *words: Any, **options: Any) -> Any:
        """The file for reading. Raises `EngineError` for any other mode."""
        if set(mode) - set("rbt"):
            raise EngineError(f"{self}: this command writes to local files: write there, then copy it to the address")
        return self.opened() if "b" in mode else io.TextIOWrapper(self.opened(), encoding="utf-8")

    def opened(self) -> BinaryIO:
        """The file, read by ranges as it is asked for. Raises `FileNotFoundError`."""
        return cast("BinaryIO", asked(self, lambda files, path: files.open(path, "rb")))


def _in_archive(address: Address) -> bool:
    """Whether a name leads into a file that is an archive: what is in it is not asked of the other machine."""
    return any(parent.name.lower().endswith(ARCHIVE_SUFFIXES) for parent in address.parents)


_LISTINGS: dict[str, dict[str, dict[str, Any]]] = {}
"""Folders that are being looked at as a whole: what is in them, asked for once."""
_SEEN: dict[str, dict[str, Any]] = {}
"""Files that were found so, until their folder is looked at again: to read one is no further question about it."""


@contextmanager
def listed(path: Path) -> Iterator[None]:
    """Within this, questions about what is in an address are answered by one listing; nothing of a local path.

    What is said of the files that are there holds afterwards, too: a run reads those that it has found.
    """
    if not isinstance(path, Address) or str(path) in _LISTINGS:
        yield
        return
    try:
        found = asked(path, lambda files, own: files.find(own, detail=True))
    except FileNotFoundError:
        found = {}
    entries = _entries(path, found)
    for former in [name for name in _SEEN if name == str(path) or name.startswith(str(path) + "/")]:
        del _SEEN[former]
    _SEEN.update((name, info) for name, info in entries.items() if info["type"] == "file")
    if len(entries) > 1:
        _LISTINGS[str(path)] = entries
    try:
        yield
    finally:
        _LISTINGS.pop(str(path), None)


def _entries(path: Address, found: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was found at and below `path`, by its address, and the folders that it lies in."""
    root = _file_system(path)[1].rstrip("/")
    entries: dict[str, dict[str, Any]] = {}
    for name, info in found.items():
        if not str(name).startswith(root):
            continue
        relative = str(name).rstrip("/")[len(root) :].lstrip("/")
        here = path / relative if relative else path
        entries[str(here)] = info or here.info()  # of a path that is a file, some file systems list the name alone
        for folder in here.parents:
            if len(str(folder)) < len(str(path)):
                break
            entries[str(folder)] = {"type": "directory", "size": 0}
    return entries


def _listing_with(address: Address) -> dict[str, dict[str, Any]] | None:
    text = str(address)
    return next((entries for root, entries in _LISTINGS.items() if text == root or text.startswith(f"{root}/")), None)


def asked(address: Address, question: Callable[[Any, str], Result]) -> Result:
    """What the file system of an address answers to `question`, which takes it and the path there.

    Raises `FileNotFoundError`, or `UnreachableError` with one line where nobody answers or the answer is no.
    """
    files, path = _file_system(address)
    try:
        return question(files, path)
    except FileNotFoundError as error:  # those of most file systems have no text
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(address)) from error
    except Exception as error:  # each file system has errors of its own: of HTTP, of names, of credentials
        raise UnreachableError(f"{address}: {_reason(error)}: {_advice(error)}") from error


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(" ".join(text.split()))[:200].rstrip(".: ")


def _advice(error: BaseException) -> str:
    text = f"{type(error).__name__} {error}".lower()
    if isinstance(error, PermissionError) or any(
        word in text for word in ("credential", "denied", "forbidden", "auth")
    ):
        return "check the credentials, and what they may read"
    if isinstance(error, IsADirectoryError):
        return "name a file"
    return "check the address and the connection, then try again"


def _file_system(address: Address) -> tuple[Any, str]:
    """The file system of an address, and its path there. Raises `EngineError` where it is not installed."""
    match = _SCHEME.fullmatch(str(address))
    assert match is not None, "an address has a scheme"
    try:
        fsspec = _fsspec()
    except ImportError as error:
        raise EngineError(f"{address}: fsspec is not installed: pip install 'aprtui[remote]'") from error
    return _connected(fsspec, match[1], address)


@cache
def _fsspec() -> Any:
    """fsspec, imported when the first address is asked for something. Raises `ImportError`."""
    # What it logs of a lost connection would stand on stderr beside our one line.
    logging.getLogger("paramiko").addHandler(logging.NullHandler())
    return importlib.import_module("fsspec")


def _connected(fsspec: Any, scheme: str, address: Address) -> tuple[Any, str]:
    options = {"use_listings_cache": False} if scheme == "s3" else {}
    try:
        files, path = fsspec.core.url_to_fs(str(address), **options)
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        missing = f"{package} is not installed: pip install {package}" if package else f"{scheme}: {error}"
        raise EngineError(f"{address}: {missing}") from error
    except ValueError as error:
        raise UnreadableError(f"{address}: {_reason(error)}: expected s3://, gs://, sftp:// or memory://") from error
    except Exception as error:
        raise UnreachableError(f"{address}: {_reason(error)}: {_advice(error)}") from error
    return files, str(path)


def read_range(address: Address, offset: int, count: int) -> bytes:
    """At most `count` bytes from `offset` on. Raises `FileNotFoundError`, `UnreachableError`."""
    if count <= 0:
        return b""
    return bytes(asked(address, lambda files, path: files.cat_file(path, start=offset, end=offset + count)))


class _Spool:
    """One temporary file without a name, with all that was fetched: a descriptor for thousands of stage files."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: Any = None
        self._known: dict[tuple[str, int, int, str], int] = {}

    def fetch(self, address: Address, offset: int, count: int, version: str) -> tuple[int, int]:
        """A descriptor, and where in it `count` bytes of an address from `offset` on are."""
        key = (str(address), offset, count, version)
        with self._lock:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="aprtui-")  # noqa: SIM115 - it lives as long as the program
            if key not in self._known:
                self._known[key] = self._append(address, offset, count)
            return os.dup(self._file.fileno()), self._known[key]

    def _append(self, address: Address, offset: int, count: int) -> int:
        at: int = self._file.seek(0, os.SEEK_END)
        at += self._file.write(bytes(-at % 8 + 4))  # values behind a header of 12 bytes are where their kind may be
        for first in range(offset, offset + count, _CHUNK):
            wanted = min(_CHUNK, offset + count - first)
            data = read_range(address, first, wanted)
            if len(data) != wanted:
                raise UnreadableError(
                    f"{address}: byte {first + len(data)}: the file ends here, {offset + count} bytes were expected: "
                    "it is being written again"
                )
            self._file.write(data)
        self._file.flush()
        return at


_SPOOL = _Spool()


def fetched(address: Address, offset: int, count: int) -> tuple[int, int]:
    """A descriptor of a temporary file without a name, and where in it `count` bytes from `offset` on are.

    The same bytes are asked for once. Raises `FileNotFoundError`, `UnreachableError`.
    """
    info = address.info()
    version = str(info.get("ETag") or info.get("mtime") or info.get("created") or info.get("size"))
    return _SPOOL.fetch(address, offset, count, version)
