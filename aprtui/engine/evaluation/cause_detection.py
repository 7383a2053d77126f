"""How often the cause of a planted fault is proved, and how often a wrong one is.

A fault is a stage of an honest capture that was computed in another way, at the first, the middle and the last layer;
that stage is replayed. The alternative that was planted must be the cause, or among those that cannot be told from it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.align.coverage import Selection
from aprtui.compare.causes import cause_sentence
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.alternatives import positions
from aprtui.engine.alternatives.call import StageCall
from aprtui.engine.evaluation.arithmetics import ARITHMETICS, stage_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, one_in, write_kind
from aprtui.engine.evaluation.porting_bugs.bug import PortingBug
from aprtui.engine.evaluation.porting_bugs.table import PORTING_BUGS
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
from aprtui.trace.graph import Node, Op
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
class PlantedCause:
    """A fault, and what says it: an alternative of one of the `names`, whose words contain `words`."""

    bug: PortingBug
    names: frozenset[str]
    words: str = ""

    def nodes(self, model: Model) -> list[Node]:
        """Where it is planted: at every stage that it applies to, in the first, the middle and the last layer."""
        layers = {None, 0, model.graph.layers // 2, model.graph.layers - 1}
        everywhere = PortingBug(self.bug.compute, self.bug.at, applies=self.bug.applies)
        found = everywhere.nodes(model)
        return [node for node in model.graph.nodes if node in found and node.layer in layers]


NAMES_OF_BUGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "RoPE base of another model": ("RoPE base",),
        "RoPE frequencies of half the exponent": ("RoPE base",),
        "RoPE turns backwards": ("RoPE backwards",),
        "RoPE stretched by two": ("RoPE scale",),
        "RoPE on the other pairs": ("RoPE layout",),
        "RoPE positions start at 1": ("RoPE positions",),
        "RoPE of keys a position late": ("RoPE positions",),
        "RoPE left out for keys": ("RoPE left out",),
        "RoPE twice for queries": ("RoPE twice",),
        "RoPE on half of the head": ("RoPE width",),
        "RoPE angles in bf16": ("RoPE angles in bfloat16",),
        "values turned by RoPE": ("values turned",),
        "norm: another epsilon": ("norm epsilon",),
        "norm: epsilon outside the root": ("norm epsilon outside",),
        "norm: mean taken off": ("norm mean subtracted",),
        "norm: sum in place of mean": ("norm sum for mean",),
        "norm: squares summed in f16": ("norm squares in float16",),
        "norm: weight left out": ("norm weight left out",),
        "norm: 1 + weight": ("norm 1 + weight",),
        "norm: weight of the next layer": ("norm weight",),
        "norm: weights of a layer exchanged": ("norm weight",),
        "norm of the feed-forward block reads the layer's input": ("wiring",),
        "final norm left out": ("wiring",),
        "bias left out": ("bias",),
        "bias twice": ("bias",),
        "bias left out for keys": ("bias",),
        "bias left out for values in the cache": ("wiring",),
        "bias of the next layer": ("bias",),
        "rows of K and V exchanged": ("order", "weights"),
        "V read for K": ("V read for K",),
        "K read for V": ("wiring",),
        "groups by remainder": ("K/V heads by remainder",),
        "one K/V head for all": ("one K/V head",),
        "V of the neighbouring head": ("neighbouring K/V head",),
        "V of the layer before": ("wiring",),
        "K cache written a slot late": ("cache a position late",),
        "V cache written a slot late": ("cache a position late",),
        "newest key not written yet": ("newest not cached",),
        "newest value not written yet": ("newest not cached",),
        "scale 1/d": ("factor",),
        "scale left out": ("factor",),
        "scale of the hidden size": ("factor",),
        "mask: own key unseen": ("mask without the own key",),
        "mask: next key seen": ("mask with the next key",),
        "mask left out": ("mask left out",),
        "mask: first key taken for padding": ("first key masked",),
        "mask: last token sees itself only": ("last token alone",),
        "mask: a window that the model lacks": ("window",),
        "mask: last tile of keys left out": ("last keys left out",),
        "mask: −10 in place of −∞": ("mask of −10",),
        "mask behind the softmax": ("mask behind the softmax",),
        "softmax in f16 without its maximum": ("softmax in float16",),
        "softmax of powers of two": ("softmax temperature",),
        "sinks left out": ("sinks left out",),
        "sinks of the heads in reverse": ("sinks reversed",),
        "softmax not normalised": ("softmax not normalised",),
        "a head zero": ("zeros",),
        "heads exchanged": ("order",),
        "heads not transposed": ("heads not transposed",),
        "attention: residual of the normed input": ("wiring",),
        "attention: residual left out": ("wiring",),
        "attention: residual twice": ("residual twice",),
        "feed-forward: residual of the normed input": ("wiring",),
        "feed-forward: residual left out": ("wiring",),
        "feed-forward: residual of the layer's input": ("wiring",),
        "residual clamped": ("overflow",),
        "layer left out": ("wiring",),
        "layer used twice": ("norm weight", "weights", "bias"),
        "layers exchanged": ("norm weight", "weights", "bias"),
        "gate and up exchanged": ("weights",),
        "GELU for SiLU": ("activation",),
        "sigmoid for SiLU": ("activation",),
        "hard SiLU": ("activation",),
        "SiLU left out": ("activation", "wiring"),
        "SiLU on the other operand": ("wiring",),
        "SwiGLU of gpt-oss: not clamped": ("SwiGLU not clamped",),
        "SwiGLU of gpt-oss: 1 not added": ("SwiGLU without 1",),
        "SwiGLU of gpt-oss: sigmoid without its factor": ("SwiGLU without factor",),
        "up left out": ("up ignored",),
        "Inf by overflow": ("overflow",),
        "one NaN": (),
        "matrix transposed": ("transposed",),
        "matrix of the next layer": ("weights",),
        "minimums of blocks left out": ("minimums",),
        "halves of bytes exchanged": ("nibbles",),
        "columns of blocks reversed": ("columns of blocks",),
        "a block's scale doubled": ("block of weights",),
        "blocks of 32 rows negated": ("block of weights",),
        "a tile transposed": ("tile transposed",),
        "tail of the columns left out": ("inputs left out",),
        "half of the columns left out in the last rows": ("inputs left out",),
        "last channels zero": ("zeros",),
        "last token's row stale": ("stale",),
        "inputs of products clamped": ("input limit",),
        "scale of the block before for 8-bit inputs": ("scale of inputs",),
        "embedding of the next id": ("token ids",),
        "embedding scaled": ("factor",),
        "logits of the token before": ("token before",),
        "logits a row late": ("order",),
        "last logits zero": ("zeros",),
        "logits summed in f16": (),
    }
)
"""The alternatives that say what each bug does; none where its values cannot be computed again."""


def _with_parameter(
    at: tuple[str | Op, ...], compute: Callable[[StageCall], Array], name: str, words: str
) -> PlantedCause:
    return PlantedCause(PortingBug(compute, at), frozenset({name}), words)


PLANTED_CAUSES: Mapping[str, PlantedCause] = MappingProxyType(
    {
        **{name: PlantedCause(PORTING_BUGS[name], frozenset(names)) for name, names in NAMES_OF_BUGS.items()},
        "theta 123456": _with_parameter(
            (Op.ROPE,), lambda c: positions.turned(c, theta=123456.0), "RoPE base", "theta 123456,"
        ),
        "positions off by 3": _with_parameter((Op.ROPE,), lambda c: c.honest(shift=3), "RoPE positions", "off by +3"),
        "positions divided by 4": _with_parameter(
            (Op.ROPE,), lambda c: positions.turned(c, scale=4.0), "RoPE scale", "divided by 4,"
        ),
        "epsilon 3e-4": _with_parameter(
            (Op.RMS_NORM,), lambda c: c.with_config(norm_epsilon=3e-4), "norm epsilon", "epsilon 0.0003,"
        ),
        "a factor of 1.25": _with_parameter(
            tuple(op for op in Op if op not in (Op.SCORES, Op.CHOOSE_EXPERTS)),
            lambda c: c.honest() * np.float32(1.25), "factor", "multiplied by 1.25",
        ),
        "scores scaled by 0.1": _with_parameter(
            (Op.SCORES,), lambda c: c.honest() * np.float32(0.1 / c.model.config.score_scale), "factor",
            "scaled by 0.1,",
        ),
        "64 inputs left out": _with_parameter(
            (Op.MATMUL,), lambda c: c.honest(np.pad(c.x[:, :-64], ((0, 0), (0, 64)))), "inputs left out",
            "last 64 inputs",
        ),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CauseCase:
    cause: str
    node: Node


@dataclass(frozen=True, slots=True)
class JudgedCause:
    """What a replay says of one planted fault."""

    case: CauseCase
    outcome: CauseOutcome
    said: str


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
            comparison = plants.replayed(case.node, PLANTED_CAUSES[case.cause].bug.compute)
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

    def replayed(self, node: Node, compute: Callable[[StageCall], Array]) -> Comparison | None:
        """The replay of `node`, computed in another way; None where the model has nothing to compute it from."""
        path = self.folder / relative_path(node)
        values = self._values(node, compute)
        if values is None:
            return None
        try:
            write_aprt(path, node.layer, values)
            return self._replayed(node)
        finally:
            shutil.copy(self._honest / relative_path(node), path)

    def _values(self, node: Node, compute: Callable[[StageCall], Array]) -> Array | None:
        stages = self._stages(self._honest)
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
