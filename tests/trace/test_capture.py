"""Capture directories: written whole or recognisably not, read with a manifest or without."""

from __future__ import annotations

import json
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aprtui.errors import EngineError, UnreadableError, UsageError
from aprtui.trace.aprt import SMALL_VALUES, read_aprt, write_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.ops import Axis
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import graph_for
from aprtui.trace.manifest import EngineInfo, Manifest, ModelInfo, read_manifest
from aprtui.trace.stats import accumulate, causal
from aprtui.trace.writer import CaptureWriter, planned_files

CONFIG = GraphConfig("qwen2", 2, 8, 2, 1, 4, 12, 16, qkv_bias=True)
GRAPH = graph_for(CONFIG)
TOKENS = (3, 1, 4, 1, 5)


def planned(tokens: int = len(TOKENS), logits: int = 1) -> Manifest:
    return Manifest(
        model=ModelInfo("tiny", "ab" * 32, "qwen2", "Q4_K_M"),
        graph=CONFIG,
        engine=EngineInfo("test", "0", "cpu", "none", "none", "exact", {"kv_cache": "f32"}),
        tokens=TOKENS,
        positions=tuple(range(len(TOKENS))),
        text="x",
        prompt_tokens=len(TOKENS),
        prefill_tokens=len(TOKENS),
        logits="last",
        files=planned_files(GRAPH, GRAPH.nodes, tokens, logits),
    )


def tensor(node: Node, tokens: int = len(TOKENS)) -> np.ndarray:
    shape = GRAPH[node.stage].shape(tokens)
    values = np.random.default_rng(GRAPH.order[node]).standard_normal(shape).astype(np.float32)
    return np.tril(values) if len(shape) == 3 else values


def feed(writer: CaptureWriter, steps: list[int], logits_last: bool = True) -> None:
    """Hand out all nodes in passes of `steps` positions each."""
    position = 0
    for count in steps:
        for node in GRAPH.nodes:
            whole, end = tensor(node), position + count
            if GRAPH[node.stage].is_attention_map:
                writer.put(node, position, whole[:, position:end, :end], None)
            elif Axis.VOCABULARY in GRAPH[node.stage].axes and logits_last:
                writer.put(node, end - 1, whole[end - 1 : end], None)
            else:
                writer.put(node, position, whole[position:end], None)
        position += count


@pytest.mark.parametrize("steps", [[5], [3, 2], [4, 1], [1, 1, 1, 1, 1]])
def test_capture_reads_back_however_it_was_streamed(tmp_path: Path, steps: list[int]) -> None:
    writer = CaptureWriter(tmp_path / "c", planned())
    feed(writer, steps)
    final = writer.finish(planned())
    capture = Capture.open(tmp_path / "c")
    assert capture.complete
    assert capture.tokens == TOKENS
    assert set(capture.files) == set(GRAPH.nodes)
    for name, info in final.files.items():
        expected = tensor(info.node)
        if Axis.VOCABULARY in GRAPH[info.stage].axes:
            expected = expected[-1:]
        assert np.array_equal(capture.values(info.node), expected)
        path = tmp_path / "c" / name
        assert path.stat().st_size == info.bytes
        assert zlib.crc32(path.read_bytes()) == info.crc32
        counted = causal(expected) if expected.ndim == 3 else expected
        written, recomputed = info.stats, accumulate(counted).finish()
        assert written is not None
        assert (written.count, written.min, written.max) == (recomputed.count, recomputed.min, recomputed.max)
        assert written.rms == pytest.approx(recomputed.rms, rel=1e-12)


def test_pieces_are_those_of_the_manifest_and_none_where_they_are_not_one_a_token(tmp_path: Path) -> None:
    texts = ("def", " f", "\n", "\\xe2", "€")
    for name, pieces, expected in (("with", texts, texts), ("without", None, None), ("fewer", texts[1:], None)):
        writer = CaptureWriter(tmp_path / name, replace(planned(), pieces=pieces))
        feed(writer, [5])
        writer.finish(replace(planned(), pieces=pieces))
        assert Capture.open(tmp_path / name).pieces == expected
    path = tmp_path / "with" / "manifest.json"
    document = json.loads(path.read_text())
    del document["pieces"]
    path.write_text(json.dumps(document))
    capture = Capture.open(tmp_path / "with")
    assert capture.pieces is None and capture.tokens == TOKENS, "a manifest of an older release"
    path.write_text(json.dumps({**document, "pieces": [1, 2]}))
    with pytest.raises(UnreadableError, match=r"pieces\[0\]"):
        Capture.open(tmp_path / "with")


def test_all_logits_are_kept_when_planned(tmp_path: Path) -> None:
    writer = CaptureWriter(tmp_path / "c", planned(logits=len(TOKENS)))
    feed(writer, [3, 2], logits_last=False)
    writer.finish(planned())
    head = Node(None, "lm_head")
    assert np.array_equal(Capture.open(tmp_path / "c").values(head), tensor(head))


def test_fewer_tokens_than_planned_shorten_the_files(tmp_path: Path) -> None:
    writer = CaptureWriter(tmp_path / "c", planned(tokens=9))
    feed(writer, [2, 3])
    final = writer.finish(planned(tokens=9))
    capture = Capture.open(tmp_path / "c")
    for name, info in final.files.items():
        expected = tensor(info.node)[-1:] if Axis.VOCABULARY in GRAPH[info.stage].axes else tensor(info.node)
        assert np.array_equal(capture.values(info.node), expected)
        assert zlib.crc32((tmp_path / "c" / name).read_bytes()) == info.crc32


def test_dead_capture_reads_as_incomplete_and_its_files_as_broken(tmp_path: Path) -> None:
    writer = CaptureWriter(tmp_path / "c", planned())
    feed(writer, [3])
    writer.close()
    capture = Capture.open(tmp_path / "c")
    assert capture.complete is False
    assert any("not finished" in warning for warning in capture.warnings)
    for entry in capture.files.values():
        with pytest.raises(UnreadableError, match="magic"):
            read_aprt(entry.path)


def test_finish_refuses_a_capture_with_missing_positions(tmp_path: Path) -> None:
    writer = CaptureWriter(tmp_path / "c", planned())
    feed(writer, [3])
    with pytest.raises(EngineError, match="got 3 of 5 positions"):
        writer.finish(planned())
    writer.close()


def test_non_empty_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        CaptureWriter(tmp_path, planned())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_overwrite_removes_what_the_capture_owns_and_nothing_else(tmp_path: Path) -> None:
    writer = CaptureWriter(tmp_path / "c", planned())
    feed(writer, [5])
    writer.finish(planned())
    (tmp_path / "c" / "notes.txt").write_text("mine")
    (tmp_path / "c" / "layer-7").mkdir()
    write_aprt(tmp_path / "c" / "layer-7" / "ffn_out.bin", 7, np.zeros(2, np.float32))
    few = replace(planned(), files=planned_files(GRAPH, [Node(0, "ffn_out")], 5, 1))
    CaptureWriter(tmp_path / "c", few, overwrite=True).close()
    left = {str(path.relative_to(tmp_path / "c")) for path in (tmp_path / "c").rglob("*") if path.is_file()}
    assert left == {"notes.txt", "manifest.json", "layer-0/ffn_out.bin"}


def test_capture_larger_than_the_free_space_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    huge = replace(CONFIG, ffn=1 << 18, layers=1000)
    graph = graph_for(huge)
    manifest = replace(planned(), graph=huge, files=planned_files(graph, graph.nodes, 5000, 1))
    with pytest.raises(EngineError, match=r"needs \d+ MB"):
        CaptureWriter(tmp_path / "c", manifest)
    assert not list((tmp_path / "c").iterdir())


def test_unwritable_place_is_an_engine_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        CaptureWriter(tmp_path / "file", planned())
    with pytest.raises(EngineError, match="cannot be written"):
        CaptureWriter(tmp_path / "file" / "c", planned())


def test_file_that_the_manifest_does_not_list_is_stale(tmp_path: Path) -> None:
    few = replace(planned(), files=planned_files(GRAPH, [Node(0, "ffn_out")], 5, 1))
    writer = CaptureWriter(tmp_path / "c", few)
    writer.put(Node(0, "ffn_out"), 0, tensor(Node(0, "ffn_out")), None)
    writer.finish(few)
    write_aprt(tmp_path / "c" / "layer-0" / "ffn_up.bin", 0, np.zeros(2, np.float32))
    capture = Capture.open(tmp_path / "c")
    assert [path.name for path in capture.stale] == ["ffn_up.bin"]
    assert set(capture.files) == {Node(0, "ffn_out")}


def bare_capture(folder: Path, tokens: int = 5) -> None:
    """A capture as another engine writes it: files only, probabilities that sum to one, all logits."""
    for node in GRAPH.nodes:
        values = tensor(node, tokens)
        if node.stage == "attn_softmax":
            values = np.tril(np.exp(values))
            values /= values.sum(-1, keepdims=True)
        layer = "" if node.layer is None else f"layer-{node.layer}"
        write_aprt(folder / layer / f"{node.stage}.bin", node.layer, values)


def test_capture_without_manifest_infers_and_marks_its_token_count(tmp_path: Path) -> None:
    bare_capture(tmp_path)
    capture = Capture.open(tmp_path)
    assert capture.manifest is None
    assert capture.complete is None
    assert capture.tokens is None
    assert capture.token_count == 5
    assert capture.files[Node(1, "ffn_gate")].shape == (5, 12)
    assert capture.files[Node(1, "ffn_gate")].inferred
    assert capture.files[Node(1, "attn_scores")].shape == (2, 5, 5)
    assert capture.files[Node(None, "lm_head")].shape is None, "one row or five: nothing tells"


def test_copied_values_outlive_a_file_that_is_written_again(tmp_path: Path) -> None:
    bare_capture(tmp_path)
    node = Node(1, "ffn_gate")
    path = Capture.open(tmp_path).files[node].path
    write_aprt(path, 1, np.ones(SMALL_VALUES + 1, np.float32))
    mapped, small = (Capture.open(tmp_path).values(of) for of in (node, Node(0, "ffn_gate")))
    assert isinstance(mapped, np.memmap)
    assert not isinstance(small, np.memmap), "thousands of small files would take a descriptor each"
    capture = Capture.open(tmp_path, copied=True)
    values = capture.values(node)
    assert not isinstance(values, np.memmap), "to touch a mapping of what is gone would end this process"
    path.write_bytes(b"")
    assert np.isfinite(values).all()
    with pytest.raises(UnreadableError, match="header ends after 0 of 12 bytes"):
        capture.values(node)


def test_provenance_file_gives_token_ids(tmp_path: Path) -> None:
    bare_capture(tmp_path)
    (tmp_path / "_PROVENANCE.txt").write_text("# stages\nmodel: x\ntokens: [3838, 374, 220, 17, 10]\ndtype: float16\n")
    capture = Capture.open(tmp_path)
    assert capture.tokens == (3838, 374, 220, 17, 10)
    assert capture.token_source == "_PROVENANCE.txt"
    assert capture.model == ModelInfo("x", None, "", None) and capture.provenance["dtype"] == "float16"
    (tmp_path / "_PROVENANCE.txt").write_text("tokens: seven\nmodel:\n")
    capture = Capture.open(tmp_path)
    assert capture.tokens is None and capture.model is None


def test_alias_beside_the_canonical_file_is_named_and_not_read(tmp_path: Path) -> None:
    bare_capture(tmp_path)
    write_aprt(tmp_path / "layer-1" / "layer_output.bin", 1, np.zeros(1, np.float32))
    capture = Capture.open(tmp_path)
    assert capture.files[Node(1, "post_ffn_residual")].path.name == "post_ffn_residual.bin"
    assert [warning for warning in capture.warnings if "layer_output.bin" in warning and "not read" in warning]


def test_unknown_files_are_one_line_however_many_there_are(tmp_path: Path) -> None:
    bare_capture(tmp_path)
    for layer in range(2):
        for name in ("q_matmul", "k_matmul"):
            write_aprt(tmp_path / f"layer-{layer}" / f"{name}.bin", layer, np.zeros(1, np.float32))
    assert Capture.open(tmp_path).warnings == (
        f"{tmp_path}: 4 files of no known stage, not read: k_matmul.bin, q_matmul.bin",
    )


def test_embedding_beside_the_layers_is_that_of_layer_0(tmp_path: Path) -> None:
    bare_capture(tmp_path)
    (tmp_path / "layer-0" / "embedding.bin").unlink(missing_ok=True)
    write_aprt(tmp_path / "embedding.bin", None, np.ones(10, np.float32))
    capture = Capture.open(tmp_path)
    assert capture.read(Node(0, "embedding")).values.tolist() == [1.0] * 10


def test_header_layer_must_be_that_of_the_directory(tmp_path: Path) -> None:
    write_aprt(tmp_path / "layer-1" / "ffn_out.bin", 0, np.zeros(4, np.float32))
    capture = Capture.open(tmp_path)
    with pytest.raises(UnreadableError, match="header says layer 0"):
        capture.read(Node(1, "ffn_out"))


def finished(folder: Path) -> Path:
    writer = CaptureWriter(folder, planned())
    feed(writer, [5])
    writer.finish(planned())
    return folder


def test_file_that_changed_since_the_capture_is_refused(tmp_path: Path) -> None:
    folder = finished(tmp_path / "c")
    gate, up = folder / "layer-1" / "ffn_gate.bin", folder / "layer-1" / "ffn_up.bin"
    content = gate.read_bytes()
    gate.write_bytes(up.read_bytes())
    up.write_bytes(content)
    capture = Capture.open(folder)
    for node in (Node(1, "ffn_gate"), Node(1, "ffn_up")):
        with pytest.raises(UnreadableError, match="changed since the capture"):
            capture.values(node)
    assert capture.values(Node(0, "ffn_gate")).shape == (5, 12)


def test_trailing_bytes_are_a_warning_and_the_values_readable(tmp_path: Path) -> None:
    for folder in (finished(tmp_path / "ours"), tmp_path / "theirs"):
        if not folder.exists():
            bare_capture(folder)
        with open(folder / "layer-1" / "ffn_up.bin", "ab") as file:
            file.write(b"xx")
        capture = Capture.open(folder)
        assert [warning for warning in capture.warnings if "2 bytes after" in warning]
        assert np.array_equal(capture.values(Node(1, "ffn_up")), tensor(Node(1, "ffn_up")))


def test_two_writers_never_share_a_directory(tmp_path: Path) -> None:
    first = CaptureWriter(tmp_path / "c", planned())
    with pytest.raises(UsageError, match="being written"):
        CaptureWriter(tmp_path / "c", planned(), overwrite=True)
    feed(first, [5])
    first.finish(planned())
    CaptureWriter(tmp_path / "c", planned(), overwrite=True).close()


def test_overwrite_takes_a_folder_of_which_a_layer_is_gone(tmp_path: Path) -> None:
    """A writer that was killed while it removed the former capture leaves such a folder."""
    for _ in range(2):
        CaptureWriter(tmp_path / "c", planned(), overwrite=True).close()
        shutil.rmtree(tmp_path / "c" / "layer-0")


def test_overwrite_leaves_another_programs_manifest_alone(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "web app"}')
    with pytest.raises(UsageError, match="remove it yourself"):
        CaptureWriter(tmp_path, planned(), overwrite=True)
    assert (tmp_path / "manifest.json").read_text() == '{"name": "web app"}'


def test_absurd_layer_directory_is_no_layer(tmp_path: Path) -> None:
    bare_capture(tmp_path)
    write_aprt(tmp_path / "layer-400000000" / "ffn_out.bin", 1, np.zeros(1, np.float32))
    assert Capture.open(tmp_path).graph.layers == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("complete", "false"), ("complete", 0), ("complete", None), ("tokens", "123456"), ("tokens", [1, -2]),
        ("tokens", [1.5]), ("prefill_tokens", "x"), ("wall_seconds", []), ("graph", None), ("engine", []),
        ("graph.layers", 20_000_000), ("graph.layers", "4"), ("graph.layers", -1), ("graph.head_dim", 0),
        ("graph.rope_layout", "spiral"), ("engine.rounding", None), ("model.sha256", 5), ("files", []),
    ],
)  # fmt: skip
def test_manifest_with_a_wrong_field_is_unreadable_and_names_it(tmp_path: Path, field: str, value: object) -> None:
    CaptureWriter(tmp_path / "c", planned()).close()
    path = tmp_path / "c" / "manifest.json"
    document = json.loads(path.read_text())
    *parents, last = field.split(".")
    target = document
    for name in parents:
        target = target[name]
    target[last] = value
    path.write_text(json.dumps(document))
    with pytest.raises(UnreadableError, match=parents[0] if parents else last):
        read_manifest(tmp_path / "c")


@pytest.mark.parametrize("entry", [{"shape": [-6, -768]}, {"layer": "2"}, {"layer": 9}, {"crc32": "x"}, {"stats": 3}])
def test_manifest_with_a_wrong_file_entry_is_unreadable(tmp_path: Path, entry: dict[str, object]) -> None:
    CaptureWriter(tmp_path / "c", planned()).close()
    path = tmp_path / "c" / "manifest.json"
    document = json.loads(path.read_text())
    document["files"]["layer-1/ffn_up.bin"].update(entry)
    path.write_text(json.dumps(document))
    with pytest.raises(UnreadableError, match=r"layer-1/ffn_up\.bin"):
        read_manifest(tmp_path / "c")


def test_fields_that_a_later_release_adds_are_ignored(tmp_path: Path) -> None:
    folder = finished(tmp_path / "c")
    before = read_manifest(folder)
    document = json.loads((folder / "manifest.json").read_text())
    document["later"] = document["engine"]["later"] = {"x": 1}
    (folder / "manifest.json").write_text(json.dumps(document))
    assert read_manifest(folder) == before
    assert before is not None and before.complete


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object"),
        ('{"format": "aprtui-capture", "version": 99}', "version 99"),
        ('{"format": "aprtui-capture", "version": 1}', "is missing"),
    ],
)
def test_broken_manifest_is_unreadable_and_says_why(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UnreadableError, match=message):
        read_manifest(tmp_path)


def test_manifest_cannot_name_files_outside_its_directory(tmp_path: Path) -> None:
    CaptureWriter(tmp_path / "c", planned()).close()
    path = tmp_path / "c" / "manifest.json"
    document = json.loads(path.read_text())
    entry = document["files"].pop("lm_head.bin")
    document["files"]["../evil.bin"] = {**entry, "stage": "../evil"}
    path.write_text(json.dumps(document))
    with pytest.raises(UnreadableError, match="capture again"):
        read_manifest(tmp_path / "c")


def test_missing_or_empty_directory_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="does not exist"):
        Capture.open(tmp_path / "none")
    with pytest.raises(UnreadableError, match="holds no capture"):
        Capture.open(tmp_path)
