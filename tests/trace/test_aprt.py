"""The bytes of APRT stage files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aprtui.errors import EngineError, ExitCode, UnreadableError
from aprtui.trace.aprt import AprtError, header, is_aprt, read_aprt, write_aprt
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import graph_for
from aprtui.trace.manifest import FileInfo
from aprtui.trace.writer import planned_bytes, planned_files

QWEN_7B = GraphConfig("qwen2", 28, 3584, 28, 4, 128, 18944, 152064, qkv_bias=True)


def test_reference_headers_are_byte_exact() -> None:
    assert header(0, 7 * 3584).hex() == "415052540000000000620000"
    assert header(None, 152064).hex() == "41505254ffffffff00520200"


def test_sizes_of_the_7b_shape_follow_from_the_graph() -> None:
    graph = graph_for(QWEN_7B)
    files = planned_files(graph, graph.nodes, tokens=7, logits=1)
    expected = {
        "embedding": 100_364, "attn_norm": 100_364, "qkv_matmul": 129_036, "qkv_bias": 129_036,
        "q_post_rope": 100_364, "k_post_rope": 14_348, "attn_scores": 5_500, "attn_softmax": 5_500,
        "attention": 100_364, "attn_out": 100_364, "post_attn_residual": 100_364, "ffn_norm": 100_364,
        "ffn_gate": 530_444, "ffn_up": 530_444, "ffn_silu": 530_444, "ffn_swigl": 530_444,
        "ffn_out": 100_364, "post_ffn_residual": 100_364,
    }  # fmt: skip
    sizes = {name: planned_bytes([info]) for name, info in files.items()}
    assert {name: sizes[f"layer-0/{name}.bin"] for name in expected} == expected
    assert (sizes["final_norm.bin"], sizes["lm_head.bin"]) == (100_364, 608_268)
    assert len(files) == 1 + 28 * 17 + 2


@given(values=hnp.arrays(np.uint32, st.integers(0, 64)), layer=st.one_of(st.none(), st.integers(0, 0xFFFFFFFE)))
def test_every_bit_pattern_survives(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, layer: int | None
) -> None:
    path = tmp_path_factory.mktemp("aprt") / "stage.bin"
    write_aprt(path, layer, values.view(np.float32))
    file = read_aprt(path)
    assert file.layer == layer
    assert file.trailing == 0
    for copied in (False, True):
        assert np.array_equal(np.asarray(read_aprt(path, copied).values).view(np.uint32), values)
    assert path.stat().st_size == 12 + 4 * values.size


def test_file_without_values_is_legal(tmp_path: Path) -> None:
    write_aprt(tmp_path / "empty.bin", 3, np.empty(0, np.float32))
    assert read_aprt(tmp_path / "empty.bin").values.size == 0


@pytest.mark.parametrize(
    ("content", "offset", "expectation"),
    [
        (b"", 0, "header ends after 0 of 12 bytes"),
        (b"APRT\0\0", 6, "header ends after 6 of 12 bytes"),
        (b"GGUF" + bytes(20), 0, "expected the magic"),
        (b"APRX", 0, "expected the magic"),
        (b"APRT" + struct.pack("<II", 0, 3) + bytes(11), 23, "declares 3 values, 24 bytes in all"),
        (b"APRT" + struct.pack("<II", 0, 1), 12, "declares 1 values, 16 bytes in all"),
    ],
)
def test_broken_file_names_path_offset_and_expectation(
    tmp_path: Path, content: bytes, offset: int, expectation: str
) -> None:
    path = tmp_path / "stage.bin"
    path.write_bytes(content)
    with pytest.raises(AprtError, match=expectation) as caught:
        read_aprt(path)
    assert caught.value.offset == offset
    assert str(path) in str(caught.value)
    assert caught.value.exit_code is ExitCode.UNREADABLE


def test_trailing_bytes_are_counted_and_the_values_readable(tmp_path: Path) -> None:
    path = tmp_path / "stage.bin"
    path.write_bytes(header(1, 2) + np.array([1, 2], "<f4").tobytes() + b"xyz")
    file = read_aprt(path)
    assert file.trailing == 3
    assert file.values.tolist() == [1.0, 2.0]


def test_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="No such file"):
        read_aprt(tmp_path / "none.bin")
    assert not is_aprt(tmp_path / "none.bin")
    assert not is_aprt(tmp_path)


def test_failed_write_leaves_no_file_behind(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("")
    with pytest.raises(EngineError, match="cannot be written"):
        write_aprt(tmp_path / "occupied" / "stage.bin", 0, np.zeros(1, np.float32))
    assert list(tmp_path.iterdir()) == [tmp_path / "occupied"]


def test_too_many_values_are_refused() -> None:
    with pytest.raises(EngineError, match="at most"):
        header(0, 1 << 32)


def test_message_stays_one_printable_line_whatever_a_name_holds() -> None:
    assert str(UnreadableError("tensor a\nb\x1b[31m\udcff: ×")) == "tensor a\\nb\\x1b[31m\\udcff: ×"


def test_file_info_knows_its_node() -> None:
    assert FileInfo(3, "ffn_out", (1, 2), ("token", "channel")).node == Node(3, "ffn_out")
