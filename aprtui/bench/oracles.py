"""`aprtui bench verdicts --part oracles`: ours, llama.cpp and transformers on one model, stage by stage, and verdicts.

All are honest: none of the captures may fail, alone by a replay or beside ours by the measured floor.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from aprtui.compare.metrics.measure import compare_values
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.evaluation.false_alarms import JudgedCapture, judge_pairs, judge_replays
from aprtui.engine.kv_types import fitting_kv_types
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Logits
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.model.model import Model
from aprtui.oracle.llamacpp_capture import LlamaCppOptions, write_llamacpp_captures
from aprtui.oracle.requests import Evaluation
from aprtui.oracle.transformers_capture import TransformersOptions, write_transformers_captures
from aprtui.oracle.transformers_model import AttentionKind, DataType
from aprtui.progress import Progress
from aprtui.trace.capture import Capture

OURS, LLAMA_CPP, TRANSFORMERS = "aprtui", "llama.cpp", "transformers"
_ALIKE = (OURS, LLAMA_CPP, TRANSFORMERS)
"""Those that keep keys, values and all results in float32; only llama.cpp rounds activations."""
_DEFAULT = LlamaCppOptions(threads=1)
"""Threads that wait for each other are slow where a machine does other things, too."""
_FLOATS = replace(_DEFAULT, kv=KvType.F32)
_FLASH = replace(_DEFAULT, flash_attention=True)
_LLAMA_CPP = {
    LLAMA_CPP: _FLOATS,
    "llama.cpp, f16 keys and values": _DEFAULT,
    "llama.cpp, weights as in the file": replace(_FLOATS, repack=False),
    "llama.cpp, flash attention": _FLASH,
    "llama.cpp, flash attention, q8_0 keys and values": replace(_FLASH, kv=KvType.Q8_0),
    "llama.cpp, flash attention, q4_0 keys and values": replace(_FLASH, kv=KvType.Q4_0),
}
_TRANSFORMERS = {
    TRANSFORMERS: TransformersOptions(threads=1),
    "transformers, sdpa": TransformersOptions(attention=AttentionKind.SDPA, threads=1),
    "transformers, bfloat16": TransformersOptions(DataType.BFLOAT16, threads=1),
    "transformers, float16": TransformersOptions(DataType.FLOAT16, threads=1),
}
_DECODED = ", decoded"


@dataclass(frozen=True, slots=True)
class StageErrors:
    """The largest relative L2 norm of a difference at `stage`, over the layers, by pair of engines; None where one of
    them has no tensor of it."""

    stage: str
    errors: tuple[float | None, ...]


PAIRS = tuple(combinations(_ALIKE, 2))
"""The pairs of engines that `StageErrors` are of; the first is the reference."""


def run_oracles(model: Model, tokens: Sequence[int], folder: Path, progress: Progress) -> Iterator[StageErrors]:
    """The largest errors of each stage between the three engines, whose captures and those of their variants go to
    `folder`."""
    captures = {name: Capture.open(path) for name, path in _written(model, tokens, folder, progress).items()}
    for stage in model.graph.stages:
        if not stage.holds_indices:
            yield StageErrors(
                stage.name,
                tuple(_largest_error(captures[a], captures[b], stage.name) for a, b in PAIRS),
            )


def judge_oracles(model: Model, tokens: Sequence[int], folder: Path, progress: Progress) -> Iterator[JudgedCapture]:
    """Each capture below `folder`, replayed, and beside ours by the floor; those of the two others together."""
    captures = [Capture.open(path) for path in sorted(folder.iterdir())]
    by_name = {capture.path.name: capture for capture in captures}
    ours = by_name[OURS]
    pairs = [(ours, capture) for capture in captures if capture is not ours]
    pairs.append((by_name[TRANSFORMERS], by_name[LLAMA_CPP]))
    with Evaluators(model) as evaluators:
        for done, capture in enumerate(captures):
            progress("replaying captures of oracles,", done, len(captures))
            yield from judge_replays(model, [capture], evaluators)
        for done, pair in enumerate(pairs):
            progress("comparing captures of oracles,", done, len(pairs))
            yield from judge_pairs(model, tokens, [pair], evaluators)


def _written(model: Model, tokens: Sequence[int], folder: Path, progress: Progress) -> dict[str, Path]:
    whole, in_part = (Evaluation(tokens, None, count) for count in (len(tokens), max(1, len(tokens) // 2)))
    shutil.rmtree(folder, ignore_errors=True)
    graph = model.config.graph
    request = CaptureRequest(tokens, None, frozenset(model.graph.nodes), Logits.ALL)
    engine = open_engine(model, context=len(tokens))
    try:
        write_capture(engine, model, request, folder / OURS)
    finally:
        engine.close()
    for name, options in _LLAMA_CPP.items():
        if options.kv in fitting_kv_types(graph):
            work = {folder / name: whole} | ({folder / (name + _DECODED): in_part} if options is _FLOATS else {})
            write_llamacpp_captures(model, work, options, progress)
    for name, choice in _TRANSFORMERS.items():
        if choice.attention is AttentionKind.EAGER or not (graph.sinks or graph.attn_softcap):
            write_transformers_captures(model, {folder / name: whole}, choice, progress)
    return {name: folder / name for name in _ALIKE}


def _largest_error(a: Capture, b: Capture, stage: str) -> float | None:
    nodes = [node for node in a.files if node.stage == stage and node in b.files]
    causal = a.graph[stage].is_attention_map
    errors = [compare_values(a.values(node), b.values(node), causal=causal).rel_l2 for node in nodes]
    return max((error for error in errors if error is not None), default=None)
