from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aprtui.errors import UnreadableError
from aprtui.model.apr.apr_file import AprFile, is_apr_model
from aprtui.model.apr.names import gguf_name
from aprtui.model.facts import model_facts
from aprtui.model.model import load_model
from aprtui.model.open_file import is_model_file, open_model_file
from aprtui.resources import embedded_model
from aprtui.trace.graph.config import RopeLayout
from tests.model.apr_files import AprModel, AprTensor, apr_model, entry, padded, write_gguf
from tests.model.gguf_files import model_file, write_model

TEXT = "def f(x):\n\treturn 12<|im_end|>\n"


@pytest.fixture(scope="module")
def demo() -> AprModel:
    return apr_model(embedded_model())


@pytest.fixture(scope="module")
def demo_path(tmp_path_factory: pytest.TempPathFactory, demo: AprModel) -> Path:
    return demo.write(tmp_path_factory.mktemp("apr") / "demo.apr")


def same_weights(a: Path, b: Path) -> bool:
    first, second = load_model(a), load_model(b)
    return first.weights.keys() == second.weights.keys() and all(
        first.weights[name].type == second.weights[name].type
        and np.array_equal(first.weights[name].data, second.weights[name].data)
        for name in first.weights
    )


def test_the_demo_model_is_the_same_model_in_both_formats(demo_path: Path) -> None:
    ours, original = load_model(demo_path), load_model(embedded_model())
    assert ours.config == original.config and same_weights(demo_path, embedded_model())
    assert ours.tokenizer.encode(TEXT) == original.tokenizer.encode(TEXT)
    assert ours.tokenizer.stop_ids == original.tokenizer.stop_ids
    assert ours.name == original.name and ours.paths == (demo_path,) and ours.size == demo_path.stat().st_size
    assert model_facts(ours).types == model_facts(original).types


def test_tensors_are_views_of_the_map(demo_path: Path) -> None:
    file = AprFile(demo_path)
    tensor = file.tensors["blk.0.ffn_up.weight"]
    path, offset = file.location(tensor)
    data = file.tensor_bytes(tensor, 0)
    assert data.tobytes() == path.read_bytes()[offset : offset + data.nbytes]
    assert not data.flags.owndata and not data.flags.writeable


def test_a_gguf_file_made_of_an_apr_file_is_the_model_again(demo_path: Path, tmp_path: Path) -> None:
    again = write_gguf(AprFile(demo_path), tmp_path / "again.gguf")
    assert same_weights(again, embedded_model())
    ours, original = load_model(again), load_model(embedded_model())
    assert ours.config == original.config
    assert ours.tokenizer.encode(TEXT) == original.tokenizer.encode(TEXT)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "qwen3moe"])
def test_every_architecture_of_apr_files_is_read_as_from_gguf(tmp_path: Path, architecture: str) -> None:
    path = write_model(tmp_path / "m.gguf", architecture=architecture, layers=2, tied=architecture == "llama")
    ours = load_model(apr_model(path).write(tmp_path / "m.apr"))
    assert ours.config == load_model(path).config
    assert same_weights(ours.path, path)
    assert ours.tokenizer.encode(TEXT) == load_model(path).tokenizer.encode(TEXT)


def test_names_of_transformers_are_those_of_the_graph() -> None:
    assert gguf_name("model.layers.11.self_attn.q_proj.bias") == "blk.11.attn_q.bias"
    assert gguf_name("model.layers.0.mlp.down_proj.weight") == "blk.0.ffn_down.weight"
    assert gguf_name("model.layers.3.self_attn.k_norm.weight") == "blk.3.attn_k_norm.weight"
    assert gguf_name("model.embed_tokens.weight") == "token_embd.weight"
    assert gguf_name("lm_head.weight") == "output.weight"
    for name in ("blk.0.attn_q.weight", "token_embd.weight", "model.layers.x.mlp.up_proj.weight", "a.weight", ""):
        assert gguf_name(name) == name


def test_rows_of_q_and_k_are_in_the_order_that_the_file_says(tmp_path: Path) -> None:
    model = apr_model(write_model(tmp_path / "m.gguf", architecture="llama", layers=1))
    assert load_model(model.write(tmp_path / "m.apr")).graph.config == replace(
        load_model(tmp_path / "m.gguf").config.graph, rope_layout=RopeLayout.INTERLEAVED
    )
    model.metadata["rope_type"] = 2
    config = load_model(model.write(tmp_path / "m.apr")).graph.config
    assert config is not None and config.rope_layout is RopeLayout.HALF_SPLIT


def test_files_are_told_by_their_first_bytes(demo_path: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed.gguf"
    renamed.write_bytes(demo_path.read_bytes())
    assert is_apr_model(renamed) and is_model_file(renamed) and isinstance(open_model_file(renamed), AprFile)
    stage = tmp_path / "stage.bin"
    stage.write_bytes(b"APRT" + bytes(100))
    assert not is_apr_model(stage) and not is_model_file(stage) and not is_model_file(tmp_path / "none")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        (0x0001, "compressed (LZ4)"), (0x0002, "compressed (Zstandard)"), (0x0004, "encrypted"), (0x0008, "signed"),
        (0x0010, "shards"), (0x0800, "column-major"), (0x1000, "0x1000 are not known"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_name(demo: AprModel, tmp_path: Path, flag: int, words: str) -> None:
    path = replace(demo, flags=0x0400 | flag).write(tmp_path / "m.apr")
    with pytest.raises(UnreadableError) as refused:
        AprFile(path)
    assert words in str(refused.value) and str(path) in str(refused.value)


def test_other_versions_and_damaged_headers_are_refused(demo: AprModel, tmp_path: Path) -> None:
    for changed, words in (
        (replace(demo, magic=b"APR1"), "version 1, expected 2"),
        (replace(demo, magic=b"APRX"), "begins with"),
        (replace(demo, version=(3, 0)), "version 3.0, expected 2.0"),
        (replace(demo, checksum=1), "checksum of the header is 00000001"),
    ):
        with pytest.raises(UnreadableError, match=words):
            AprFile(changed.write(tmp_path / "m.apr"))
    AprFile(replace(demo, magic=b"APR2").write(tmp_path / "m.apr"))


def test_half_a_download_is_called_truncated(demo_path: Path, tmp_path: Path) -> None:
    content = demo_path.read_bytes()
    path = tmp_path / "cut.apr"
    for kept, words in ((30, "too short"), (64, "truncated"), (5000, "truncated"), (len(content) // 2, "truncated")):
        path.write_bytes(content[:kept])
        with pytest.raises(UnreadableError, match=words) as refused:
            load_model(path)
        assert str(refused.value).startswith(str(path))


def broken_index(model: AprModel, change: Callable[[bytes], bytes]) -> bytes:
    """The file with a changed index of the same length."""
    content = model.content()
    start, end = struct.unpack_from("<QQ", content, 24)
    return content[:start] + change(content[start:end])[: end - start].ljust(end - start, b"\0") + content[end:]


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (entry("a", 0, (1,), 0, 4) * 2, "occurs twice"),
        (struct.pack("<H", 300) + b"a" * 300, "300 bytes, expected at most 256"),
        (struct.pack("<H", 1) + b"\xff" + bytes(40), "not UTF-8"),
        (entry("a", 0, (0, 4), 0, 0), "is empty"),
        (entry("a", 0, (1,) * 9, 0, 4), "9 dimensions"),
        (entry("a", 0, (1 << 62, 1 << 62), 0, 4), "has 4 bytes, expected"),
        (entry("a", 77, (4,), 0, 4), "type number 77"),
        (entry("a", 12, (2, 256), 0, 287), "287 bytes, expected 288"),
        (entry("a", 3, (32,), 0, 255), "255 bytes, expected 256 or 20"),
        (entry("a", 128, (3, 48), 0, 90), "AprQ4 with rows of 48"),
    ],
)
def test_a_damaged_index_is_refused_with_the_tensor(demo: AprModel, tmp_path: Path, index: bytes, words: str) -> None:
    path = tmp_path / "m.apr"
    path.write_bytes(broken_index(demo, lambda _: index))
    with pytest.raises(UnreadableError, match=words) as refused:
        AprFile(path)
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)


def test_an_index_that_has_fewer_tensors_than_the_header_says_is_refused(demo: AprModel, tmp_path: Path) -> None:
    path = tmp_path / "m.apr"
    path.write_bytes(broken_index(demo, lambda index: index[: len(index) // 2]))
    with pytest.raises(UnreadableError):
        AprFile(path)


@pytest.mark.parametrize(
    ("offset", "size", "value", "words"),
    [
        (8, 4, 1 << 30, "1073741824 tensors"), (12, 8, 1 << 62, "metadata end at byte"), (12, 8, 3, "metadata lie at"),
        (20, 4, (16 << 20) + 1, "expected at most 16777216"), (24, 8, 1 << 60, "tensor index lie at"),
        (32, 8, 1 << 60, "tensor index end at"),
    ],
)  # fmt: skip
def test_sections_outside_of_the_file_are_refused(
    demo: AprModel, tmp_path: Path, offset: int, size: int, value: int, words: str
) -> None:
    import zlib

    content = bytearray(demo.content())
    content[offset : offset + size] = value.to_bytes(size, "little")
    content[40:44] = struct.pack("<I", zlib.crc32(content[:40] + content[44:64]))
    path = tmp_path / "m.apr"
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=words):
        AprFile(path)


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff", b"[" * 2000, b"3"])
def test_metadata_that_are_no_json_object_are_refused(tmp_path: Path, text: bytes) -> None:
    class Raw(AprModel):
        pass

    content = bytearray(Raw({"a": "x" * (len(text) + 5)}).content())
    content[64 : 64 + len(padded(text))] = text.ljust(len(padded(text)))
    path = tmp_path / "m.apr"
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match="metadata are no JSON"):
        AprFile(path)


def test_a_tensor_outside_of_the_file_and_one_that_is_not_aligned_are_refused(tmp_path: Path) -> None:
    model = AprModel({"architecture": "qwen2"}, {"a": AprTensor(0, (4,), bytes(16))})
    for offset, words in ((1 << 40, "truncated: tensor a"), (8, "expected a multiple of 64")):
        path = tmp_path / "m.apr"
        path.write_bytes(broken_index(model, lambda _, offset=offset: entry("a", 0, (4,), offset, 16)))  # type: ignore[misc]
        file = AprFile(path)
        with pytest.raises(UnreadableError, match=words):
            file.tensor_bytes(file.tensors["a"], 16)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_changed_byte_of_the_header_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, demo_path: Path, data: st.DataObject
) -> None:
    content = bytearray(demo_path.read_bytes())
    end = struct.unpack_from("<Q", content, 32)[0]
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(44, end - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzzed.apr"
    path.write_bytes(content)
    try:
        load_model(path).pieces([0])
    except UnreadableError as error:
        assert str(path) in str(error) and "\n" not in str(error)


def test_rows_of_embeddings_that_there_are_not_take_no_memory(demo: AprModel, tmp_path: Path) -> None:
    shape = (1 << 40, 32)
    index = entry("model.embed_tokens.weight", 128, shape, 0, (1 << 40) * 18)
    path = tmp_path / "m.apr"
    path.write_bytes(broken_index(replace(demo, tensors={"a" * 60: AprTensor(0, (4,), bytes(16))}), lambda _: index))
    with pytest.raises(UnreadableError):
        load_model(path)


def test_metadata_that_are_written_twice_count_as_they_were_last(demo: AprModel, tmp_path: Path) -> None:
    text = json.dumps(demo.metadata)
    twice = text[:-1] + ', "rope_theta": 5000.0}'
    content = replace(demo, metadata={"x": "y" * len(twice)}).content()
    start = content.index(b"{")
    path = tmp_path / "m.apr"
    path.write_bytes(content[:start] + twice.encode().ljust(len(twice) + 8) + content[start + len(twice) + 8 :])
    assert load_model(path).config.rope.theta == 5000.0


def test_a_model_that_gguf_would_refuse_is_refused_too(tmp_path: Path) -> None:
    file = model_file(layers=1)
    del file.tensors["blk.0.ffn_up.weight"]
    model = apr_model(file.write(tmp_path / "m.gguf"))
    with pytest.raises(UnreadableError, match=r"tensor blk\.0\.ffn_up\.weight is missing"):
        load_model(model.write(tmp_path / "m.apr"))
