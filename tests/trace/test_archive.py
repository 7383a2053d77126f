"""Captures in one file: the very values of the folder, whichever way it was packed; what is hostile is refused."""

from __future__ import annotations

import importlib
import io
import os
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aprtui.errors import EngineError, UnreadableError
from aprtui.trace import archive
from aprtui.trace.aprt import read_aprt, write_aprt
from aprtui.trace.capture import PROVENANCE, Capture
from aprtui.trace.graph.stage import Node
from aprtui.trace.positional import PositionalFile
from aprtui.trace.stage_reader import StageReader

NODE = Node(1, "ffn_gate")
NAMES = {"ffn_gate": 24, "attn_norm": 8, "ffn_up": 24}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A capture of two layers, with a NaN that has a payload."""
    path = tmp_path / "capture"
    for layer in range(2):
        for number, (name, width) in enumerate(NAMES.items()):
            values = np.random.default_rng(10 * layer + number).normal(size=(5, width)).astype(np.float32)
            values.view(np.uint32)[0, 0] = 0x7FC12345
            write_aprt(path / f"layer-{layer}" / f"{name}.bin", layer, values)
    write_aprt(path / "final_norm.bin", None, np.ones((5, 8), np.float32))
    (path / PROVENANCE).write_text("tokens: [1, 2, 3, 4, 5]\nmodel: mine\n")
    return path


def zipped(folder: Path, target: Path, method: int = zipfile.ZIP_STORED, root: str = "") -> Path:
    with zipfile.ZipFile(target, "w", method) as opened:
        for file in sorted(folder.rglob("*")):
            opened.write(file, f"{root}{file.relative_to(folder).as_posix()}")
    return target


def tarred(folder: Path, target: Path) -> Path:
    with tarfile.open(target, "w") as opened:
        opened.add(folder, ".")
    return target


WAYS: dict[str, Callable[[Path, Path], Path]] = {
    "stored": lambda folder, target: zipped(folder, target / "a.zip"),
    "deflated": lambda folder, target: zipped(folder, target / "a.zip", zipfile.ZIP_DEFLATED),
    "in a folder": lambda folder, target: zipped(folder, target / "a.zip", root="capture/"),
    "tar": lambda folder, target: tarred(folder, target / "a.tar"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("copied", [False, True])
def test_an_archive_is_the_folder(folder: Path, tmp_path: Path, way: str, copied: bool) -> None:
    packed = Capture.open(WAYS[way](folder, tmp_path), copied=copied)
    plain = Capture.open(folder)
    assert (packed.tokens, packed.warnings, packed.model) == (plain.tokens, (), plain.model)
    assert packed.files.keys() == plain.files.keys()
    for node in plain.files:
        assert packed.values(node).tobytes() == plain.values(node).tobytes()
        assert packed.values(node).flags.aligned
        assert packed.files[node].shape == plain.files[node].shape


@pytest.mark.parametrize("way", WAYS)
def test_parts_are_read_by_position(folder: Path, tmp_path: Path, way: str) -> None:
    entry = Capture.open(WAYS[way](folder, tmp_path)).files[NODE]
    reader = StageReader(entry.path, entry.shape)
    expected = Capture.open(folder).values(NODE)
    assert np.array_equal(reader.values(slice(2, 4), slice(3, 7)), expected[2:4, 3:7])
    assert reader.file.read(12 + expected.nbytes - 2, 100) == expected.tobytes()[-2:]
    assert reader.file.changed() == ""
    os.utime(tmp_path / ("a.tar" if way == "tar" else "a.zip"), (1, 1))
    assert "has changed since it was opened" in reader.file.changed()
    reader.close()


def test_only_what_is_read_is_inflated(folder: Path, tmp_path: Path) -> None:
    path = WAYS["deflated"](folder, tmp_path)
    capture = Capture.open(path)
    opened = archive.open_archive(path)
    assert list(opened._spooled) == [PROVENANCE]
    capture.values(NODE)
    capture.values(NODE)
    assert list(opened._spooled) == [PROVENANCE, "layer-1/ffn_gate.bin"]


def test_an_archive_that_has_changed_is_read_again(folder: Path, tmp_path: Path) -> None:
    path = WAYS["stored"](folder, tmp_path)
    assert NODE in Capture.open(path).files
    shutil.rmtree(folder / "layer-1")
    path.unlink()
    WAYS["stored"](folder, tmp_path)
    assert NODE not in Capture.open(path).files


def test_what_is_not_there_is_said(folder: Path, tmp_path: Path) -> None:
    path = WAYS["stored"](folder, tmp_path)
    with pytest.raises(UnreadableError, match=r"a\.zip/layer-7/ffn_up\.bin: cannot be read: No such file"):
        PositionalFile(path / "layer-7" / "ffn_up.bin")
    with pytest.raises(UnreadableError, match="does not exist"):
        Capture.open(path / "layer-7")
    (tmp_path / "broken.zip").write_bytes(b"PK")
    inside = tmp_path / "broken.zip" / "final_norm.bin"
    assert not archive.is_single_file(inside)
    with pytest.raises(UnreadableError, match=r"broken\.zip: cannot be read as \.zip"):
        read_aprt(inside)
    (tmp_path / "empty.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    with pytest.raises(UnreadableError, match="holds no capture"):
        Capture.open(tmp_path / "empty.zip")


HOSTILE: dict[str, tuple[str, str]] = {
    "parent": ("../evil.bin", "leads out of the archive"),
    "absolute": ("/etc/evil.bin", "leads out of the archive"),
    "backslash": ("layer-0\\evil.bin", "leads out of the archive"),
    "drive": ("C:evil.bin", "leads out of the archive"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_names_that_lead_out_are_refused(tmp_path: Path, case: str) -> None:
    name, message = HOSTILE[case]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("final_norm.bin", b"")
        opened.writestr(name, b"x")
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        packed.addfile(tarfile.TarInfo(name))
    for path in (tmp_path / "a.zip", tmp_path / "a.tar"):
        with pytest.raises(UnreadableError, match=message):
            Capture.open(path)


def test_links_and_names_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as opened:
        link = tarfile.TarInfo("final_norm.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        opened.addfile(link)
    with pytest.raises(UnreadableError, match="is no plain file"):
        Capture.open(tmp_path / "a.tar")
    info = zipfile.ZipInfo("final_norm.bin")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as linked:
        linked.writestr(info, "/etc/passwd")
    with pytest.raises(UnreadableError, match="is no file"):
        Capture.open(tmp_path / "link.zip")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as double:
        double.writestr("final_norm.bin", b"")
        double.writestr("other_norm.bin", b"")
    doubled = (tmp_path / "two.zip").read_bytes().replace(b"other_norm", b"final_norm")
    (tmp_path / "two.zip").write_bytes(doubled)
    with pytest.raises(UnreadableError, match="is there twice"):
        Capture.open(tmp_path / "two.zip")


def forged(path: Path, **fields: int) -> Path:
    """The zip at `path` with other fields in the first entry of its central directory."""
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    for name, value in fields.items():
        offset = {"flags": 8, "method": 10, "crc": 16, "packed": 20, "size": 24}[name]
        struct.pack_into("<H" if name in ("flags", "method") else "<I", data, at + offset, value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"flags": 1}, "is encrypted"),
        ({"method": 12}, "neither stored nor deflated"),
        ({"packed": 1 << 30}, "lies over other files, or beyond"),
        ({"size": (1 << 32) - 2}, "cannot inflate to 4294967294"),
    ],
)
def test_what_an_archive_cannot_be_is_refused(folder: Path, tmp_path: Path, fields: Any, message: str) -> None:
    path = forged(zipped(folder, tmp_path / "a.zip", zipfile.ZIP_DEFLATED), **fields)
    with pytest.raises(UnreadableError, match=message):
        Capture.open(path)


def test_a_stored_size_and_a_checksum_that_are_wrong_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=r"is stored in .* bytes, but has 7"):
        Capture.open(forged(zipped(folder, tmp_path / "a.zip"), size=7))
    path = forged(zipped(folder, tmp_path / "b.zip", zipfile.ZIP_DEFLATED), crc=1)
    first = zipfile.ZipFile(path).infolist()[0].filename
    with pytest.raises(UnreadableError, match="CRC32 is"):
        read_aprt(path / first)


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "FREELY", 1 << 16)
    write_aprt(tmp_path / "c" / "final_norm.bin", None, np.zeros(1 << 20, np.float32))
    path = zipped(tmp_path / "c", tmp_path / "a.zip", zipfile.ZIP_DEFLATED)
    with pytest.raises(UnreadableError, match="unpack it yourself"):
        read_aprt(path / "final_norm.bin")
    overlapping = bytearray(zipped(tmp_path / "c", tmp_path / "b.zip").read_bytes())
    entry = overlapping[overlapping.index(b"PK\x01\x02") : overlapping.index(b"PK\x05\x06")]
    end = overlapping.index(b"PK\x05\x06")
    twice = overlapping[:end] + entry.replace(b"final_norm", b"other_norm") + overlapping[end:]
    struct.pack_into("<HHI", twice, end + len(entry) + 8, 2, 2, 2 * len(entry))
    (tmp_path / "c.zip").write_bytes(twice)
    with pytest.raises(UnreadableError, match="lies over other files"):
        Capture.open(tmp_path / "c.zip")


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_any_damage_is_an_error_of_one_line_or_none(folder: Path, tmp_path: Path, name: str) -> None:
    path = (zipped if name == "a.zip" else tarred)(folder, tmp_path / name)
    whole, generator = path.read_bytes(), np.random.default_rng(5)
    for _ in range(150):
        damaged = bytearray(whole)
        for at in generator.integers(0, len(whole), 8):
            damaged[at] = generator.integers(0, 256)
        path.write_bytes(damaged[: generator.integers(1, len(whole) + 1)] if generator.random() < 0.3 else damaged)
        try:
            capture = Capture.open(path)
            for node in capture.files:
                capture.values(node)
        except UnreadableError as error:
            assert "\n" not in str(error)


def test_zstd_is_read_where_it_can_be(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in that leaves the bytes as they are: the module itself is not needed for what is ours."""
    path = tmp_path / "a.tar.zst"
    tarred(folder, tmp_path / "a.tar").rename(path)
    plain = importlib.import_module

    def missing(name: str) -> Any:
        if "zst" in name:
            raise ImportError(name)
        return plain(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(EngineError, match=r"zstandard is not installed: pip install 'aprtui\[zstd\]'"):
        Capture.open(path)

    class Reader:
        def stream_reader(self, source: Any, read_across_frames: bool) -> Any:
            return io.BytesIO(source.read())

    stand_in = SimpleNamespace(ZstdDecompressor=Reader, ZstdError=RuntimeError)
    monkeypatch.setattr(importlib, "import_module", lambda name: stand_in if name == "zstandard" else missing(name))
    assert Capture.open(path).values(NODE).tobytes() == Capture.open(folder).values(NODE).tobytes()
