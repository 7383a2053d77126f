"""A small model, its own capture, and the tensors of that capture under other names, as other tools keep them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Logits
from aprtui.model.model import Model, load_model
from aprtui.trace.capture import Capture
from aprtui.trace.graph import Node
from tests.model.gguf_files import write_model

TOKENS = tuple(range(5, 17))


@dataclass(frozen=True)
class Ours:
    """A model and what our reference computes of it."""

    model: Model
    capture: Capture

    def values(self, layer: int | None, stage: str) -> NDArray[np.float32]:
        return np.array(self.capture.values(Node(layer, stage)))

    def heads(self, layer: int, stage: str) -> NDArray[np.float32]:
        """Queries or keys as transformers keeps them: `[1, heads, tokens, channels]`."""
        dim = self.model.config.graph.head_dim
        return self.values(layer, stage).reshape(len(TOKENS), -1, dim).swapaxes(0, 1)[None]

    def parts(self, layer: int, stage: str) -> tuple[NDArray[np.float32], ...]:
        """Q, K and V of a fused stage."""
        graph = self.model.config.graph
        values = self.values(layer, stage)
        ends = (graph.q_width, graph.q_width + graph.kv_width)
        return tuple(np.split(values, ends, axis=1))


def ours(folder: Path, architecture: str = "qwen2") -> Ours:
    model = load_model(write_model(folder / f"{architecture}.gguf", architecture=architecture, layers=2))
    request = CaptureRequest(TOKENS, None, frozenset(model.graph.nodes), Logits.ALL)
    with closing(open_engine(model, backend="numpy", context=len(TOKENS))) as engine:
        write_capture(engine, model, request, folder / "own")
    return Ours(model, Capture.open(folder / "own"))


def require_same(expected: Ours, folder: Path, nodes: set[Node] | None = None) -> Capture:
    """The imported capture, of which every stage has the very bits of ours, NaN included; `nodes` must all be there."""
    capture = Capture.open(folder)
    for node in capture.files:
        own = expected.values(node.layer, node.stage)
        found = capture.values(node)
        assert found.size == own.size, node
        assert np.array_equal(found.reshape(-1).view(np.uint32), own.reshape(-1).view(np.uint32)), node
    if nodes is not None:
        assert set(capture.files) == nodes
    return capture


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> Path:
    """A file of tensors by name: type, shape and bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, (kind, shape, data) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path
