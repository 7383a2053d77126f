"""`aprtui export`: what other programs read is what the capture holds, bit for bit."""

from __future__ import annotations

import csv
import importlib
import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aprtui.trace.aprt import write_aprt
from aprtui.trace.archive import open_archive
from aprtui.trace.capture import PROVENANCE, Capture
from aprtui.trace.graph.stage import Node
from tests.cli.conftest import Outcome
from tests.compare.synthetic import write_capture

Run = Callable[..., Outcome]
NODE = Node(0, "attn_norm")
PAYLOAD = 0x7FC12345


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Of two layers and four tokens, with maps, a NaN that has a payload, an Inf and a negative zero."""
    path = tmp_path / "capture"
    generator = np.random.default_rng(3)
    for layer in range(2):
        rows = generator.normal(size=(4, 6)).astype(np.float32)
        rows.view(np.uint32)[1, 2] = PAYLOAD
        rows[2, 3:5] = np.inf, -0.0
        write_aprt(path / f"layer-{layer}" / "attn_norm.bin", layer, rows)
        maps = np.tril(generator.random((2, 4, 4))).astype(np.float32)
        write_aprt(path / f"layer-{layer}" / "attn_softmax.bin", layer, maps)
    write_aprt(path / "lm_head.bin", None, generator.normal(size=(1, 9)).astype(np.float32))
    (path / PROVENANCE).write_text("tokens: [5, 6, 7, 8]\nmodel: mine\n")
    return path


def test_arrays_are_those_of_the_capture(aprtui: Run, capture: Path, tmp_path: Path) -> None:
    done = aprtui("export", capture, "--out", tmp_path / "arrays")
    assert (done.code, done.out) == (0, f"{tmp_path / 'arrays'}: 5 stage tensors\n")
    opened = Capture.open(capture)
    for node in opened.files:
        name = node.stage if node.layer is None else f"layer-{node.layer}/{node.stage}"
        found = np.load(tmp_path / "arrays" / f"{name}.npy", allow_pickle=False)
        assert found.tobytes() == opened.values(node).tobytes()
        assert found.shape == opened.files[node].shape
    assert np.load(tmp_path / "arrays" / "tokens.npy").tolist() == [5, 6, 7, 8]


def test_arrays_can_be_imported_again(aprtui: Run, capture: Path, tmp_path: Path) -> None:
    assert aprtui("export", capture, "--out", tmp_path / "arrays").code == 0
    assert aprtui("import", tmp_path / "arrays", "--out", tmp_path / "again").code == 0
    plain, again = Capture.open(capture), Capture.open(tmp_path / "again")
    assert (again.tokens, again.files.keys()) == (plain.tokens, plain.files.keys())
    assert [again.values(node).tobytes() for node in plain.files] == [
        plain.values(node).tobytes() for node in plain.files
    ]


def read_safetensors(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def test_a_safetensors_file_has_layers_stages_and_positions_that_are_selected(
    aprtui: Run, capture: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    words = ("--layers", "1", "--stage", "attn_*,lm_head", "--tokens", "1..3")
    done = aprtui("export", capture, "--out", path, *words, "--json")
    assert json.loads(done.out) == {
        "record": "summary", "out": str(path), "format": "safetensors", "stage_tensors": 3
    }  # fmt: skip
    header, data = read_safetensors(path)
    assert list(header) == ["__metadata__", "tokens", "layer-1/attn_norm", "layer-1/attn_softmax", "lm_head"]
    assert header["__metadata__"]["model"] == "mine"

    def tensor(name: str, kind: str) -> np.ndarray[Any, Any]:
        begin, end = header[name]["data_offsets"]
        return np.frombuffer(data[begin:end], kind).reshape(header[name]["shape"])

    opened = Capture.open(capture)
    assert tensor("tokens", "<i8").tolist() == [6, 7]
    assert tensor("layer-1/attn_norm", "<f4").tobytes() == opened.values(Node(1, "attn_norm"))[1:3].tobytes()
    assert tensor("layer-1/attn_softmax", "<f4").tolist() == opened.values(Node(1, "attn_softmax"))[:, 1:3].tolist()
    assert tensor("lm_head", "<f4").shape == (0, 9), "logits are of the last position, which is not selected"
    assert header["lm_head"]["data_offsets"][1] == len(data)


def test_rows_have_every_value_with_its_bits(aprtui: Run, capture: Path, tmp_path: Path) -> None:
    assert aprtui("export", capture, "--out", tmp_path / "a.jsonl").code == 0
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    opened = Capture.open(capture)
    assert len(rows) == 2 * (24 + 2 * 10) + 9
    for row in rows:
        values = opened.values(Node(row["layer"], row["stage"]))
        at = (row["token"], row["column"]) if row["head"] is None else (row["head"], row["token"], row["column"])
        value = values[(0, at[1]) if row["stage"] == "lm_head" else at]
        assert row["bits"] == int(value.view(np.uint32))
        assert row["value"] is None if not np.isfinite(value) else np.float32(row["value"]) == value
    assert {row["bits"] for row in rows if row["value"] is None} == {PAYLOAD, 0x7F800000}
    assert {row["token"] for row in rows if row["stage"] == "lm_head"} == {3}
    done = aprtui("export", capture, "--out", "-", "--stage", "attn_norm", "--layers", "0")
    table = list(csv.DictReader(io.StringIO(done.out)))
    assert len(table) == 24
    assert [int(row["bits"]) for row in table] == [row["bits"] for row in rows[:24]]
    assert (table[8]["value"], table[16]["value"]) == ("", "-0.0")


@pytest.mark.parametrize("manifest", [True, False])
def test_a_zip_is_the_capture_and_its_values_are_mapped(
    aprtui: Run, capture: Path, tmp_path: Path, manifest: bool
) -> None:
    source = write_capture(tmp_path / "stated") if manifest else capture
    assert aprtui("export", source, "--out", tmp_path / "a.zip").code == 0
    plain, packed = Capture.open(source), Capture.open(tmp_path / "a.zip")
    assert (packed.manifest, packed.tokens, packed.warnings) == (plain.manifest, plain.tokens, plain.warnings)
    for node in plain.files:
        assert packed.values(node).tobytes() == plain.values(node).tobytes()
    archive = open_archive(tmp_path / "a.zip")
    for name in archive.members:
        part = archive.open(name)
        io.FileIO(part.descriptor).close()
        assert name.endswith((".json", ".txt")) or part.offset % 4 == 0
    assert aprtui("diff", source, tmp_path / "a.zip").code == 0
    some = tmp_path / "some.zip"
    first = next(iter(plain.files))
    assert aprtui("export", tmp_path / "a.zip", "--out", some, "--stage", first.stage, "--layers", "0").code == 0
    assert list(Capture.open(some).files) == [first]
    assert Capture.open(some).warnings == ()


def test_a_damaged_stage_is_not_passed_on(aprtui: Run, tmp_path: Path) -> None:
    source = write_capture(tmp_path / "stated")
    file = next(source.glob("layer-0/*.bin"))
    file.write_bytes(file.read_bytes()[:-4])
    done = aprtui("export", source, "--out", tmp_path / "a.zip")
    assert (done.code, "truncated" in done.err) == (3, True)
    assert [path.name for path in tmp_path.iterdir()] == ["stated"]


def test_zstd_needs_its_module(aprtui: Run, capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = importlib.import_module

    def stood_in(name: str) -> Any:
        if "zst" in name:
            raise ImportError(name)
        return plain(name)

    monkeypatch.setattr(importlib, "import_module", stood_in)
    done = aprtui("export", capture, "--out", tmp_path / "a.tar.zst")
    assert (done.code, "pip install 'aprtui[zstd]'" in done.err) == (4, True)

    class Plain:
        def stream_writer(self, file: Any, closefd: bool) -> Any:
            return io.BufferedRandom(io.FileIO(file.fileno(), "r+", closefd=False))

    module = SimpleNamespace(ZstdCompressor=Plain)
    monkeypatch.setattr(importlib, "import_module", lambda name: module if name == "zstandard" else stood_in(name))
    assert aprtui("export", capture, "--out", tmp_path / "a.tar.zst").code == 0
    monkeypatch.undo()
    (tmp_path / "a.tar.zst").rename(tmp_path / "a.tar")
    assert tarfile.is_tarfile(tmp_path / "a.tar")
    assert Capture.open(tmp_path / "a.tar").values(NODE).tobytes() == Capture.open(capture).values(NODE).tobytes()


def test_a_comparison_becomes_a_table(
    aprtui: Run, capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_capture(tmp_path / "other")
    records = aprtui("diff", other, other, "--json").out
    (tmp_path / "d.jsonl").write_text(records)
    assert aprtui("export", tmp_path / "d.jsonl", "--out", tmp_path / "d.csv").code == 0
    with open(tmp_path / "d.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    compared = [json.loads(line) for line in records.splitlines() if '"record": "comparison"' in line]
    assert [(row["layer"], row["stage"]) for row in rows if row["record"] == "comparison"] == [
        ("" if entry["layer"] is None else str(entry["layer"]), entry["stage"]) for entry in compared
    ]
    assert {row["verdict"] for row in rows} >= {"PASS"} and rows[0]["path_a"] == str(other)
    monkeypatch.setattr(sys, "stdin", io.StringIO(records))
    done = aprtui("export", "-", "--out", "-", "--format", "jsonl")
    assert len(done.out.splitlines()) == len(rows)
    kinds = {name: {type(json.loads(line)[name]) for line in done.out.splitlines()} - {type(None)} for name in rows[0]}
    assert all(len(found) <= 1 for found in kinds.values()), kinds


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--out", "x.zip", "--tokens", "0"], 2, "a capture as .zip has all of its tokens"),
        (["--out", "-", "--format", "npy"], 2, "npy does not go to stdout"),
        (["--out", "x.csv", "--stage", "nosuch"], 2, "this model has no stage 'nosuch'"),
        (["--out", "x.csv", "--layers", "9"], 2, "selects none of the 2 layers"),
        (["--out", "x.csv", "--tokens", "9"], 2, "selects none of the 4 tokens"),
        (["--out", "there.csv"], 2, "is there: choose another name"),
        (["--out", "."], 2, "is there and not empty"),
        (["--out", "x.npz"], 2, "no format has the suffix .npz: expected one of npy, "),
        (["--out", "there.csv/x.csv"], 4, "cannot be written"),
    ],
)
def test_what_cannot_be_is_one_line(
    aprtui: Run, capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int,
    message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.csv").write_text("")
    done = aprtui("export", capture, *words)
    assert done.code == code and message in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize(
    ("text", "message"), [("", "is empty"), ("x\n", "line 1: not JSON"), ('{"record": "summary"}\n', "no header")]
)
def test_what_is_no_comparison_is_refused(aprtui: Run, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "d.jsonl").write_text(text)
    done = aprtui("export", tmp_path / "d.jsonl", "--out", tmp_path / "d.csv")
    assert done.code == 3 and message in done.err
    done = aprtui("export", tmp_path / "d.jsonl", "--out", tmp_path / "d.zip")
    assert done.code == 2 and "a comparison is a table" in done.err


@pytest.mark.group("zstandard")
def test_an_archive_by_the_real_zstandard_is_read_back_bit_for_bit(aprtui: Run, capture: Path, tmp_path: Path) -> None:
    zstandard = importlib.import_module("zstandard")
    packed = tmp_path / "a.tar.zst"
    assert aprtui("export", capture, "--out", packed).code == 0
    found, own = Capture.open(packed), Capture.open(capture)
    assert found.tokens == own.tokens
    for node in own.files:
        assert found.values(node).tobytes() == own.values(node).tobytes()
    # Several frames one behind the other, as `zstd` and `pzstd` write them, are one file; a cut one is refused.
    tar = zstandard.ZstdDecompressor().stream_reader(packed.read_bytes()).read()
    half = len(tar) // 2
    frames = [
        zstandard.ZstdCompressor(level=19, write_checksum=True).compress(part) for part in (tar[:half], tar[half:])
    ]
    packed.write_bytes(b"".join(frames))
    assert Capture.open(packed).values(NODE).tobytes() == own.values(NODE).tobytes()
    packed.write_bytes(frames[0][:-9])
    assert aprtui("stats", packed).code == 3
