"""The GGUF reader: equal to the reference reader on good files, and one typed error on every bad one."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aprtui.errors import UnreadableError
from aprtui.model.gguf_file import GgufFile, StringArray
from aprtui.model.model import load_model
from tests.hangs import no_hang
from tests.model.gguf_files import write_model

STRING, ARRAY, UINT32 = 8, 9, 4


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def header(
    *,
    keys: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    tensor_count, key_count = counts or (len(tensors), len(keys))
    return b"GGUF" + struct.pack("<IQQ", version, tensor_count, key_count) + b"".join([*keys, *tensors])


def uint32(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", UINT32, value)


def tensor(
    name: str, dimensions: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0, rank: int | None = None
) -> bytes:
    rank = len(dimensions) if rank is None else rank
    return text(name) + struct.pack(f"<I{len(dimensions)}QIQ", rank, *dimensions, kind, offset)


def open_bytes(folder: Path, data: bytes) -> GgufFile:
    path = folder / "model.gguf"
    path.write_bytes(data)
    return GgufFile(path)


def data_start(path: Path) -> int:
    """Where the header ends and the data of the tensors begin."""
    file = GgufFile(path)
    return min(file.location(entry)[1] for entry in file.tensors.values())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("good") / "model.gguf", layers=1)


def test_metadata_and_tensors_equal_those_of_the_reference_reader(good: Path) -> None:
    ours, reference = GgufFile(good), gguf.GGUFReader(good)
    keys = {key for key in reference.fields if not key.startswith("GGUF.")}
    assert set(ours.metadata) == keys
    for key in keys:
        value, expected = ours.metadata[key], reference.fields[key].contents()
        if isinstance(value, StringArray):
            assert [item.decode() for item in value.read()] == expected
        else:
            assert (value.tolist() if isinstance(value, np.ndarray) else value) == expected
    assert list(ours.tensors) == [entry.name for entry in reference.tensors]
    for entry in reference.tensors:
        mine = ours.tensors[entry.name]
        assert mine.dimensions == tuple(entry.shape.tolist()) and mine.type == entry.tensor_type
        assert ours.tensor_bytes(mine, entry.n_bytes).tobytes() == entry.data.tobytes()


def test_tensor_bytes_are_a_read_only_view_of_the_file(good: Path) -> None:
    file = GgufFile(good)
    data = file.tensor_bytes(file.tensors["token_embd.weight"], 64)
    assert not data.flags.owndata and not data.flags.writeable


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"too short .* \(0 bytes\)"),
        (b"\x89PNG" + bytes(40), r"byte 0: not a GGUF file: it begins with b'\\x89PNG'"),
        (header(version=1), "byte 4: GGUF version 1, expected 2 or 3"),
        (header(version=0), "byte 4: GGUF version 0, expected 2 or 3"),
        (header(version=4), "byte 4: GGUF version 4, expected 2 or 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "byte 4: the file is big-endian, expected little-endian"),
        (header(counts=(1 << 62, 0)), "byte 8: tensor count is 4611686018427387904, expected at most"),
        (header(counts=(0, 1 << 63)), "byte 16: metadata count is 9223372036854775808, expected at most"),
        (header(counts=(0, 1)), "byte 24: truncated: length of a metadata key needs 8 bytes, the file ends at byte 24"),
        (header(counts=(1, 0)), "byte 24: truncated: length of a tensor name"),
        (header(keys=[struct.pack("<Q", 1 << 40)]), "byte 24: a metadata key has 1099511627776 bytes"),
        (header(keys=[text(b"\xff\xfe") + bytes(8)]), "byte 24: a metadata key is not UTF-8"),
        (header(keys=[uint32("a", 1), uint32("a", 2)]), "byte 41: metadata key a occurs twice"),
        (header(keys=[text("a") + struct.pack("<I", 99)]), "a has value type 99, which GGUF does not define"),
        (header(keys=[text("a") + struct.pack("<IQ", STRING, (1 << 64) - 1)]), "truncated: a needs 184467"),
        (header(keys=[text("a") + struct.pack("<IIQ", ARRAY, ARRAY, 1)]), "a is an array of arrays"),
        (header(keys=[text("a") + struct.pack("<IIQ", ARRAY, 77, 1)]), "a has value type 77"),
        (header(keys=[text("a") + struct.pack("<IIQ", ARRAY, UINT32, 1 << 62)]), "truncated: a needs 184467"),
        (header(keys=[text("a") + struct.pack("<IIQ", ARRAY, STRING, 1 << 62)]), "a has 4611686018427387904 strings"),
        (
            header(keys=[text("a") + struct.pack("<IIQQ", ARRAY, STRING, 1, 1 << 63)]),
            "truncated: a needs 9223372036854775816 bytes",
        ),
        (
            header(keys=[text("a") + struct.pack("<IIQ", ARRAY, STRING, 2) + text("x") + bytes(7)]),
            "truncated: a runs past the end of the file",
        ),
        (header(keys=[uint32("general.alignment", 0)]), "general.alignment is 0, expected a power of two"),
        (header(keys=[uint32("general.alignment", 48)]), "general.alignment is 48, expected a power of two"),
        (header(tensors=[tensor("t", rank=1_000_000)]), "tensor t has 1000000 dimensions, expected 1 to 4"),
        (header(tensors=[tensor("t", (), rank=0)]), "tensor t has 0 dimensions"),
        (header(tensors=[tensor("t", (32, 0))]), r"tensor t is empty: \[32, 0\]"),
        (header(tensors=[tensor("t"), tensor("t")]), "tensor t occurs twice"),
    ],
)  # fmt: skip
def test_malformed_header_names_file_place_and_expectation(tmp_path: Path, data: bytes, message: str) -> None:
    with no_hang(), pytest.raises(UnreadableError, match=message) as caught:
        open_bytes(tmp_path, data)
    assert str(caught.value).startswith(str(tmp_path / "model.gguf"))
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_are_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=r"nowhere\.gguf: cannot be read: No such file"):
        GgufFile(tmp_path / "nowhere.gguf")
    with pytest.raises(UnreadableError, match="is a directory: expected a GGUF file"):
        GgufFile(tmp_path)


def test_dimensions_whose_product_overflows_64_bits_are_out_of_the_file(tmp_path: Path) -> None:
    dimensions = (1 << 40, 1 << 40)
    file = open_bytes(tmp_path, header(tensors=[tensor("t", dimensions)]) + bytes(256))
    with pytest.raises(UnreadableError, match="truncated: tensor t ends at byte"):
        file.tensor_bytes(file.tensors["t"], 4 * dimensions[0] * dimensions[1])


def test_misaligned_tensor_is_refused(tmp_path: Path) -> None:
    file = open_bytes(tmp_path, header(tensors=[tensor("t", offset=8)]) + bytes(256))
    with pytest.raises(UnreadableError, match="tensor t lies at data offset 8, expected a multiple of 32"):
        file.tensor_bytes(file.tensors["t"], 128)


def test_a_file_cut_anywhere_gives_one_typed_error(good: Path, tmp_path: Path) -> None:
    whole = good.read_bytes()
    data_offset = data_start(good)
    cuts = [*range(0, data_offset, 97), *range(data_offset, len(whole), len(whole) // 40)]
    for cut in cuts:
        path = tmp_path / "cut.gguf"
        path.write_bytes(whole[:cut])
        with pytest.raises(UnreadableError, match=r"cut\.gguf: .*(truncated|too short)"):
            load_model(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4))
@example([(8, 255)])
def test_damaged_bytes_load_or_give_a_typed_error(good: Path, tmp_path: Path, damage: list[tuple[int, int]]) -> None:
    data = bytearray(good.read_bytes())
    data_offset = data_start(good)
    for place, value in damage:
        data[place % data_offset] = value
    path = tmp_path / "damaged.gguf"
    path.write_bytes(data)
    try:
        tokenizer = load_model(path).tokenizer
    except UnreadableError as error:
        assert "\n" not in str(error)
    else:
        assert tokenizer.size > 0
