"""A small model, its own capture, and the tensors of that capture under other names, as other tools keep them."""

from __future__ import annotations

import json
import struct
import zipfile
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
from aprtui.trace.graph.stage import Node
from tests.model.gguf_files import write_model

TOKENS = tuple(range(5, 17))
EXACT = "matmul_input=none,kv_cache=f32,rope_angles=f64,stage_output=f32,softmax=f32"
"""What our capture rounds, as `--rounding` takes it, so that no replay has to find it."""


@dataclass(frozen=True)
class Ours:
    """A model and what our reference computes of it."""

    model: Model
    capture: Capture

    @property
    def tokens(self) -> tuple[int, ...]:
        assert self.capture.tokens is not None
        return self.capture.tokens

    def values(self, layer: int | None, stage: str) -> NDArray[np.float32]:
        return np.array(self.capture.values(Node(layer, stage)))

    def heads(self, layer: int, stage: str) -> NDArray[np.float32]:
        """Queries or keys as transformers keeps them: `[1, heads, tokens, channels]`."""
        dim = self.model.config.graph.head_dim
        return self.values(layer, stage).reshape(len(self.tokens), -1, dim).swapaxes(0, 1)[None]

    def parts(self, layer: int, stage: str) -> tuple[NDArray[np.float32], ...]:
        """Q, K and V of a fused stage."""
        graph = self.model.config.graph
        values = self.values(layer, stage)
        ends = (graph.q_width, graph.q_width + graph.kv_width)
        return tuple(np.split(values, ends, axis=1))


def ours(folder: Path, architecture: str = "qwen2", tokens: tuple[int, ...] = TOKENS, layers: int = 2) -> Ours:
    model = load_model(write_model(folder / f"{architecture}.gguf", architecture=architecture, layers=layers))
    request = CaptureRequest(tokens, None, frozenset(model.graph.nodes), Logits.ALL)
    with closing(open_engine(model, backend="numpy", context=len(tokens))) as engine:
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


_STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage", "int32": "IntStorage"}


def write_torch(path: Path, value: Any) -> Path:
    """A file as `torch.save` writes it, of arrays in dictionaries and lists."""
    storages: list[bytes] = []
    body = _opcodes(value, storages)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("archive/byteorder", "little")
        for number, data in enumerate(storages):
            archive.writestr(f"archive/data/{number}", data)
    return path


def _opcodes(value: Any, storages: list[bytes]) -> bytes:
    """The pickle of a value, as protocol 2 of torch has it."""
    if isinstance(value, np.ndarray):
        storages.append(np.ascontiguousarray(value).tobytes())
        kind = global_name("torch", _STORAGES[value.dtype.name])
        key, count = text(str(len(storages) - 1)), number(value.size)
        storage = b"(" + text("storage") + kind + key + text("cpu") + count + b"tQ"
        strides = [stride // value.itemsize for stride in np.empty(value.shape, value.dtype).strides]
        hooks = global_name("collections", "OrderedDict") + b")R"
        rest = number(0) + sizes(*value.shape) + sizes(*strides) + b"\x89" + hooks
        return global_name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + rest + b"tR"
    if isinstance(value, dict):
        return b"}(" + b"".join(_opcodes(part, storages) for item in value.items() for part in item) + b"u"
    if isinstance(value, list | tuple):
        return b"](" + b"".join(_opcodes(part, storages) for part in value) + b"e"
    return number(value) if isinstance(value, int) else text(value)


def global_name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def sizes(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"
