"""Recordings: the writer of the document, what is refused, and that each refusal is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprtui.compare.verdict import Verdict
from aprtui.errors import UnreadableError, UsageError
from aprtui.recordings.format import DATA_NAME, FILE_NAME, OpGraph, OpSet, RecordedEngine, RecordingHeader
from aprtui.recordings.reading import Recording, is_recording
from aprtui.recordings.writing import RecordingWriter, require_free
from tests.recordings.made import documented_code, edited, recorded, replayed


@pytest.fixture
def documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recording that the code in the document makes."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in documented_code():
        exec(block, names)  # noqa: S102 - this project's own document
    return tmp_path / "recorded"


def test_the_documented_writer_is_short_and_its_recording_passes(documented: Path) -> None:
    assert sum(len(block.splitlines()) for block in documented_code()) <= 60
    replay = replayed(documented)
    assert replay.verdict is Verdict.PASS
    assert [result.op for result in replay.results] == ["GET_ROWS", "RMS_NORM", "MUL", "MUL_MAT"]
    assert str(replay.results[-1].name) == "layer 0 qkv_matmul (Qcur-0)"


def test_an_op_that_got_its_parameter_wrong_is_named(documented: Path) -> None:
    edited(documented, lambda d: d["graphs"][0]["nodes"][1]["params"].update(epsilon=1e-2))
    replay = replayed(documented)
    assert replay.verdict is Verdict.FAIL
    assert replay.first is not None
    assert replay.first.op == "RMS_NORM"
    assert sum(result.verdict is Verdict.FAIL for result in replay.results) == 1


def test_an_op_that_is_not_modelled_is_unknown_and_counted(documented: Path) -> None:
    edited(documented, lambda d: d["graphs"][0]["nodes"][2].update(op="SECRET"))
    replay = replayed(documented)
    assert replay.verdict is Verdict.UNKNOWN
    assert dict(replay.unknown) == {"op SECRET is not modelled": 1}
    assert replayed(documented, allowed=("SEC*",)).verdict is Verdict.PASS


def test_an_unfinished_run_is_unknown(documented: Path) -> None:
    edited(documented, lambda d: d.update(complete=False))
    assert replayed(documented).verdict is Verdict.UNKNOWN


def graph(**fields: Any) -> Callable[[dict[str, Any]], None]:
    """An edit of one field of the graph, `part__index__field=value`."""

    def edit(document: dict[str, Any]) -> None:
        for path, value in fields.items():
            *parents, last = path.split("__")
            at: Any = document["graphs"][0]
            for part in parents:
                at = at[int(part) if part.isdecimal() else part]
            at[last] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda d: d.update(version=2), "version 2, this program reads 1"),
        (lambda d: d.update(format="else"), 'expected a JSON object with "format"'),
        (lambda d: d.update(graphs=[]), "expected a list of at least one graph"),
        (lambda d: d.update(ops="onnx"), "field ops is 'onnx'"),
        (lambda d: d.update(tokens=[1]), "of more tokens than the 1"),
        (graph(tensors__0__offset=1), "tensors[0]: ends at byte"),
        (graph(tensors__0__offset=-4), "expected int"),
        (graph(tensors__0__shape=[1 << 60, 64]), "tensors[0]: ends at byte"),
        (graph(tensors__0__type="q9"), "type 'q9' is not known"),
        (graph(tensors__0__root=99), "root 99 of 8"),
        (graph(tensors__0__strides=[4]), "with strides [4]"),
        (graph(roots__0__blob=[0, 1 << 50]), "does not lie in data.bin"),
        (graph(roots__0__bytes=12), "its blob has 2560 bytes, expected 12"),
        (graph(roots__4__bytes=1 << 40), "more than data.bin has"),
        (graph(roots__4__kind="input"), "an input without a blob"),
        (graph(roots__4__kind="state"), "no root of the graph before"),
        (graph(nodes__0__sources=[99]), "a tensor beyond the 8 there are"),
        (graph(nodes__0__outputs=[]), "0 outputs with 1 blobs"),
        (graph(nodes__0__sources=[7, 3]), "which nothing has written before"),
        (graph(nodes__0__blobs=[[0, 12]]), "a blob of 12 bytes, expected 768"),
    ],
)
def test_what_is_not_as_it_should_be_is_refused_in_one_line(
    documented: Path, edit: Callable[[dict[str, Any]], None], problem: str
) -> None:
    with pytest.raises(UnreadableError) as error:
        Recording.open(edited(documented, edit))
    assert problem in str(error.value)
    assert FILE_NAME in str(error.value)
    assert "\n" not in str(error.value)


def test_a_data_file_that_is_a_link_is_refused(documented: Path) -> None:
    (documented / DATA_NAME).rename(documented / "elsewhere")
    (documented / DATA_NAME).symlink_to(documented / "elsewhere")
    with pytest.raises(UnreadableError, match="is a link"):
        Recording.open(documented)


def test_what_is_no_json_is_refused(documented: Path) -> None:
    (documented / FILE_NAME).write_text("[" * 100_000)
    with pytest.raises(UnreadableError, match="not JSON"):
        Recording.open(documented)
    assert not is_recording(documented.parent)
    with pytest.raises(UnreadableError, match="no recording there"):
        Recording.open(documented.parent)


def test_indices_beyond_a_tensor_are_refused(tmp_path: Path) -> None:
    values, ids = np.ones((4, 8), np.float32), np.array([9], np.int32)
    replay = replayed(recorded(tmp_path, "GET_ROWS", values[:1], values, ids))
    assert replay.verdict is Verdict.UNKNOWN
    assert "IndexError" in next(iter(replay.unknown))


def test_a_writer_keeps_what_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(UsageError, match="of no recording"):
        require_free(tmp_path, overwrite=True)
    (tmp_path / "model.gguf").rename(tmp_path / FILE_NAME)
    with pytest.raises(UsageError, match="--overwrite"):
        require_free(tmp_path, overwrite=False)
    require_free(tmp_path, overwrite=True)


def test_a_run_that_broke_off_before_its_first_graph_leaves_nothing(tmp_path: Path) -> None:
    header = RecordingHeader(RecordedEngine("test", "1", "cpu"), OpSet.GGML, (1, 2))
    RecordingWriter(tmp_path / "made", header).close()
    assert not (tmp_path / "made").exists()


def test_a_run_that_breaks_off_leaves_the_graphs_that_are_whole(tmp_path: Path) -> None:
    header = RecordingHeader(RecordedEngine("test", "1", "cpu"), OpSet.GGML, (1, 2))
    writer = RecordingWriter(tmp_path / "made", header)
    writer.add(OpGraph("prefill", 0, 1, (), (), ()))
    writer.close()
    recording = Recording.open(tmp_path / "made")
    assert not recording.header.complete
    assert len(recording.graphs) == 1
    assert json.loads((tmp_path / "made" / FILE_NAME).read_text())["version"] == 1
