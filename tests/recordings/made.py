"""Recordings for tests: those of the writer in docs/recordings.md, and faults planted in recordings of any kind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.progress import no_progress
from aprtui.recordings.format import DATA_NAME, FILE_NAME
from aprtui.recordings.reading import Recording
from aprtui.recordings.replay import OpReplay, OpReplayOptions, replay_recording
from aprtui.recordings.weights import weights_of_recording
from tests.conftest import CHECKOUT


@cache
def documented_code() -> tuple[str, ...]:
    """The blocks of Python in docs/recordings.md."""
    text = (CHECKOUT / "docs" / "recordings.md").read_text()
    return tuple(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


def documented_recorder() -> type[Any]:
    """The class `Recorder` of docs/recordings.md."""
    names: dict[str, Any] = {}
    exec(documented_code()[0], names)  # noqa: S102 - this project's own document
    found: type[Any] = names["Recorder"]
    return found


def recorded(folder: Path, op: str, output: NDArray[Any], *sources: NDArray[Any], **params: Any) -> Path:
    """A recording of one op."""
    recorder = documented_recorder()(folder, [1, 2])
    for source in sources:
        recorder.array(source, "input")
    recorder.op(op, output, *sources, **params)
    recorder.finish("test")
    return folder


ATTENTION_TOKENS = (5, 3, 8, 1)


def attention_recording(folder: Path, name: Callable[[str], str] = lambda text: text) -> Path:
    """A recording of the attention of one layer, of an architecture that no file tells; nodes are called `name(…)`."""
    rng, recorder = np.random.default_rng(1), documented_recorder()(folder, ATTENTION_TOKENS)

    def weight(called: str, *shape: int) -> Any:
        return recorder.array(rng.normal(size=shape).astype(np.float32), "weight", called)

    def op(kind: str, called: str, output: Any, *sources: Any, **params: Any) -> Any:
        return recorder.op(kind, np.ascontiguousarray(output, np.float32), *sources, name=name(called), **params)

    ids = recorder.array(np.array(ATTENTION_TOKENS, np.int32), "input")
    table = weight("token_embd.weight", 10, 8)
    x = op("GET_ROWS", "embd", table[ids], table, ids)
    q, k, v = (
        op("MUL_MAT", f"{letter.upper()}cur-0", x @ matrix.T, matrix, x)
        for letter in "qkv" for matrix in (weight(f"blk.0.attn_{letter}.weight", 8, 8),)
    )  # fmt: skip
    scores = op("MUL_MAT", "kq-0", (q @ k.T)[None], k, q)
    maps = np.exp(0.5 * scores) * np.tri(4)
    maps = op("SOFT_MAX", "kq_soft_max-0", maps / maps.sum(-1, keepdims=True), scores, scale=0.5)
    mixed = op("MUL_MAT", "kqv-0", maps[0] @ v, v, maps)
    out = weight("blk.0.attn_output.weight", 8, 8)
    mixed = op("MUL_MAT", "attn_out-0", mixed @ out.T, out, mixed)
    head = weight("output.weight", 10, 8)
    op("MUL_MAT", "result_output", mixed @ head.T, head, mixed)
    recorder.finish("mine")
    return folder


def replayed(folder: Path, **options: Any) -> OpReplay:
    recording = Recording.open(folder)
    weights = weights_of_recording(recording, None)
    return replay_recording(recording, weights, OpReplayOptions(**options), no_progress)


def edited(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """`folder` with its `graph.json` changed by `edit`."""
    path = folder / FILE_NAME
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    return folder


def plant(folder: Path, graph: int, index: int, kind: str) -> None:
    """Make a node of a recording of float32 outputs one of an engine that got it wrong."""
    recording = Recording.open(folder)
    node = recording.graphs[graph].nodes[index]
    blob = node.blobs[0]
    assert blob is not None
    shape = recording.graphs[graph].tensors[node.outputs[0]].shape
    data = bytearray((folder / DATA_NAME).read_bytes())
    values = np.frombuffer(data, np.float32, blob[1] // 4, blob[0])
    if values.size == np.prod(shape):
        values = values.reshape(-1, shape[-1])
    FAULTS[kind](values)
    (folder / DATA_NAME).write_bytes(data)


def _noise(share: float) -> Callable[[NDArray[np.float32]], None]:
    def fault(values: NDArray[np.float32]) -> None:
        finite = np.isfinite(values)
        rms = np.sqrt((values[finite].astype(np.float64) ** 2).mean())
        values[finite] += (np.random.default_rng(0).standard_normal(int(finite.sum())) * share * rms).astype(np.float32)

    return fault


def _zero_tail(values: NDArray[np.float32]) -> None:
    values[..., -max(1, values.shape[-1] // 32) :] = 0


def _swap_rows(values: NDArray[np.float32]) -> None:
    values[[0, -1]] = values[[-1, 0]]


FAULTS = MappingProxyType(
    {"noise of 1e-4": _noise(1e-4), "noise of 1e-5": _noise(1e-5), "zero tail": _zero_tail, "swapped rows": _swap_rows}
)
"""What can be wrong about an output."""
