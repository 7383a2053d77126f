"""Stage files read by position: the same values as a map gives, and words instead of a signal when they are cut."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.survey import tensor_stats
from aprtui.errors import UnreadableError
from aprtui.trace import stage_reader
from aprtui.trace.aprt import AprtError, write_aprt
from aprtui.trace.positional import PositionalFile
from aprtui.trace.stage_reader import StageReader, reader_stats

VALUES = np.random.default_rng(3).standard_normal((6, 10)).astype(np.float32)
MAPS = np.random.default_rng(4).standard_normal((2, 5, 5)).astype(np.float32)


def written(path: Path, values: np.ndarray, layer: int | None = 0) -> Path:
    write_aprt(path, layer, values)
    return path


@pytest.mark.parametrize(
    ("rows", "columns"), [((0, 6), (0, 10)), ((2, 5), (3, 6)), ((1, 2), (4, 5)), ((0, 6), (1, 10)), ((5, 6), (0, 10))]
)
def test_any_part_has_the_values_of_the_file(tmp_path: Path, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    reader = StageReader(written(tmp_path / "a.bin", VALUES), VALUES.shape)
    part = reader.values(slice(*rows), slice(*columns))
    assert np.array_equal(part, VALUES[slice(*rows), slice(*columns)])
    assert reader.plane_shape == (6, 10) and reader.planes == 1 and reader.layer == 0


def test_a_plane_is_a_head(tmp_path: Path) -> None:
    reader = StageReader(written(tmp_path / "a.bin", MAPS), MAPS.shape)
    assert reader.planes == 2
    assert np.array_equal(reader.values(slice(1, 4), slice(0, 2), 1), MAPS[1, 1:4, :2])


def test_a_place_is_where_the_value_lies(tmp_path: Path) -> None:
    path = written(tmp_path / "a.bin", MAPS)
    reader = StageReader(path, MAPS.shape)
    at = reader.place(3, 2, 1)
    assert path.read_bytes()[at : at + 4] == MAPS[1, 3, 2].tobytes()


def test_without_a_shape_all_values_are_one_row(tmp_path: Path) -> None:
    reader = StageReader(written(tmp_path / "a.bin", VALUES, None), None)
    assert reader.plane_shape == (1, 60) and reader.layer is None
    assert np.array_equal(reader.values(slice(0, 1), slice(7, 9))[0], VALUES.reshape(-1)[7:9])


@pytest.mark.parametrize("causal", [False, True])
def test_statistics_are_those_of_the_mapped_file(tmp_path: Path, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_reader, "BLOCK_VALUES", 7)
    maps = MAPS.copy()
    maps[0, 0, 4], maps[1, 3, 3] = np.nan, np.inf
    reader = StageReader(written(tmp_path / "a.bin", maps), maps.shape)
    expected, found = asdict(tensor_stats(maps, causal=causal)), asdict(reader_stats(reader, causal))
    assert found == pytest.approx(expected, rel=1e-12)
    assert found["nan"] == (0 if causal else 1)


def test_cancelled_statistics_read_no_more(tmp_path: Path) -> None:
    reader = StageReader(written(tmp_path / "a.bin", VALUES), VALUES.shape)
    assert reader_stats(reader, False, lambda: True).count == 0


def test_a_file_that_is_truncated_while_it_is_open_is_reported(tmp_path: Path) -> None:
    path = written(tmp_path / "a.bin", VALUES)
    reader = StageReader(path, VALUES.shape)
    with path.open("r+b") as file:
        file.truncate(100)
    assert np.array_equal(reader.values(slice(0, 1), slice(0, 10))[0], VALUES[0])
    with pytest.raises(UnreadableError, match=r"byte 100: the file ends here since it was opened"):
        reader.values(slice(0, 6), slice(0, 10))
    assert "has changed" in reader.file.changed()


def test_changes_of_an_open_file_are_reported(tmp_path: Path) -> None:
    path = written(tmp_path / "a.bin", VALUES)
    file = PositionalFile(path)
    assert file.changed() == ""
    written(path, MAPS)
    assert "has been replaced" in file.changed()
    path.unlink()
    assert "has been deleted" in file.changed()
    assert len(file.read(0, 1000)) == 12 + 4 * VALUES.size


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "header ends"), (b"GGUF", "expected the magic"), (b"APRT" + bytes(8), "needs 60")],
)
def test_a_file_that_is_no_stage_file_of_this_shape_is_reported(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    with pytest.raises(AprtError, match=words):
        StageReader(path, (6, 10))


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="cannot be read: No such file"):
        StageReader(tmp_path / "a.bin", None)
