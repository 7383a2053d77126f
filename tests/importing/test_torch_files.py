"""Files of `torch.save`: tensors are read, and nothing that a pickle asks for is called."""

from __future__ import annotations

import importlib
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprtui.errors import UnreadableError
from aprtui.importing import numpy_files, torch_file
from aprtui.importing.torch_file import load_torch, read_torch
from tests.importing.dumps import global_name, number, sizes, text

needs_torch = pytest.mark.group("torch")
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


class Called:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def tensor(key: str = "0", count: int = 12, shape: tuple[int, ...] = (3, 4), strides: tuple[int, ...] = (4, 1),
           offset: int = 0, kind: str = "FloatStorage") -> bytes:  # fmt: skip
    """The opcodes of a tensor, as torch writes them."""
    storage = b"(" + text("storage") + global_name("torch", kind) + text(key) + text("cpu") + number(count) + b"tQ"
    rest = (
        number(offset) + sizes(*shape) + sizes(*strides) + b"\x89" + global_name("collections", "OrderedDict") + b")R"
    )
    return global_name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + rest + b"tR"


def archive(path: Path, body: bytes, data: bytes = ROWS.tobytes(), compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("x/data.pkl", b"\x80\x02" + body + b".")
        file.writestr("x/byteorder", "little")
        file.writestr("x/data/0", data)
    return path


def refused(path: Path, *words: str) -> None:
    def read() -> None:
        for found in read_torch(path).values():
            found.floats()

    with pytest.raises(UnreadableError) as error:
        read()
    assert "\n" not in str(error.value) and path.name in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_tensor_is_found_through_its_strides(tmp_path: Path) -> None:
    part = tensor(shape=(2, 3), strides=(1, 4), offset=1)
    others = b"](" + number(3) + b"NG?\xf0\x00\x00\x00\x00\x00\x00" + b"e"
    path = archive(
        tmp_path / "x.pt", b"}(" + text("a") + tensor() + text("b") + part + text("n") + others + b"u"
    )  # fmt: skip
    found = load_torch(path)
    assert found["n"] == [3, None, 1.0]
    assert np.array_equal(found["a"].floats(), ROWS)
    assert np.array_equal(found["b"].floats(), ROWS.T[1:3])
    assert set(read_torch(path)) == {"a", "b"}


@needs_torch
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_is_read_bit_for_bit(tmp_path: Path, zipped: bool) -> None:
    torch = importlib.import_module("torch")
    bits = torch.tensor([0x7FC00123, -8388607, -2147483648, 1], dtype=torch.int32)
    x = torch.arange(24.0).reshape(2, 3, 4)
    saved = {
        "nan": bits.view(torch.float32), "half": x.half().transpose(0, 2), "brain": x.bfloat16()[:, 1:, ::2],
        "double": x.double(), "ids": torch.arange(5), "flags": x[0] > 5, "shared": x[1],
        "parameter": torch.nn.Parameter(x),
        "expanded": x[0, :1].expand(5, 4), "empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5),
        "list": [x, (x[0], {"deep": x[1, 2]})],
        "meta": {"name": "a", "rank": 0, "shape": x.shape, "dtype": torch.float16, "device": torch.device("cpu")},
    }  # fmt: skip
    path = tmp_path / "x.pt"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    found = read_torch(path)
    assert found["nan"].floats().view(np.uint32).tolist() == [0x7FC00123, 0xFF800001, 0x80000000, 1]
    for name in saved.keys() - {"nan", "list", "meta"}:
        assert np.array_equal(found[name].floats(), saved[name].detach().float().numpy()), name
    assert np.array_equal(found["list.1.1.deep"].floats(), x[1, 2].numpy())
    assert load_torch(path)["meta"] == {
        "name": "a", "rank": 0, "shape": [2, 3, 4], "dtype": "torch.float16", "device": "cpu"
    }  # fmt: skip
    torch.save(x, path, _use_new_zipfile_serialization=zipped)
    assert np.array_equal(read_torch(path)[""].floats(), x.numpy())


@needs_torch
def test_eight_bit_floats_of_torch_are_read_and_complex_numbers_refused(tmp_path: Path) -> None:
    torch = importlib.import_module("torch")
    x = torch.tensor([1.0, -448.0, 0.5]).to(torch.float8_e4m3fn)
    torch.save({"x": x}, tmp_path / "x.pt")
    assert np.array_equal(read_torch(tmp_path / "x.pt")["x"].floats(), x.float().numpy())
    torch.save({"x": torch.complex(torch.ones(2), torch.ones(2))}, tmp_path / "c.pt")
    refused(tmp_path / "c.pt", "ComplexFloatStorage")
    torch.save({"x": torch.eye(3).to_sparse()}, tmp_path / "s.pt")
    refused(tmp_path / "s.pt", "refused")


@pytest.mark.parametrize("protocol", range(6))
def test_no_pickle_calls_anything(tmp_path: Path, protocol: int) -> None:
    ran: list[str] = []
    target = tmp_path / "ran"
    for value in (
        Called(exec, f"open({str(target)!r}, 'w')"),
        {"x": [Called(target.touch)]},
        Called(getattr, ran, "append"),
    ):
        body = pickle.dumps(value, protocol)
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as file:
            file.writestr("x/data.pkl", body)
        refused(tmp_path / "x.pt", "refused")
        (tmp_path / "y.pt").write_bytes(body)
        refused(tmp_path / "y.pt")
    assert not target.exists()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (global_name("os", "system") + b"(" + text("true") + b"tR", "calls os.system: refused"),
        (b"(" + text("true") + b"ios\nsystem\n", "opcode INST"),
        (b"(" + global_name("os", "system") + text("true") + b"o", "opcode OBJ"),
        (global_name("os", "system") + b")\x81", "opcode NEWOBJ, which makes objects: refused (of a model's output"),
        (b"\x82\x01", "opcode EXT1"),
        (b"P3\n", "opcode PERSID"),
        (tensor() + b"}(" + text("__class__") + number(1) + b"ub", "attributes of what is no dictionary"),
        (b"]q\x00" + (b"0](" + b"h\x00" * 99 + b"eq\x00") * 9, "more than 9000 values"),
        (b"]q\x00h\x00a", "nested deeper"),
        (text("a") + number(1) + b"R", "applied that is no name"),
        (b"]" * 100_000 + b"a" * 99_999, "nested deeper"),
        (b"((((", "leaves no value"),
        (b"0000", "takes more than it holds"),
        (b"h\x07", "not a pickle"),
        (b"\x8e" + struct.pack("<Q", 1 << 60), "not a pickle"),
        (tensor(key="7"), "not there"),
        (tensor(shape=(3, 5)), "needs 13"),
        (tensor(offset=1), "needs 13"),
        (tensor(shape=(1 << 30, 1 << 30), strides=(0, 0)), "repeats"),
        (tensor(shape=(-3, 4)), "without storage"),
        (tensor(strides=(4,)), "without storage"),
        (tensor(kind="QInt8Storage"), "QInt8Storage"),
    ],
)  # fmt: skip
def test_a_hostile_pickle_is_refused_in_one_line(
    tmp_path: Path, body: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_file, "_MOST_VALUES", 9000)
    refused(archive(tmp_path / "x.pt", body), words)


def test_broken_archives_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_files, "_LARGE", 1 << 20)
    path = archive(tmp_path / "x.pt", tensor())
    whole = path.read_bytes()
    for data in (b"", whole[:30], whole[:-40], b"PK\x03\x04" + bytes(100), b"hello"):
        path.write_bytes(data)
        refused(path)
    refused(
        archive(path, tensor(count=1 << 19, shape=(1 << 19,), strides=(1,)), bytes(2 << 20), zipfile.ZIP_DEFLATED),
        "bomb",
    )
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", b"\x80\x02" + tensor() + b".")
        file.writestr("x/byteorder", "big")
    refused(path, "big-endian")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("y", "")
    refused(path, "without a data.pkl")


def test_an_old_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2)]
    head = b"".join(parts) + b"\x80\x02" + tensor() + b"." + pickle.dumps(["0"], 2)
    path = tmp_path / "x.pt"
    path.write_bytes(head + struct.pack("<q", 12) + ROWS.tobytes())
    assert np.array_equal(read_torch(path)[""].floats(), ROWS)
    for tail in (b"", struct.pack("<q", 12), struct.pack("<q", 11) + ROWS.tobytes(), struct.pack("<q", 12) + bytes(47)):
        path.write_bytes(head + tail)
        refused(path, "truncated")
    stream = io.BytesIO()
    pickle.dump(3, stream)
    path.write_bytes(stream.getvalue())
    refused(path, "not a file of torch.save")
