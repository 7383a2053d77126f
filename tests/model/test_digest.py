"""SHA-256 of files and its cache."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from aprtui.errors import UnreadableError
from aprtui.model.digest import file_digest


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def test_digest_is_that_of_the_bytes_and_is_remembered(tmp_path: Path) -> None:
    path, cache = tmp_path / "a.gguf", tmp_path / "cache"
    path.write_bytes(b"weights")
    expected = hashlib.sha256(b"weights").hexdigest()
    assert file_digest(path, folder=cache) == expected
    (entry,) = entries(cache)
    entry.write_text(entry.read_text().replace(expected, "0" * 64))
    assert file_digest(path, folder=cache) == "0" * 64, "the second answer comes from the cache"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": 1, "sha256": "x"}', '{"key": [], "sha256": 7}'])
def test_broken_cache_is_ignored_and_replaced(tmp_path: Path, content: str) -> None:
    path, cache = tmp_path / "a.gguf", tmp_path / "cache"
    path.write_bytes(b"weights")
    digest = file_digest(path, folder=cache)
    (entry,) = entries(cache)
    whole = entry.read_text()
    entry.write_text(content)
    assert file_digest(path, folder=cache) == digest
    assert entry.read_text() == whole


def test_changed_file_is_hashed_again(tmp_path: Path) -> None:
    path, cache = tmp_path / "a.gguf", tmp_path / "cache"
    path.write_bytes(b"weights")
    file_digest(path, folder=cache)
    path.write_bytes(b"weighed")
    os.utime(path, ns=(1, 1))
    assert file_digest(path, folder=cache) == hashlib.sha256(b"weighed").hexdigest()


def test_cache_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"weights")
    in_the_way = tmp_path / "cache"
    in_the_way.write_text("a file, not a folder")
    assert file_digest(path, folder=in_the_way) == hashlib.sha256(b"weights").hexdigest()


def test_missing_file_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="cannot be read: No such file"):
        file_digest(tmp_path / "nowhere", folder=tmp_path / "cache")
