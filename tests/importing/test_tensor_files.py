"""Files of tensors: what they hold is read, what is wrong with them is said in one line."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprtui.errors import UnreadableError
from aprtui.importing import numpy_files
from aprtui.importing.source import read_tensors
from tests.importing.dumps import write_safetensors, write_torch

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


class Payload:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return (eval, ("1 / 0",))


def test_arrays_of_any_order_and_byte_order_are_row_major(tmp_path: Path) -> None:
    np.save(tmp_path / "plain.npy", ROWS)
    np.save(tmp_path / "columns.npy", np.asfortranarray(ROWS))
    np.save(tmp_path / "big.npy", ROWS.astype(">f4"))
    np.savez_compressed(tmp_path / "many.npz", a=ROWS, b=ROWS.astype(np.float16))
    found = read_tensors(tmp_path)
    assert set(found) == {"plain", "columns", "big", "many/a", "many/b"}
    for tensor in found.values():
        assert np.array_equal(tensor.floats(), ROWS), tensor.name


def test_bfloat16_of_ml_dtypes_is_read(tmp_path: Path) -> None:
    """It saves arrays of two bytes without a meaning."""
    halves = (ROWS.view(np.uint32) >> 16).astype(np.uint16)
    np.save(tmp_path / "half.npy", halves.view("V2"))
    assert np.array_equal(read_tensors(tmp_path / "half.npy")["half"].floats(), ROWS)


def test_safetensors_are_read_by_name(tmp_path: Path) -> None:
    path = write_safetensors(
        tmp_path / "x.safetensors", {"a.b": ("F32", (3, 4), ROWS.tobytes()), "e": ("F32", (0,), b"")}
    )
    found = read_tensors(path)
    assert set(found) == {"a.b", "e"} and np.array_equal(found["a.b"].floats(), ROWS)
    assert set(read_tensors(tmp_path)) == {"x/a.b", "x/e"}


def refused(path: Path, *words: str) -> None:
    def read() -> None:
        for tensor in read_tensors(path).values():
            tensor.floats()

    with pytest.raises(UnreadableError) as error:
        read()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("header", "word"),
    [
        ({"x": {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 48]}}, "needs 60"),
        ({"x": {"dtype": "F32", "shape": [12], "data_offsets": [8, 56]}}, "of 48"),
        ({"x": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 48]}}, "needs"),
        ({"x": {"dtype": "F32", "shape": [-12], "data_offsets": [0, 48]}}, "expected dtype"),
        ({"x": {"dtype": "F4", "shape": [12], "data_offsets": [0, 48]}}, "not known"),
        ({"x": {"dtype": ["F32"], "shape": [12], "data_offsets": [0, 48]}}, "expected dtype"),
        ({"x": 3}, "expected dtype"),
        ([1], "not a JSON object"),
    ],
)
def test_a_wrong_header_of_safetensors_is_refused(tmp_path: Path, header: Any, word: str) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + ROWS.tobytes())
    refused(path, "x.safetensors", word)


def test_safetensors_that_end_early_or_nest_deeply_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for data in (b"", b"1234", struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 20) + b"{}"):
        path.write_bytes(data)
        refused(path, "header")
    path.write_bytes(struct.pack("<Q", 200_000) + b"[" * 200_000)
    refused(path, "not JSON")


def test_objects_in_arrays_are_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([Payload()], object), allow_pickle=True)
    refused(tmp_path / "x.npy", "pickled objects")
    np.savez(tmp_path / "x.npz", x=np.array([Payload()], object))
    refused(tmp_path / "x.npz", "pickled objects")


def test_arrays_that_hold_less_than_they_say_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, ROWS)
    whole = path.read_bytes()
    for data in (whole[:-1], whole[:20], b"", b"\x93NUMPY\x09\x00" + whole[8:], whole.replace(b"(3, 4)", b"(3, 9)")):
        path.write_bytes(data)
        refused(path, "x.npy")
    path.write_bytes(whole.replace(b"'<f4'", b"'<c8'"))
    refused(path, "x.npy")


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_files, "_LARGE", 1 << 20)
    head = io.BytesIO()
    np.save(head, np.zeros(0, np.float32))
    path = tmp_path / "x.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as out,
    ):
        out.write(head.getvalue().replace(b"(0,)", b"(9,)"))
        for _ in range(3):
            out.write(bytes(1 << 20))
    refused(path, "zip bomb")


def test_files_with_wrong_bytes_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    np.savez_compressed(tmp_path / "a.npz", x=ROWS)
    write_torch(tmp_path / "a.pt", {"a": ROWS, "l": [ROWS, {"b": ROWS}], "m": {"n": 3}})
    write_safetensors(tmp_path / "a.safetensors", {"a": ("F32", (3, 4), ROWS.tobytes())})
    generator = np.random.default_rng(5)
    for file in sorted(tmp_path.iterdir()):
        whole = np.fromfile(file, np.uint8)
        for _ in range(60):
            changed = whole.copy()
            changed[generator.integers(0, len(changed), 3)] = generator.integers(0, 256, 3)
            other = file.with_stem("changed")
            other.write_bytes(changed[: generator.integers(1, 2 * len(changed))].tobytes())
            try:
                for tensor in read_tensors(other).values():
                    tensor.floats()
            except UnreadableError as error:
                assert "\n" not in str(error)


def test_a_folder_without_tensors_says_what_was_expected(tmp_path: Path) -> None:
    refused(tmp_path, "holds no tensors", ".safetensors")
    refused(tmp_path / "gone", "does not exist")
    (tmp_path / "x.txt").write_text("hello")
    refused(tmp_path / "x.txt", "not a file of tensors")


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    np.save(tmp_path / "out" / "x.npy", ROWS)
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    refused(tmp_path / "in", "holds no tensors")
