"""The base of `llama-perplexity --kl-divergence-base`: log-probabilities in 16 bits.

`tools/perplexity/perplexity.cpp` of ggml-org/llama.cpp: `_logits_`, i32 n_ctx, n_vocab, n_chunk, i32 ids of all chunks;
then for each chunk the rows of positions n_ctx/2 … n_ctx−2, each float32 scale and minimum, and u16 for each token of
the vocabulary, rounded up to an even number: log p = minimum + scale · u16. What is more than 16 below the largest is
stored as the minimum. Every chunk begins with the first id of the first one, where the model has a BOS.
"""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path

import numpy as np

from aprtui.errors import UnreadableError, UsageError
from aprtui.importing.elements import Floats
from aprtui.importing.import_format import PartChoice
from aprtui.importing.raw_file import range_of
from aprtui.importing.samples import SampledStage, SampleFormat, Samples
from aprtui.model.model import Model
from aprtui.trace.graph.stage import Node

_MAGIC = b"_logits_"
_HEADER = len(_MAGIC) + 12


def _recognises(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def _read(path: Path, choice: PartChoice, model: Model | None) -> Samples:
    size = path.stat().st_size
    if size < _HEADER:
        raise UnreadableError(f"{path}: byte {size}: ends in its header: truncated")
    context, vocabulary, chunks = struct.unpack("<iii", range_of(path, len(_MAGIC), 12).tobytes())
    chunk = 0 if choice.steps is None else choice.steps.start
    rows, wide = context - 1 - context // 2, 2 * ((vocabulary + 1) // 2) + 4
    start = _HEADER + 4 * context * chunks
    if not (0 < context < 1 << 24 and 0 < vocabulary < 1 << 24 and 0 < chunks < 1 << 24 and rows > 0):
        raise UnreadableError(f"{path}: byte 8: {context} positions, {vocabulary} tokens, {chunks} chunks: not these")
    if start + 2 * rows * wide * chunks > size:
        raise UnreadableError(f"{path}: byte {size}: {start + 2 * rows * wide * chunks} were expected: truncated")
    if chunk >= chunks:
        raise UsageError(f"--step {chunk}: {path} has {chunks} chunks, from 0 on")
    ids = range_of(path, _HEADER, 4 * context * chunks).view("<i4").reshape(chunks, context)
    tokens = (int(ids[0, 0]), *map(int, ids[chunk, 1:]))
    table = range_of(path, start + 2 * rows * wide * chunk, 2 * rows * wide).reshape(rows, 2 * wide)
    scale, least = (np.ascontiguousarray(table[:, at : at + 4]).view("<f4") for at in (0, 4))
    steps = np.ascontiguousarray(table[:, 8:]).view("<u2")[:, :vocabulary]
    with np.errstate(over="ignore", invalid="ignore"):
        values = (least + scale * steps).astype(np.float32)
        precision = np.broadcast_to(0.51 * scale + 2e-6 * np.abs(least), values.shape).astype(np.float32)
    first = context // 2
    take = partial(_log_probabilities, range(first, first + rows), context, vocabulary, least)
    notes = (f"chunk {chunk} of {chunks}: log-probabilities of positions {first} … {first + rows - 1}, in 16 bits",)
    stages = [SampledStage(Node(None, "lm_head"), values, precision, take)]
    return Samples(path, stages, tokens, tuple(range(first, first + rows)), {"engine": "llama.cpp"}, notes)


def _log_probabilities(rows: range, context: int, vocabulary: int, least: Floats, logits: Floats) -> Floats | None:
    if logits.shape != (context, vocabulary):
        return None
    chosen = logits[rows.start : rows.stop].astype(np.float64)
    largest = chosen.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        found = chosen - largest - np.log(np.exp(chosen - largest).sum(axis=1, keepdims=True))
    return np.asarray(np.maximum(found, least), np.float32)


FORMAT = SampleFormat("kld", "llama-perplexity --kl-divergence-base: log-probabilities in 16 bits", _recognises, _read)
