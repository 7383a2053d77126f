"""What is found where, and what is not read again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aprtui.resources import embedded_model
from aprtui.trace.manifest import Manifest, read_manifest
from aprtui.tui.screens.browse import artifacts as browse_find
from aprtui.tui.screens.browse.artifacts import DEPTH, Finder, Kind
from aprtui.tui.screens.browse.rows import age_text, place_text, size_text
from tests.compare.synthetic import write_capture


def test_captures_and_models_are_found_as_deep_as_told_and_hidden_folders_are_not_looked_into(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*"abcd")
    for folder in (tmp_path / "one", deep, tmp_path.joinpath(*"abce", "f", "g"), tmp_path / ".hidden"):
        write_capture(folder)
    (tmp_path / "model.gguf").symlink_to(embedded_model())
    found = Finder().look([tmp_path]).found
    assert [(entry.path.relative_to(tmp_path), entry.kind) for entry in found] == [
        (Path("a/b/c/d"), Kind.CAPTURE), (Path("one"), Kind.CAPTURE), (Path("model.gguf"), Kind.MODEL),
    ]  # fmt: skip
    assert len(deep.relative_to(tmp_path).parts) == DEPTH


def test_a_capture_given_twice_is_found_once_and_foreign_manifests_are_none(tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "one")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "manifest.json").write_text('{"name": "an app"}')
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "weights.bin").write_bytes(bytes(10))
    assert [entry.path for entry in Finder().look([tmp_path, capture, tmp_path / "gone"]).found] == [capture]


def test_what_has_not_changed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = write_capture(tmp_path / "one")
    finder = Finder()
    reads: list[Path] = []

    def counted(path: Path) -> Manifest | None:
        reads.append(path)
        return read_manifest(path)

    monkeypatch.setattr(browse_find, "read_manifest", counted)
    first = finder.look([tmp_path])
    assert finder.look([tmp_path]) == first and len(reads) == 1
    write_capture(capture, complete=False)
    os.utime(capture / "manifest.json", (1, 1))
    assert finder.look([tmp_path]).found[0].complete is False


def test_there_is_an_end_to_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(6):
        write_capture(tmp_path / f"capture-{index}")
    monkeypatch.setattr(browse_find, "MOST_FOUND", 3)
    listing = Finder().look([tmp_path])
    assert len(listing.found) == 3 and "there are more" in listing.left_out
    monkeypatch.setattr(browse_find, "MOST_FOLDERS", 0)
    assert "looked at 0 folders" in Finder().look([tmp_path]).left_out


def test_sizes_ages_and_places_are_said_as_people_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [size_text(size) for size in (0, 999, 1000, 941_012, 2_300_000, 123_456_789_000)] == [
        "0 B", "999 B", "1 kB", "941 kB", "2.3 MB", "123 GB",
    ]  # fmt: skip
    assert [age_text(age) for age in (3, 45, 90, 7200, 200_000)] == ["now", "40 s", "2 min", "2 h", "2 d"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place_text(tmp_path / "work" / "a", tmp_path / "work") == "a"
    assert place_text(tmp_path / "other" / "a", tmp_path / "work") == "~/other/a"
    assert place_text(Path("/x/y"), tmp_path) == "/x/y"
