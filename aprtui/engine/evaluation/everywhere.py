"""Engines that err everywhere, each a row: every matrix product is off, so that no stage of it is to blame alone.

Each is judged alone and against an honest engine, as it is and with a local fault on top, which must still be named.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.report.headline import headline
from aprtui.compare.verdict import Verdict
from aprtui.engine.evaluation.arithmetics import ARITHMETICS, EngineArithmetic, stage_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, block_outputs, write_kind
from aprtui.engine.evaluation.false_alarms import JudgedCapture
from aprtui.engine.evaluation.fault_detection import DIFF, REPLAY
from aprtui.engine.floors.criteria import criteria_by_model
from aprtui.engine.replay.arithmetic import UNROUNDED, parse_rounding
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model
from aprtui.progress import Progress
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WrongEverywhere:
    """An engine whose products all err: what the verdict must say they look like; empty where it is a standard
    arithmetic that must pass. `rounding` states that it is meant; `share` is that of the products that err."""

    engine: EngineArithmetic
    looks_like: str
    may_be_meant: bool = True
    rounding: str = ""
    share: float = 1


def _wrong(rounding: str, looks_like: str, *, may_be_meant: bool = True, share: float = 1) -> WrongEverywhere:
    engine = EngineArithmetic(replace(UNROUNDED, **parse_rounding(rounding)))
    return WrongEverywhere(engine, looks_like, may_be_meant, rounding, share)


EVERYWHERE: Mapping[str, WrongEverywhere] = MappingProxyType(
    {
        "weights in fp8": _wrong("weights=fp8", "weights in fp8 (e4m3) with one scale a tensor"),
        "weights in fp8 a channel": _wrong("weights=fp8_row", "weights in fp8 (e4m3) with a scale a channel"),
        "weights in fp8 e5m2": _wrong("weights=fp8_e5m2", "weights in fp8 (e5m2) with one scale a tensor"),
        "weights in int8 a row": _wrong("weights=int8_row", "weights in int8 with a scale a row"),
        "weights in Q8_0": _wrong("weights=q8_0", "weights in Q8_0"),
        "weights in Q4_0": _wrong("weights=q4_0", "weights in Q4_0"),
        "weights in bf16": _wrong("weights=bf16", "weights in bf16"),
        "weights in f16": _wrong("weights=f16", "weights in f16"),
        "weights and inputs in int8": _wrong(
            "weights=int8_row,matmul_input=int8_row",
            "weights in int8 with a scale a row and inputs in int8 with a scale a token",
        ),
        "sums in bf16": _wrong("sums=bf16", "sums kept in bf16"),
        "sums in f16": _wrong("sums=f16", "sums kept in f16"),
        "inputs clamped at 20": _wrong("input_limit=20", "inputs clamped at 20", may_be_meant=False, share=0.1),
        "bf16, weights too": _wrong("matmul_input=bf16,weights=bf16,kv_cache=bf16,stage_output=bf16", ""),
        "f16, weights too": _wrong("matmul_input=f16,weights=f16,kv_cache=f16,stage_output=f16", ""),
        "TF32, weights too": _wrong("matmul_input=tf32,weights=tf32", ""),
    }
)
"""By name, as the tables of `aprtui bench verdicts --part everywhere` show them."""

LOCAL_FACTOR = np.float32(1.5)


def judge_everywhere(
    model: Model, tokens: Sequence[int], evaluators: Evaluators, progress: Progress, every: int = 1
) -> Iterator[JudgedCapture]:
    """Every engine of the table, by replay and against an honest one; then each with the output of the middle layer's
    feed-forward block times 1.5. Right is the sentence (or the PASS) that the table says, then the faulty stage by its
    name."""
    fault = Node(model.graph.layers // 2, block_outputs(model.graph)[-1])
    cases = [(name, local) for name in EVERYWHERE for local in (False, True)]
    with tempfile.TemporaryDirectory(prefix="aprtui-everywhere-") as folder:
        of = CAPTURE_KINDS["complete"]
        honest_tensors = stage_tensors(ARITHMETICS["float32"], model, tokens, evaluators, seed=1)
        honest = write_kind(of, honest_tensors, model.graph, tokens, Path(folder) / "honest")
        for done, (name, local) in list(enumerate(cases))[::every]:
            progress("judging what is wrong everywhere,", done, len(cases))
            wrong = EVERYWHERE[name]

            def change(node: Node, values: Array, at: Node | None = fault if local else None) -> Array:
                return values * LOCAL_FACTOR if node == at else values

            tensors = stage_tensors(wrong.engine, model, tokens, evaluators, change=change)
            capture = write_kind(of, tensors, model.graph, tokens, Path(folder) / str(done))
            replayed = replay_capture(capture, model, ReplayOptions(), evaluators)
            criteria = criteria_by_model(honest, capture, model, tokens, evaluators)
            compared = compare_captures(honest, capture, DiffOptions(tokens=tuple(tokens)), None, criteria)
            for signal, result in ((REPLAY, replayed), (DIFF, compared)):
                right = _names(result, fault) if local else _says(result, wrong)
                what = f"{signal}{', a local fault on top' if local else ''}: {name}"
                yield JudgedCapture(what, signal, result.verdict, headline(result), right)


def _names(result: Comparison, fault: Node) -> bool:
    divergence = result.first_divergence
    return result.verdict is Verdict.FAIL and divergence is not None and divergence.verdict.node == fault


def _says(result: Comparison, wrong: WrongEverywhere) -> bool:
    if not wrong.looks_like:
        return result.verdict is Verdict.PASS
    expected = Verdict.UNKNOWN if wrong.may_be_meant else Verdict.FAIL
    return result.verdict is expected and f"as {wrong.looks_like} do" in headline(result)
