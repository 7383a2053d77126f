"""One small model of each architecture, and what its captures are held against."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Logits
from aprtui.model.model import Model, load_model
from aprtui.model.weight_types import WeightType
from aprtui.trace.capture import Capture
from tests.model.gguf_files import write_model

TOKENS = tuple(int(token) for token in np.random.default_rng(3).integers(0, 256, 24))
"""More than the windows of the models have."""


def model_of(folder: Path, architecture: str, weight_type: WeightType = WeightType.Q4_K) -> Model:
    """As many layers as show every kind of layer that the architecture has; llama.cpp wants Gemma 2 with tied heads."""
    layers = {"gemma3": 6, "smollm3": 4}.get(architecture, 2)
    return load_model(
        write_model(
            folder / f"{architecture}.gguf", architecture=architecture, layers=layers, weight_type=weight_type,
            tied=architecture == "gemma2",
        )
    )  # fmt: skip


def own_capture(model: Model, folder: Path) -> Capture:
    request = CaptureRequest(TOKENS, None, frozenset(model.graph.nodes), Logits.ALL)
    with closing(open_engine(model, backend="numpy", context=len(TOKENS))) as engine:
        write_capture(engine, model, request, folder)
    return Capture.open(folder)


def largest_error(a: Capture, b: Capture) -> float:
    """The largest relative L2 norm of a difference, over all nodes of `b`."""
    worst = 0.0
    for node in b.files:
        expected, found = (capture.values(node).astype(np.float64) for capture in (a, b))
        if node.stage == "moe_router_indices":
            assert np.array_equal(expected, found)
        elif a.graph[node.stage].is_attention_map:
            expected, found = np.tril(expected), np.tril(found)
        worst = max(worst, float(np.linalg.norm(found - expected) / np.linalg.norm(expected)))
    return worst
