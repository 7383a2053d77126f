from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.errors import UnreadableError
from aprtui.model.discovery.catalogue import ListedModel, describe
from aprtui.model.discovery.places import FoundModel
from aprtui.model.model import load_model
from tests.model.gguf_files import model_file, write_model


def listed(path: Path) -> ListedModel:
    return describe(FoundModel(path, (path.stem,), "here"))


def test_a_model_that_runs_is_described_by_its_header(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", layers=1)
    found = listed(path)
    assert found.can_run and found.problem == ""
    assert (found.architecture, found.quantization, found.files, found.size) == (
        "qwen2", "Q4_K", 1, path.stat().st_size,
    )  # fmt: skip
    assert found.types["Q4_K"] == 9 and found.types["F32"] == 6


def test_parts_count_as_one_model(tmp_path: Path) -> None:
    parts = model_file().write_parts(tmp_path, 3)
    found = listed(parts[0])
    assert found.can_run and found.files == 3 and found.size == sum(part.stat().st_size for part in parts)
    parts[1].unlink()
    found = listed(parts[0])
    assert not found.can_run and parts[1].name in found.problem and found.files == 2


def test_what_cannot_be_run_is_refused_in_the_words_of_opening_it(tmp_path: Path) -> None:
    strange = model_file()
    strange.metadata["general.architecture"] = "clip"
    incomplete = model_file()
    del incomplete.tensors["blk.1.ffn_up.weight"]
    for file, architecture in ((strange, "clip"), (incomplete, "qwen2")):
        path = file.write(tmp_path / f"{architecture}.gguf")
        with pytest.raises(UnreadableError) as refused:
            load_model(path)
        found = listed(path)
        assert (found.problem, found.architecture, found.can_run) == (str(refused.value), architecture, False)
        assert found.types


@pytest.mark.parametrize("kept", [0, 3, 24, 200, 0.3, 0.9])
def test_a_broken_file_is_described_as_far_as_it_can_be_read(tmp_path: Path, kept: float, tiny_bytes: bytes) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_bytes[: int(kept if kept >= 1 else kept * len(tiny_bytes))])
    found = listed(path)
    assert str(path) in found.problem and "\n" not in found.problem
    assert found.size == path.stat().st_size


def test_a_file_that_has_gone_or_may_not_be_read_is_described_too(tmp_path: Path) -> None:
    assert "cannot be read" in listed(tmp_path / "gone.gguf").problem
    (tmp_path / "folder.gguf").mkdir()
    assert "is a directory" in listed(tmp_path / "folder.gguf").problem
