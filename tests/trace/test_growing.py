"""Captures whose tokens come in passes give the very files of a capture that was planned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aprtui.errors import UnreadableError, UsageError
from aprtui.trace.aprt import read_aprt
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import graph_for
from aprtui.trace.growing import GrowingCapture

GRAPH = graph_for(GraphConfig("llama", 1, 8, 2, 1, 4, 16, 32))
TOKENS = 7
PASSES = (3, 1, 2, 1)
ROWS, MAP, LOGITS = Node(0, "ffn_gate"), Node(0, "attn_softmax"), Node(None, "lm_head")


def values(node: Node) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    stage = GRAPH[node.stage]
    found = np.random.default_rng(1).normal(size=stage.shape(TOKENS)).astype(np.float32)
    return np.tril(found) if stage.is_attention_map else found


def grown(path: Path, *nodes: Node) -> GrowingCapture:
    growing = GrowingCapture(path, GRAPH)
    position = 0
    for count in PASSES:
        for node in nodes:
            whole, end = values(node), position + count
            part = whole[:, position:end, :end] if node == MAP else whole[position:end]
            growing.put(node, position, count, part)
        position += count
    return growing


def test_rows_and_maps_of_passes_are_those_of_one(tmp_path: Path) -> None:
    growing = grown(tmp_path, ROWS, MAP, LOGITS)
    with pytest.raises(UnreadableError, match="magic"):
        read_aprt(tmp_path / "layer-0" / "ffn_gate.bin")
    files = growing.finish(TOKENS)
    growing.close()
    for node, name in ((ROWS, "layer-0/ffn_gate.bin"), (MAP, "layer-0/attn_softmax.bin"), (LOGITS, "lm_head.bin")):
        file = read_aprt(tmp_path / name)
        assert file.values.tobytes() == values(node).tobytes()
        assert (files[name].crc32, files[name].bytes) == (file.crc32(), 12 + file.values.nbytes)
        assert files[name].shape == GRAPH[node.stage].shape(TOKENS)
        counted = 2 * TOKENS * (TOKENS + 1) // 2 if node == MAP else file.values.size
        stats = files[name].stats
        assert stats is not None and stats.count == counted
    assert sorted(path.name for path in tmp_path.rglob("*.bin")) == ["attn_softmax.bin", "ffn_gate.bin", "lm_head.bin"]


def test_logits_of_last_positions_keep_the_latest(tmp_path: Path) -> None:
    growing = GrowingCapture(tmp_path, GRAPH)
    whole = values(LOGITS)
    for position, count, last in ((0, 3, 2), (3, 1, 3), (4, 3, 6)):
        growing.put(LOGITS, position, count, whole[last : last + 1])
    assert growing.finish(TOKENS)["lm_head.bin"].shape == (1, 32)
    assert read_aprt(tmp_path / "lm_head.bin").values.tobytes() == whole[-1].tobytes()


def test_what_missed_a_pass_is_left_out(tmp_path: Path) -> None:
    growing = GrowingCapture(tmp_path, GRAPH)
    growing.put(ROWS, 0, 3, values(ROWS)[:3])
    growing.put(MAP, 0, 3, values(MAP)[:, :3, :3])
    growing.put(MAP, 3, 4, values(MAP)[:, 3:, 1:])  # a window: not all keys
    assert growing.finish(TOKENS) == {}
    assert not list(tmp_path.rglob("*.bin"))


def test_a_node_that_comes_twice_of_one_token_is_refused(tmp_path: Path) -> None:
    growing = grown(tmp_path, ROWS)
    with pytest.raises(UsageError, match="layer 0 ffn_gate: came twice of one token"):
        growing.put(ROWS, 6, 1, values(ROWS)[:1])


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    growing = grown(tmp_path / "x", ROWS)
    with pytest.raises(UsageError, match="another capture is being written there"):
        GrowingCapture(tmp_path / "x", GRAPH, overwrite=True)
    growing.close()
    with pytest.raises(UsageError, match="is not empty"):
        GrowingCapture(tmp_path / "x", GRAPH)
