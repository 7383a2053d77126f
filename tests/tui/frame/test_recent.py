"""What counts as opened, and is remembered between runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aprtui.resources import embedded_model
from aprtui.tui.frame.recent import (
    MOST_REMEMBERED,
    models_at_hand,
    recent_file,
    recent_pairs,
    recent_paths,
    remember,
    remember_state,
)
from aprtui.tui.frame.state import ScreenName, screen_state


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders, a model, a contract and a stage file."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "contracts"):
        (tmp_path / name).mkdir()
    for name in ("model.gguf", "alpha.yaml", "ffn_up.bin"):
        (tmp_path / name).touch()
    return tmp_path


def test_whatever_a_screen_was_opened_on_counts(files: Path) -> None:
    remember_state(screen_state(ScreenName.LIVE, model="model.gguf"))
    remember_state(screen_state(ScreenName.TENSOR, capture="a", stage="ffn_up"))
    remember_state(screen_state(ScreenName.CONTRACTS, path="alpha.yaml", reference="a"))
    assert recent_paths() == (files / "alpha.yaml", files / "a", files / "model.gguf")
    remember_state(screen_state(ScreenName.DIFF, a="b", b="a"))
    assert recent_paths()[:2] == (files / "b", files / "a") and recent_pairs() == ((files / "b", files / "a"),)


def test_folders_single_stage_files_and_what_is_gone_do_not_count(files: Path) -> None:
    remember_state(screen_state(ScreenName.CONTRACTS, path="contracts"))
    remember_state(screen_state(ScreenName.BROWSE, path="a"))
    remember_state(screen_state(ScreenName.TENSOR, path="ffn_up.bin"))
    remember_state(screen_state(ScreenName.TENSOR, capture="gone"))
    remember_state(screen_state(ScreenName.DIFF, a="ffn_up.bin", b="ffn_up.bin"))
    assert recent_paths() == ()
    remember(files / "a")
    (files / "a").rmdir()
    assert recent_paths() == ()


def test_many_of_one_kind_do_not_push_out_the_other(files: Path) -> None:
    remember(files / "a")
    for number in range(MOST_REMEMBERED + 5):
        (files / str(number)).mkdir()
        remember(files / "b", files / str(number))
    assert recent_paths() == (files / "a",)
    assert len(recent_pairs()) == MOST_REMEMBERED and recent_pairs()[0] == (files / "b", files / "24")


@pytest.mark.parametrize("content", ["{", "{}", '[1, {"a": 2}, ["x"], ["a", 3], ["a", "b", "c"]]'])
def test_a_file_of_anything_else_is_passed_over(files: Path, content: str) -> None:
    recent_file().write_text(content)
    assert recent_paths() == () == recent_pairs()
    remember(files / "a")
    assert recent_paths() == (files / "a",)


def test_a_file_of_an_older_release_is_read(files: Path) -> None:
    recent_file().write_text(json.dumps([str(files / "a"), str(files / "model.gguf")]))
    assert recent_paths() == (files / "a", files / "model.gguf")


def test_models_are_looked_for_where_they_may_be(files: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    beside, elsewhere = tmp_path_factory.mktemp("beside"), tmp_path_factory.mktemp("elsewhere")
    for path in (beside / "near.gguf", beside / "notes.txt", elsewhere / "old.gguf", elsewhere / "given.gguf"):
        path.touch()
    remember(elsewhere / "old.gguf")
    remember(files / "a")
    assert models_at_hand(elsewhere / "given.gguf", beside, beside / "notes.txt") == (
        elsewhere / "given.gguf", beside / "near.gguf", files / "model.gguf", elsewhere / "old.gguf", embedded_model(),
    )  # fmt: skip


def test_a_split_model_is_remembered_by_its_first_part(files: Path) -> None:
    first, second = (files / f"split-{number:05d}-of-00002.gguf" for number in (1, 2))
    first.touch()
    second.touch()
    remember_state(screen_state(ScreenName.LIVE, model=second.name))
    assert recent_paths() == (first,)
    assert models_at_hand().count(first) == 1 and second not in models_at_hand(second)
