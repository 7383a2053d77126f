from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.tui.draw.text import short_path


def test_paths_are_relative_to_the_working_directory_or_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert short_path(tmp_path / "work" / "a", tmp_path / "work") == "a"
    assert short_path(tmp_path / "other" / "a", tmp_path / "work") == "~/other/a"
    assert short_path(Path("/x/y"), tmp_path) == "/x/y"
