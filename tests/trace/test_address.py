"""Captures on other machines: read by ranges, written whole or recognised as incomplete, errors in one line."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprtui.model import header_reader
from aprtui.model.open_file import open_model_file
from aprtui.sweep.report.page import write_page
from aprtui.sweep.results import RESULTS, ResultRow, read_rows, write_rows
from aprtui.trace import address
from aprtui.trace.address import Address, place
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.cli.conftest import Outcome
from tests.cli.conftest import aprtui as aprtui
from tests.importing.dumps import Ours, ours
from tests.model.apr_files import apr_model

pytestmark = pytest.mark.group("fsspec")

Command = Callable[..., Outcome]


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Ours:
    return ours(tmp_path_factory.mktemp("qwen2"))


@pytest.fixture
def memory() -> Iterator[Any]:
    """The file system of `memory://`, empty."""
    import fsspec

    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    address._SEEN.clear()
    yield files
    files.store.clear()


@pytest.fixture
def stored(memory: Any, qwen2: Ours) -> str:
    """Our capture at an address."""
    memory.put(str(qwen2.capture.path), "/bucket/own", recursive=True)
    return "memory://bucket/own"


def test_an_address_is_a_path_that_keeps_its_scheme() -> None:
    address = place("s3://bucket/a/b.bin")
    assert isinstance(address, Address) and str(address) == "s3://bucket/a/b.bin"
    assert str(address.parent / "c") == "s3://bucket/a/c" and address.name == "b.bin"
    assert address.parent == place("s3://bucket/a") and address.absolute() is address
    assert f"{place('sftp://me:secret@host/a')}" == "sftp://me:…@host/a", "messages are read by others"
    assert not isinstance(place("a/b"), Address) and not isinstance(place("c:/x"), Address)


def test_a_capture_at_an_address_is_the_same_capture(stored: str, qwen2: Ours) -> None:
    capture = Capture.open(place(stored))
    assert capture.manifest == qwen2.capture.manifest and set(capture.files) == set(qwen2.capture.files)
    for node in capture.files:
        own = qwen2.values(node.layer, node.stage)
        assert np.array_equal(capture.values(node).view(np.uint32), own.view(np.uint32)), node


def test_a_capture_without_a_manifest_is_the_same_at_an_address(
    stored: str, memory: Any, qwen2: Ours, tmp_path: Path
) -> None:
    memory.rm_file("/bucket/own/manifest.json")
    shutil.copytree(qwen2.capture.path, tmp_path / "own")
    (tmp_path / "own" / "manifest.json").unlink()
    here, there = Capture.open(tmp_path / "own"), Capture.open(place(stored))
    assert there.files.keys() == here.files.keys() and there.token_count == here.token_count
    assert not there.warnings and not here.warnings


def test_opening_and_statistics_touch_no_stage_file(
    stored: str, memory: Any, monkeypatch: pytest.MonkeyPatch, aprtui: Command
) -> None:
    asked: list[str] = []
    real = type(memory).cat_file

    def cat_file(self: Any, path: str, **options: Any) -> Any:
        asked.append(path)
        return real(self, path, **options)

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    done = aprtui("stats", stored)
    assert done.code == 0 and "ffn_swigl" in done.out, done
    assert {path.rpartition("/")[2] for path in asked} == {"manifest.json"}
    node = Node(1, "ffn_norm")
    capture = Capture.open(place(stored))
    asked.clear()
    first, second = capture.values(node), capture.values(node)
    assert np.array_equal(first, second)
    assert asked == ["/bucket/own/layer-1/ffn_norm.bin"], "fetched once"


@pytest.mark.parametrize("name", ["own", "own.zip"])
def test_what_was_found_is_read_without_another_question(
    stored: str, memory: Any, aprtui: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A question is a request to another machine: a replay reads its stage files hundreds of times."""
    if name.endswith(".zip"):
        assert aprtui("export", stored, "--out", "memory://bucket/own.zip").code == 0
    capture = Capture.open(place(f"memory://bucket/{name}"))
    asked: list[str] = []
    for question in ("info", "ls", "find"):
        monkeypatch.setattr(type(memory), question, lambda self, path, *words, **options: asked.append(path))
    for node in capture.files:
        assert np.isfinite(capture.values(node)).all()
    assert not asked


def test_commands_take_addresses(stored: str, qwen2: Ours, aprtui: Command, tmp_path: Path) -> None:
    assert aprtui("diff", stored, qwen2.capture.path).code == 0
    judged = aprtui("diff", qwen2.capture.path, stored, "--html", "memory://bucket/report.html", "--json")
    assert judged.code == 0 and place("memory://bucket/report.html").is_file()
    value = aprtui("stats", stored, "--stage", "ffn_norm", "--layers", "0", "--values", "3,5")
    assert value.code == 0 and str(qwen2.values(0, "ffn_norm")[3, 5]) in value.out, value
    assert aprtui("export", stored, "--out", tmp_path / "own.zip").code == 0
    assert aprtui("diff", tmp_path / "own.zip", stored).code == 0


@pytest.mark.parametrize("name", ["own.zip", "own.tar.zst"])
def test_an_archive_at_an_address_is_read_where_it_lies(
    stored: str, memory: Any, qwen2: Ours, aprtui: Command, name: str
) -> None:
    if name.endswith("zst"):
        pytest.importorskip("zstandard")
    target = f"memory://bucket/{name}"
    assert aprtui("export", stored, "--out", target).code == 0
    capture = Capture.open(place(target))
    assert set(capture.files) == set(qwen2.capture.files)
    assert np.array_equal(capture.values(Node(0, "ffn_norm")), qwen2.values(0, "ffn_norm"))
    assert aprtui("diff", target, qwen2.capture.path).code == 0


def test_a_capture_is_written_whole_or_recognised_as_incomplete(
    memory: Any, qwen2: Ours, aprtui: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("trace", qwen2.model.path, "--tokens", "1,2,3", "--backend", "numpy", "--save-tensor-dir")
    done = aprtui(*words, "memory://bucket/new")
    assert done.code == 0, done
    capture = Capture.open(place("memory://bucket/new"))
    assert capture.complete and capture.tokens == (1, 2, 3) and not capture.warnings
    again = aprtui(*words, "memory://bucket/new")
    assert again.code == 2 and "is not empty" in again.err
    real, written = type(memory).put_file, 0

    def put_file(self: Any, source: str, path: str, **options: Any) -> Any:
        nonlocal written
        written += 1
        if written > 5:
            raise ConnectionResetError(104, "Connection reset by peer")
        return real(self, source, path, **options)

    monkeypatch.setattr(type(memory), "put_file", put_file)
    cut = aprtui(*words, "memory://bucket/cut")
    assert cut.code == 4 and "cannot be written: " in cut.err and "Connection reset" in cut.err, cut
    assert Capture.open(place("memory://bucket/cut")).complete is False
    cut = aprtui(*words, "memory://bucket/new", "--overwrite")
    assert cut.code == 4 and Capture.open(place("memory://bucket/new")).complete is False
    monkeypatch.undo()
    assert aprtui(*words, "memory://bucket/new", "--overwrite", "--save-tensor", "ffn_norm").code == 0
    capture = Capture.open(place("memory://bucket/new"))
    assert capture.complete and not capture.stale and {node.stage for node in capture.files} == {"ffn_norm"}


def test_what_nobody_answers_is_one_line_and_no_verdict(
    stored: str, memory: Any, aprtui: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = aprtui("diff", stored, "memory://bucket/nothing")
    assert done.code == 3 and "memory://bucket/nothing: does not exist" in done.err and len(done.told) == 1, done
    done = aprtui("stats", "nowhere://bucket/own")
    assert done.code == 3 and "expected s3://, gs://, sftp:// or memory://" in done.err and len(done.told) == 1

    def cut(self: Any, path: str, **options: Any) -> Any:
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(type(memory), "cat_file", cut)
    done = aprtui("diff", stored, stored)
    assert done.code == 3 and "Connection reset by peer: check the address and the connection" in done.err, done
    assert len(done.told) == 1


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("sftp", "paramiko"), ("s3", "s3fs")])
def test_what_fsspec_needs_for_a_scheme_is_named_where_it_is_missing(
    aprtui: Command, monkeypatch: pytest.MonkeyPatch, scheme: str, package: str
) -> None:
    """Of fsspec itself: its modules of these schemes are imported, and what they import is not there."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.sftp", raising=False)
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, scheme, raising=False)
    done = aprtui("stats", f"{scheme}://host/own")
    assert done.code == 4 and f"{package} is not installed: pip install {package}" in done.err, done
    assert len(done.told) == 1


def test_fsspec_is_imported_for_addresses_only(qwen2: Ours) -> None:
    import subprocess
    import sys

    script = (
        "import sys, pathlib; from aprtui.trace.capture import Capture; "
        f"Capture.open(pathlib.Path({str(qwen2.capture.path)!r})); sys.exit('fsspec' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.fixture
def model_there(memory: Any, qwen2: Ours) -> str:
    """The model of our capture at an address."""
    memory.put_file(str(qwen2.model.path), "/bucket/qwen2.gguf")
    return "memory://bucket/qwen2.gguf"


def test_of_a_model_at_an_address_the_header_is_fetched_and_no_weights(
    memory: Any, model_there: str, qwen2: Ours, aprtui: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = 0
    real = type(memory).cat_file

    def cat_file(self: Any, path: str, **options: Any) -> Any:
        nonlocal fetched
        data = real(self, path, **options)
        fetched += len(data)
        return data

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    monkeypatch.setattr(header_reader, "_CHUNK", 1000)
    there, here = aprtui("info", model_there), aprtui("info", qwen2.model.path)
    assert there.code == 0, there
    assert there.out.replace(model_there, "") == here.out.replace(str(qwen2.model.path), "")
    part = open_model_file(qwen2.model.path)
    first = min(part.location(entry)[1] for entry in part.tensors.values())
    assert fetched < first + 1000 + 4 < qwen2.model.size / 2


def test_what_needs_weights_says_to_copy_the_model(
    model_there: str, stored: str, aprtui: Command, tmp_path: Path
) -> None:
    words = (
        ("run", model_there, "-p", "x"), ("trace", model_there, "--tokens", "1"), ("stats", model_there),
        ("replay", stored, "--model", model_there), ("qa", model_there),
    )  # fmt: skip
    for each in words:
        done = aprtui(*each)
        said = f"{model_there}: weights are read from local files only: copy the model here first"
        assert done.code == 3 and said in done.err and len(done.told) == 1, done
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    np.save(arrays / "layer0.norm.npy", np.zeros((12, 256), np.float32))
    (tmp_path / "map.yaml").write_text('stages: {attn_norm: "layer{layer}.norm"}')
    words_of_import = ("import", arrays, "--map", tmp_path / "map.yaml", "--model", model_there)
    assert aprtui(*words_of_import, "--out", tmp_path / "made").code == 0, "its header tells the stages"


def test_an_apr_model_at_an_address_is_read_as_one_here(
    memory: Any, qwen2: Ours, aprtui: Command, tmp_path: Path
) -> None:
    path = apr_model(qwen2.model.path).write(tmp_path / "qwen2.apr")
    memory.put_file(str(path), "/bucket/qwen2.apr")
    there, here = aprtui("info", "memory://bucket/qwen2.apr"), aprtui("info", path)
    assert there.code == 0, there
    assert there.out.replace("memory://bucket", str(tmp_path)) == here.out


@pytest.mark.group("transformers")
@pytest.mark.parametrize("layout", ["apr", "hf"])
def test_an_oracle_writes_to_an_address(memory: Any, qwen2: Ours, aprtui: Command, layout: str) -> None:
    words = ("oracle", "hf", qwen2.model.path, "--tokens", "1,2,3", "--layout", layout)
    there = "memory://bucket/theirs"
    done = aprtui(*words, "--out", there)
    assert done.code == 0 and f"--model {qwen2.model.path}" in done.err and there in done.out, done
    capture = Capture.open(place(there))
    assert capture.tokens == (1, 2, 3) and Node(1, "ffn_out") in capture.files
    assert "is not empty" in aprtui(*words, "--out", there).err


def test_the_tables_of_a_sweep_go_to_an_address(memory: Any) -> None:
    pytest.importorskip("pyarrow")
    there = place("memory://bucket/night")
    values = {
        field.name: {"str": "x", "int": 1, "float": 0.5}[str(field.type).split()[0]] for field in fields(ResultRow)
    }
    row = ResultRow(**{**values, "verdict": "FAIL", "error": float("inf")})  # type: ignore[arg-type]  # by its types
    write_rows(there, RESULTS, ResultRow, [row])
    write_page(there, "night", [row], [])
    assert list(read_rows(there, RESULTS, ResultRow)) == [row]
    assert {path.name for path in there.iterdir()} == {"results.jsonl", "results.parquet", "index.html"}


def test_what_takes_local_paths_alone_refuses_an_address_in_a_line(memory: Any, aprtui: Command) -> None:
    there = "memory://bucket/x"
    for words in (
        ("import", there, "--out", "y"), ("ranks", there), ("sweep", there), ("sweep", "plan.yaml", "--out", there),
        ("record", "torch", "--tokens", "1", "--out", there), ("run", "-p", "x", "--record", there),
        ("scan", "--tokens", "1", "--out", there), ("open", there),
    ):  # fmt: skip
        done = aprtui(*words)
        assert done.code == 2 and len(done.told) == 1, done
        assert done.told[0].startswith(f"aprtui: {there}: ")
        assert ("--results" if "--out" in words and words[0] == "sweep" else "copy") in done.told[0]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a bucket on a local S3 server."""
    import boto3
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="bucket")
    yield "s3://bucket"
    server.stop()


@pytest.mark.slow
@pytest.mark.group("s3")
def test_commands_take_a_bucket(s3: str, qwen2: Ours, aprtui: Command) -> None:
    words = ("trace", qwen2.model.path, "--tokens", "1,2,3", "--backend", "numpy", "--save-tensor-dir")
    for name in ("one", "two"):
        assert aprtui(*words, f"{s3}/runs/{name}").code == 0
    assert aprtui("diff", f"{s3}/runs/one", f"{s3}/runs/two").code == 0
    assert aprtui("stats", f"{s3}/runs/one").code == 0
    assert aprtui("replay", f"{s3}/runs/one", "--model", qwen2.model.path, "--backend", "numpy").code == 0
    assert aprtui("export", f"{s3}/runs/one", "--out", f"{s3}/one.zip").code == 0
    assert aprtui("diff", f"{s3}/one.zip", f"{s3}/runs/two").code == 0
    missing = aprtui("stats", "s3://no-such-bucket/own")
    assert missing.code == 3 and len(missing.told) == 1, missing


@pytest.mark.slow
@pytest.mark.group("sftp")
def test_commands_take_a_server_of_sftp(qwen2: Ours, aprtui: Command, tmp_path: Path) -> None:
    from tests.trace.sftp_server import PASSWORD, serving

    with serving(tmp_path) as there:
        words = ("trace", qwen2.model.path, "--tokens", "1,2,3", "--backend", "numpy", "--save-tensor-dir")
        done = aprtui(*words, f"{there}/runs/one")
        assert done.code == 0, done
        assert Capture.open(tmp_path / "runs" / "one").complete
        assert aprtui("diff", f"{there}/runs/one", tmp_path / "runs" / "one").code == 0
        assert aprtui("export", f"{there}/runs/one", "--out", f"{there}/new/one.zip").code == 0
        assert aprtui("stats", f"{there}/new/one.zip").code == 0
        assert aprtui(*words, f"{there}/runs/one", "--overwrite", "--save-tensor", "ffn_norm").code == 0
        assert {node.stage for node in Capture.open(tmp_path / "runs" / "one").files} == {"ffn_norm"}
        missing = aprtui("stats", f"{there}/runs/none")
        assert missing.code == 3 and len(missing.told) == 1 and "does not exist" in missing.err, missing
        refused = aprtui("stats", f"{there.replace(PASSWORD, 'wrong')}/runs/one")
        assert refused.code == 3 and len(refused.told) == 1 and "check the credentials" in refused.err, refused
    gone = aprtui("stats", f"{there}/runs/one")
    assert gone.code == 3 and len(gone.told) == 1 and "check the address and the connection" in gone.err, gone


def test_a_local_folder_of_the_same_name_is_still_local(tmp_path: Path, qwen2: Ours, aprtui: Command) -> None:
    shutil.copytree(qwen2.capture.path, tmp_path / "s3:")
    assert aprtui("stats", tmp_path / "s3:").code == 0
