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
