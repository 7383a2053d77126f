"""What verdicts are worth on the captures that people bring: every honest arithmetic as every kind of capture, none of
which may be called a divergence, and faults planted in the same, which should be found in the right segment."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.verdict import Verdict
from aprtui.engine.evaluation.arithmetics import ARITHMETICS, stage_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, block_outputs, one_in, write_kind
from aprtui.engine.evaluation.false_alarms import JudgedCapture, judged
from aprtui.engine.evaluation.fault_detection import PROMPT, REPLAY
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph

Array = NDArray[np.float32]


def _scaled(values: Array) -> Array:
    return values * np.float32(1.5)


def _zero_tail(values: Array) -> Array:
    changed = values.copy()
    changed[:, -max(1, values.shape[1] // 16) :] = 0
    return changed


def _stale_rows(values: Array) -> Array:
    return np.concatenate([values[:1], values[:-1]])


PLANTED: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {"scaled by 1.5": _scaled, "a sixteenth of the channels zero": _zero_tail, "stale rows": _stale_rows}
)
"""What is done to the values of one stage `[tokens, channels]`; all that follows inherits it."""


def places(graph: StageGraph) -> tuple[str, ...]:
    """The stages in which faults are planted, in the middle layer: gated product and output of its block at the end.

    Of those of attention and of a recurrence, the layer has one or the other.
    """
    gated = [stage.name for stage in graph.stages if stage.op in (Op.MULTIPLY, Op.SWIGLU_OAI)]
    recurrence = [name for name in ("linear_attn_qkv_mixed", "linear_attn_output") if name in graph]
    first = "mla_q" if graph.has_latent_attention else "qkv_matmul"
    return first, "attention", *recurrence, "ffn_norm", gated[-1], block_outputs(graph)[-1]


_TOKENS = 10


def prompt_of(model: Model) -> tuple[int, ...]:
    """The first tokens of the prompt that faults are planted in: few, as there are many captures."""
    return tuple(model.tokenizer.encode(PROMPT, special=True))[:_TOKENS]


@dataclass(frozen=True, slots=True)
class HonestCase:
    """An engine of an arithmetic, captured as a kind: by name."""

    engine: str
    kind: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.engine}"


@dataclass(frozen=True, slots=True)
class PlantedCase:
    """What is done to a node in an engine of an arithmetic, captured as a kind."""

    engine: str
    node: Node
    fault: str
    kind: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.engine}, {self.node} {self.fault}"


def honest_cases(every: int = 1) -> list[HonestCase]:
    """Every honest arithmetic as every kind of capture; one in `every` of them."""
    return one_in(every, [HonestCase(engine, kind) for engine in ARITHMETICS for kind in CAPTURE_KINDS])


def planted_cases(model: Model, every: int = 1) -> list[PlantedCase]:
    """Faults planted in every arithmetic, as every kind of capture; one in `every` of them."""
    layer = model.graph.layers // 2
    nodes = [node for place in places(model.graph) if (node := Node(layer, place)) in model.graph.order]
    faults = [(engine, node, fault) for engine in ARITHMETICS for node in nodes for fault in PLANTED]
    return one_in(every, [PlantedCase(*fault, kind) for fault in faults for kind in CAPTURE_KINDS])


def judge_honest_kinds(
    model: Model, tokens: Sequence[int], evaluators: Evaluators, cases: Sequence[HonestCase], progress: Progress
) -> Iterator[JudgedCapture]:
    """Each of `cases`, replayed."""
    with tempfile.TemporaryDirectory(prefix="aprtui-kinds-") as folder:
        made: tuple[str, dict[Node, Array]] = ("", {})
        for done, case in enumerate(cases):
            progress("judging honest captures by kind,", done, len(cases))
            if made[0] != case.engine:
                made = case.engine, stage_tensors(ARITHMETICS[case.engine], model, tokens, evaluators)
            path = Path(folder) / str(done)
            capture = write_kind(CAPTURE_KINDS[case.kind], made[1], model.graph, tokens, path)
            yield judged(str(case), REPLAY, replay_capture(capture, model, ReplayOptions(), evaluators))
            shutil.rmtree(path)


def judge_planted_kinds(
    model: Model, tokens: Sequence[int], evaluators: Evaluators, cases: Sequence[PlantedCase], progress: Progress
) -> Iterator[JudgedCapture]:
    """Each of `cases`, replayed; right where the segment holds the stage.

    A kind that holds nothing behind the fault is left out.
    """
    with tempfile.TemporaryDirectory(prefix="aprtui-kinds-") as folder:
        made: tuple[tuple[str, Node, str] | None, dict[Node, Array]] = (None, {})
        for done, case in enumerate(cases):
            progress("judging planted faults by kind of capture,", done, len(cases))
            node, fault = case.node, (case.engine, case.node, case.fault)
            if made[0] != fault:
                change = _planted(node, PLANTED[case.fault])
                made = fault, stage_tensors(ARITHMETICS[case.engine], model, tokens, evaluators, change=change)
            path = Path(folder) / str(done)
            capture = write_kind(CAPTURE_KINDS[case.kind], made[1], model.graph, tokens, path)
            if max(model.graph.order[found] for found in capture.files) < model.graph.order[node]:
                continue
            comparison = replay_capture(capture, model, ReplayOptions(), evaluators)
            divergence = comparison.first_divergence
            right = comparison.verdict is Verdict.FAIL and divergence is not None and node in divergence.segment
            yield judged(str(case), REPLAY, comparison, right)
            shutil.rmtree(path)


def _planted(at: Node, change: Callable[[Array], Array]) -> Callable[[Node, Array], Array]:
    return lambda node, values: change(values) if node == at else values
