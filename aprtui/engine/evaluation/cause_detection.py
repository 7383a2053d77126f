"""How often the cause of a planted fault is proved, and how often a wrong one is.

A fault is a stage of an honest capture that was computed in another way, at the first, the middle and the last layer;
that stage is replayed. The alternative that was planted must be the cause, or among those that cannot be told from it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.coverage import Selection
from aprtui.compare.causes import cause_sentence
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.alternatives.call import StageCall
from aprtui.engine.evaluation.arithmetics import ARITHMETICS, stage_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, one_in, write_kind
from aprtui.engine.evaluation.planted_causes import PLANTED_CAUSES, PlantedCause
from aprtui.engine.replay.arithmetic import KnownArithmetic, Recomputation
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.identify import FoundEngine, IdentifiedCapture
from aprtui.engine.replay.recompute import CapturedStages, Recomputer
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.config import RopeAngles
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.trace.aprt import write_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import relative_path

Array = NDArray[np.float32]

_SEED = 1


class CauseOutcome(StrEnum):
    PROVED = "proved"
    ALIKE = "among those alike"
    NONE = "no cause"
    WRONG = "a wrong cause"
    BENEATH = "beneath noise"


@dataclass(frozen=True, slots=True)
class CauseCase:
    cause: str
    node: Node

    def __str__(self) -> str:
        return f"{self.cause} at {self.node}"


@dataclass(frozen=True, slots=True)
class JudgedCause:
    """What a replay says of one planted fault."""

    case: CauseCase
    outcome: CauseOutcome
    said: str

    @property
    def what(self) -> str:
        return str(self.case)


def cause_cases(model: Model, every: int = 1) -> list[CauseCase]:
    """Every planted cause at every stage that it applies to, in three layers; one in `every`."""
    cases = [CauseCase(name, node) for name, planted in PLANTED_CAUSES.items() for node in planted.nodes(model)]
    return one_in(every, cases)


def judge_causes(
    model: Model, tokens: Sequence[int], evaluators: Evaluators, cases: Sequence[CauseCase], progress: Progress
) -> Iterator[JudgedCause]:
    """What a replay of the stage says of each of `cases`; a fault that a layer cannot have is left out."""
    with tempfile.TemporaryDirectory(prefix="aprtui-causes-") as folder:
        plants = CausePlants(model, tokens, evaluators, Path(folder))
        for done, case in enumerate(cases):
            progress(f"judging causes ({case.cause}),", done, len(cases))
            comparison = plants.replayed(case.node, PLANTED_CAUSES[case.cause])
            if comparison is not None:
                outcome = cause_outcome(comparison, PLANTED_CAUSES[case.cause])
                yield JudgedCause(case, outcome, "; ".join(map(cause_sentence, comparison.causes)))


def cause_outcome(comparison: Comparison, planted: PlantedCause) -> CauseOutcome:
    """Whether the causes that were proved are the planted one."""
    if comparison.verdict is Verdict.PASS:
        return CauseOutcome.BENEATH
    if not comparison.causes:
        return CauseOutcome.NONE
    if all(cause.name in planted.names and planted.words in cause.words for cause in comparison.causes):
        return CauseOutcome.PROVED
    alike = {tried.name for tried in comparison.alternatives if tried.is_proved}
    first = comparison.causes[0]
    return CauseOutcome.ALIKE if first.alike and alike & planted.names else CauseOutcome.WRONG


class CausePlants:
    """An honest capture of one model, one stage of which is computed in another way at a time."""

    def __init__(self, model: Model, tokens: Sequence[int], evaluators: Evaluators, folder: Path) -> None:
        self.model, self.tokens, self.evaluators, self.folder = model, tokens, evaluators, folder / "capture"
        arithmetic = ARITHMETICS["float32"]
        self._tensors = stage_tensors(arithmetic, model, tokens, evaluators, _SEED)
        write_kind(CAPTURE_KINDS["complete"], self._tensors, model.graph, tokens, self.folder)
        self._honest = folder / "honest"
        shutil.copytree(self.folder, self._honest)
        self._arithmetic = KnownArithmetic(arithmetic.rounding)

    def replayed(self, node: Node, planted: PlantedCause) -> Comparison | None:
        """The replay of `node`, computed in another way; None where the model has nothing to compute it from."""
        (source, *_) = self.model.graph.inputs(node) or (node,)
        try:
            if planted.read is not None:
                write_aprt(self.folder / relative_path(source), source.layer, planted.read(self._tensors[source]))
            values = self._values(node, planted.bug.compute)
            if values is None:
                return None
            write_aprt(self.folder / relative_path(node), node.layer, values)
            return self._replayed(node)
        finally:
            for changed in {source, node}:
                shutil.copy(self._honest / relative_path(changed), self.folder / relative_path(changed))

    def _values(self, node: Node, compute: Callable[[StageCall], Array]) -> Array | None:
        stages = self._stages(self.folder)
        arithmetic = Recomputation(self.model, self._arithmetic.rounding, self.evaluators)
        recomputer = Recomputer(self.model, stages, arithmetic)
        count = stages.rows(node)
        first, engine = len(self.tokens) - count, self.evaluators(RopeAngles.F64)
        inputs = tuple(recomputer.inputs(node, count))
        call = StageCall(self.model, RopeAngles.F64, engine, self._tensors, node, inputs, self.tokens[first:], first)
        try:
            with np.errstate(all="ignore"):
                return np.ascontiguousarray(compute(call), np.float32).reshape(self._tensors[node].shape)
        except KeyError:
            return None

    def _stages(self, folder: Path) -> CapturedStages:
        return CapturedStages(Capture.open(folder), self.model, self.tokens, last=len(self.tokens))

    def _replayed(self, node: Node) -> Comparison:
        planted = self._stages(self.folder)
        found = IdentifiedCapture(planted, (), FoundEngine(self._arithmetic, (), own_weights=True))
        graph = self.model.graph
        # What is right of queries shows where the tokens stand that keys were turned for, and back.
        turned = [stage.name for stage in graph.stages if stage.op is Op.ROPE]
        names = turned if graph[node.stage].op is Op.ROPE else [node.stage]
        chosen = Selection(stages=",".join(names), layers=None if node.layer is None else str(node.layer))
        options = ReplayOptions(selection=chosen, tokens=tuple(self.tokens))
        return replay_capture(planted.capture, self.model, options, self.evaluators, identified=found)
