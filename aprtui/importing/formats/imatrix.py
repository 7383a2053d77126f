"""Importance matrices of llama.cpp: the mean square of every channel that a matrix product takes in.

`tools/imatrix/imatrix.cpp` of ggml-org/llama.cpp writes a GGUF file of `general.type` `imatrix`: `WEIGHT.in_sum2`
`[columns, matrices]`, sums of squares over all tokens, and `WEIGHT.counts`, how many those were. It records no ids, so
`--tokens` has to say that it was computed on the tokens of the capture. Products of experts are left out.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np

from aprtui.errors import UnreadableError, UsageError
from aprtui.importing.elements import Floats
from aprtui.importing.import_format import PartChoice
from aprtui.importing.samples import SampledStage, SampleFormat, Samples
from aprtui.model.gguf_file import MAGIC, GgufFile
from aprtui.model.model import Model
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

_RELATIVE = 1e-5
"""Squares are added up in float32, a token after the other."""

_MOST = 1 << 40
"""Tokens; a count that is NaN or Inf is none."""


def _recognises(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return False
        return GgufFile(path).metadata.get("general.type") == "imatrix"
    except (OSError, UnreadableError):
        return False


def _read(path: Path, choice: PartChoice, model: Model | None) -> Samples:
    if model is None:
        raise UsageError(f"{path}: sums of squares by weight: --model says which stages those multiply")
    file = GgufFile(path)
    stages: dict[Node, SampledStage] = {}
    for node in model.graph.nodes:
        stage = model.graph[node.stage]
        if stage.op is not Op.MATMUL or not stage.inputs:
            continue
        source = model.graph.inputs(node)[0]
        name = model.params(node)[0].name
        sums, counts = (_floats(file, f"{name}.{what}") for what in ("in_sum2", "counts"))
        if sums is None or counts is None or counts.size != 1 or not 1 <= counts[0] < _MOST or source in stages:
            continue
        with np.errstate(all="ignore"):
            squares = (sums / counts[0])[None].astype(np.float32)
        take = partial(_squares, int(counts[0]), sums.size)
        stages[source] = SampledStage(source, squares, (_RELATIVE * np.abs(squares)).astype(np.float32), take)
    if not stages:
        raise UnreadableError(f"{path}: has sums for none of the weights of {model.path}: of another model")
    notes = ("mean squares of channels, under the names of the stages that they are of",)
    return Samples(path, list(stages.values()), None, (0,), {"engine": "llama.cpp"}, notes)


def _floats(file: GgufFile, name: str) -> Floats | None:
    entry = file.tensors.get(name)
    if entry is None or entry.type != 0:
        return None
    return np.array(file.tensor_bytes(entry, 4 * math.prod(entry.dimensions)).view("<f4"))


def _squares(count: int, width: int, values: Floats) -> Floats | None:
    if values.shape != (count, width):
        return None
    return np.asarray(np.square(values.astype(np.float64)).mean(axis=0)[None], np.float32)


FORMAT = SampleFormat("imatrix", "llama-imatrix: mean squares of what each product takes in", _recognises, _read)
