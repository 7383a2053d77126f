"""SHA-256 of model files, remembered so that a file of gigabytes is hashed once."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from aprtui.errors import UnreadableError


def cache_folder() -> Path:
    """Folder of the remembered digests, below the user's cache directory."""
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("aprtui")) / "sha256"


def file_digest(path: Path, folder: Path | None = None) -> str:
    """SHA-256 of the file in hexadecimal.

    Remembered in `folder` (default: `cache_folder()`) under the file's path, size, modification time and inode. A cache
    that cannot be read or written is ignored. Raises `UnreadableError` where the file cannot be read.
    """
    folder = cache_folder() if folder is None else folder
    try:
        resolved = path.resolve(strict=True)
        status = resolved.stat()
        key: list[str | int] = [str(resolved), status.st_size, status.st_mtime_ns, status.st_ino]
        entry = folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"
        remembered = _read(entry, key)
        if remembered is not None:
            return remembered
        with resolved.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    _write(entry, {"key": key, "sha256": digest})
    return digest


def _read(entry: Path, key: list[str | int]) -> str | None:
    with suppress(OSError, ValueError):
        record = json.loads(entry.read_text(encoding="utf-8"))
        if isinstance(record, dict) and record.get("key") == key:
            digest = record.get("sha256")
            if isinstance(digest, str) and len(digest) == 64 and set(digest) <= set("0123456789abcdef"):
                return digest
    return None


def _write(entry: Path, record: dict[str, object]) -> None:
    """Write atomically, so that two runs at once never leave half an entry."""
    with suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=entry.parent, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(record, file)
            os.replace(name, entry)
        except OSError:
            os.unlink(name)
