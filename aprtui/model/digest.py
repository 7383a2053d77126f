"""SHA-256 of model files, remembered so that a file of gigabytes is hashed once."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from aprtui.errors import EngineError, UnreadableError
from aprtui.resources import digest_cache
from aprtui.trace.aprt import write_atomically


def file_digest(*paths: Path, folder: Path | None = None) -> str:
    """SHA-256 of a file in hexadecimal; of the parts of a split model, one after the other (`cat … | sha256sum`).

    Remembered in `folder` (default: `digest_cache()`) under each path, size, modification time and inode. A cache that
    cannot be read or written is ignored. Raises `UnreadableError` where a file cannot be read.
    """
    folder = digest_cache() if folder is None else folder
    key: list[str | int] = []
    total = hashlib.sha256()
    path = paths[0]
    try:
        for path in paths:
            resolved = path.resolve(strict=True)
            status = resolved.stat()
            key += [str(resolved), status.st_size, status.st_mtime_ns, status.st_ino]
        entry = folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"
        remembered = _read(entry, key)
        if remembered is not None:
            return remembered
        for path in paths:
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: total)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read: {error.strerror or error}") from error
    digest = total.hexdigest()
    with suppress(EngineError):
        write_atomically(entry, json.dumps({"key": key, "sha256": digest}).encode())
    return digest


def _read(entry: Path, key: list[str | int]) -> str | None:
    with suppress(OSError, ValueError):
        record = json.loads(entry.read_text(encoding="utf-8"))
        if isinstance(record, dict) and record.get("key") == key:
            digest = record.get("sha256")
            if isinstance(digest, str) and len(digest) == 64 and set(digest) <= set("0123456789abcdef"):
                return digest
    return None
