"""Captures of noise in real shapes: as slow for a screen as real ones, without an engine that takes minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui import __version__
from aprtui.progress import Progress
from aprtui.trace.graph import GraphConfig, graph_for
from aprtui.trace.manifest import EngineInfo, Manifest, ModelInfo, relative_path
from aprtui.trace.writer import CaptureWriter, planned_files

SEVEN_BILLION = GraphConfig("qwen2", 28, 3584, 28, 4, 128, 18944, 152064, qkv_bias=True)
"""The shape of Qwen2.5-7B: 512 tokens of it are 8.3 GB."""

TWO_THOUSAND_FILES = GraphConfig("qwen2", 118, 64, 4, 2, 16, 128, 256, qkv_bias=True)

_SAMPLE = 1 << 24
_STEP = 7919


def write_noise_capture(
    path: Path, config: GraphConfig, tokens: int, progress: Progress, error: float = 0.0
) -> Manifest:
    """Write every stage of `tokens` positions as normal noise, the same in every capture but for an `error` of that
    relative size. Raises `EngineError` where it cannot be written."""
    graph = graph_for(config)
    assert _STEP * len(graph.nodes) < _SAMPLE
    engine = EngineInfo("noise", __version__, "none", "none", "none", "exact", {})
    ids = tuple(index % config.vocabulary for index in range(tokens))
    manifest = Manifest(
        ModelInfo("noise", None, config.architecture, None), config, engine, ids, ids, None, tokens, tokens, "last",
        planned_files(graph, graph.nodes, tokens, 1),
    )  # fmt: skip
    random = np.random.default_rng(1)
    sample, other = (random.standard_normal(_SAMPLE, np.float32) for _ in range(2))
    writer = CaptureWriter(path, manifest)
    try:
        for number, node in enumerate(graph.nodes):
            progress(f"writing {path.name}", number, len(graph.nodes))
            shape = manifest.files[relative_path(node)].shape
            values = _slice(sample, number, shape)
            if error:
                values += error * _slice(other, number, shape)
            writer.put(node, tokens - shape[0] if node.stage == "lm_head" else 0, values, None)
        return writer.finish(manifest)
    finally:
        writer.close()


def _slice(sample: NDArray[np.float32], number: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Values of the sample from a place of their own, repeated where they are not enough."""
    count = int(np.prod(shape, dtype=np.int64))
    start = number * _STEP
    # Stages larger than the sample begin where it does.
    taken = sample[start : start + count] if start + count <= sample.size else np.resize(sample, count)
    return taken.reshape(shape).copy()
