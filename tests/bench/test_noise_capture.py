from __future__ import annotations

from pathlib import Path

import numpy as np

from aprtui.bench.random_data import write_noise_capture
from aprtui.trace.capture import Capture
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.stage import Node

CONFIG = GraphConfig("qwen2", 2, 64, 4, 2, 16, 128, 256)


def test_two_noise_captures_differ_by_the_error_and_are_no_zeros(tmp_path: Path) -> None:
    for name, error in (("a", 0.0), ("b", 1e-3), ("c", 0.0)):
        write_noise_capture(tmp_path / name, CONFIG, 5, lambda *_: None, error)
    a, b, c = (Capture.open(tmp_path / name) for name in "abc")
    assert a.complete and len(a.files) == len(a.graph.nodes)
    for node in (Node(1, "ffn_gate"), Node(0, "attn_scores"), Node(None, "lm_head")):
        values = a.values(node)
        assert 0.8 < values.std() < 1.2
        assert 3e-4 < np.abs(b.values(node) - values).std() < 3e-3
        assert np.array_equal(values, c.values(node))
    assert not np.array_equal(a.values(Node(0, "ffn_gate")), a.values(Node(1, "ffn_gate")))
