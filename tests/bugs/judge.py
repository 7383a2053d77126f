"""Each bug planted, captured by `aprtui.capture` and replayed: what a report names of it."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import transformers

from aprtui.capture import capture
from aprtui.capture.cache_argument import called_behind
from aprtui.compare.align.coverage import Selection
from aprtui.compare.causes import cause_sentence
from aprtui.compare.comparison import Cause, Comparison
from aprtui.compare.report.headline import headline
from aprtui.compare.verdict import Verdict
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model, load_model
from aprtui.oracle.transformers_model import AttentionKind, DataType, load
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.bugs.bug import Bug, Edit, Fault

TEXT = "The capital of France is Paris, and 12 + 30 = 42; def f(x): return"
TOKENS = 16
_FIRST = (0, 1, 2)


class Outcome(StrEnum):
    """What a replay says of a bug, worst last: of two faults, both are named or the bug is not."""

    NAMED = "named"
    ALIKE = "among those alike"
    STATED = "stated"
    """As a rounding of that stage, which engines may mean: it passes."""
    PLACED = "placed"
    MISPLACED = "misplaced"
    MISSED = "missed"
    WRONG = "wrong proof"


@dataclass(frozen=True, slots=True)
class Judged:
    bug: Bug
    outcome: Outcome
    said: str
    causes: tuple[str, ...]
    wrong: tuple[str, ...]


class Kept(StrEnum):
    """What of a capture a bug is judged by: all of it, the first layers and those of its fault, or its logits alone."""

    WHOLE = "whole"
    QUICK = "quick"
    LOGITS = "logits"


def judged_bugs(folder: Path, bugs: Iterable[Bug], kept: Kept = Kept.WHOLE) -> Iterator[Judged]:
    """Judge `bugs`, model by model, by what is `kept`; the files of the models lie in `folder`."""
    for name, group in groupby(sorted(bugs, key=lambda bug: bug.model), lambda bug: bug.model):
        model = load_model(next(folder.glob(f"{name}*.gguf")))
        module = load(model, DataType.FLOAT32, AttentionKind.EAGER, None).module
        with Evaluators(model) as evaluators:
            for bug in group:
                yield judge(bug, replayed(bug, model, module, evaluators, kept))


def replayed(bug: Bug, model: Model, module: Any, evaluators: Evaluators, kept: Kept = Kept.WHOLE) -> Comparison:
    """What a replay says of a capture of `module` with the bug, by what is `kept` of it."""
    folder = Path(tempfile.mkdtemp(prefix="aprtui-bug-"))
    try:
        ids = model.tokenizer.encode(TEXT)[:TOKENS]
        cache = transformers.DynamicCache()
        with torch.no_grad(), Edit(module) as edit:
            bug.plant(edit)
            with capture(module, folder / "capture"):
                for chunk in torch.tensor([ids]).split(bug.passes, 1):
                    called_behind(module, chunk, cache)
        found = Capture.open(folder / "capture")
        if kept is Kept.LOGITS:
            logits = found.files[Node(None, "lm_head")].path
            (folder / "logits").mkdir()
            shutil.copy(logits, folder / "logits" / logits.name)
            return replay_capture(Capture.open(folder / "logits"), model, ReplayOptions(tokens=tuple(ids)), evaluators)
        selection = _layers_of(bug) if kept is Kept.QUICK else Selection()
        return replay_capture(found, model, ReplayOptions(selection=selection), evaluators)
    finally:
        shutil.rmtree(folder)


def _layers_of(bug: Bug) -> Selection:
    named = {layer for fault in bug.faults for layer in fault.layers}
    return Selection(layers=",".join(map(str, sorted(named | set(_FIRST)))))


def judge(bug: Bug, comparison: Comparison) -> Judged:
    """How well the report names the bug, and which of its causes name something else."""
    wrong = tuple(
        cause_sentence(cause)
        for cause in comparison.causes
        if not any(_names(fault, cause) for fault in bug.faults) or not all(_wrong_at(bug, n) for n in cause.nodes)
    )
    outcome = max((_outcome(bug, fault, comparison) for fault in bug.faults), key=list(Outcome).index)
    return Judged(
        bug,
        Outcome.WRONG if wrong else outcome,
        headline(comparison),
        tuple(cause_sentence(cause) for cause in comparison.causes),
        wrong,
    )


def _outcome(bug: Bug, fault: Fault, comparison: Comparison) -> Outcome:
    found = [cause for cause in comparison.causes if any(_is_of(fault, node) for node in cause.nodes)]
    if any(re.search(fault.words, cause.words) for cause in found):
        return Outcome.NAMED
    if any(_names(fault, cause) for cause in found):
        return Outcome.ALIKE
    first = comparison.first_divergence
    if first is None:
        stated = re.search(rf"\b({'|'.join(fault.stages.split())}) in ({fault.words})", " ".join(comparison.statements))
        return Outcome.STATED if stated and comparison.verdict is Verdict.PASS else Outcome.MISSED
    beyond = {node for stage in comparison.divergent for node in (stage.node, *stage.segment)}
    is_placed = any(_wrong_at(bug, node) for node in (first.verdict.node, *first.segment))
    return Outcome.PLACED if is_placed and any(_is_of(fault, node) for node in beyond) else Outcome.MISPLACED


def _names(fault: Fault, cause: Cause) -> bool:
    return any(re.search(fault.words, words) for words in (cause.words, *cause.alike))


def _wrong_at(bug: Bug, node: Node) -> bool:
    return any(_is_of(fault, node) for fault in bug.faults)


def _is_of(fault: Fault, node: Node) -> bool:
    return node.stage in fault.stages.split() and (not fault.layers or node.layer in fault.layers)
