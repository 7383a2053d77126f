"""Pairs of honest engines of one model, judged as two captures are: none of them may be called a divergence."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from aprtui.engine.evaluation.arithmetics import ARITHMETICS, stage_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, one_in, write_kind
from aprtui.engine.evaluation.false_alarms import JudgedCapture, judge_pairs
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.model.model import Model
from aprtui.progress import Progress

PAIRED_ENGINES = (
    "float32", "bfloat16", "float16", "llama.cpp, f32 K/V", "llama.cpp, f16 K/V", "llama.cpp, flash attention",
)  # fmt: skip
"""Whose captures people hold against one another: transformers in three types, llama.cpp in three settings."""


def judge_honest_pairs(
    model: Model, tokens: Sequence[int], evaluators: Evaluators, progress: Progress, every: int = 1
) -> Iterator[JudgedCapture]:
    """Every pair of `PAIRED_ENGINES` by the measured floor, each with sums in an order of its own; one in `every`."""
    with tempfile.TemporaryDirectory(prefix="aprtui-pairs-") as folder:
        captures = []
        for seed, name in enumerate(PAIRED_ENGINES):
            tensors = stage_tensors(ARITHMETICS[name], model, tokens, evaluators, seed)
            path = Path(folder) / name.replace("/", "∕")
            captures.append(write_kind(CAPTURE_KINDS["complete"], tensors, model.graph, tokens, path))
        pairs = one_in(every, list(combinations(captures, 2)))
        for done, pair in enumerate(pairs):
            progress("judging pairs of honest engines,", done, len(pairs))
            yield from judge_pairs(model, tokens, [pair], evaluators)
