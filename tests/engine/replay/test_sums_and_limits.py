"""Two kinds of mistakes at sums: an op that reads one of their terms, and values that a 16-bit type does not hold."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.align.coverage import Selection
from aprtui.compare.causes import unexplained, where_words
from aprtui.compare.comparison import Comparison
from aprtui.compare.report.headline import headline
from aprtui.compare.verdict import Verdict
from aprtui.engine.alternatives import rows
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.evaluation.arithmetics import ARITHMETICS
from aprtui.engine.evaluation.bug_detection import buggy_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, write_kind
from aprtui.engine.evaluation.porting_bugs.bug import PortingBug
from aprtui.engine.replay.arithmetic import UNROUNDED, KnownArithmetic
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.identify import FoundEngine, IdentifiedCapture
from aprtui.engine.replay.recompute import CapturedStages
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.engine.rounding import ROUND
from aprtui.model.model import Model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.engine.embedded_captures import TOKENS, edit, evaluators, exact, model
from tests.thinning import often

__all__ = ["evaluators", "exact", "model"]

SUM, BEHIND = "post_attn_residual", "post_ffn_residual"
LIMIT = 65504


def replay_with(
    compute: Mapping[str, Callable[[StageCall], Array]], model: Model, evaluators: Evaluators, folder: Path
) -> Comparison:
    """Of an engine that computes some stages otherwise, in the middle layer."""

    def other(call: StageCall) -> Array:
        return compute[call.node.stage](call)

    bug = PortingBug(other, tuple(compute), applies=lambda model, node: node.layer == 2)
    tensors = buggy_tensors(bug, ARITHMETICS["float32"], model, TOKENS, evaluators)
    capture = write_kind(CAPTURE_KINDS["complete"], tensors, model.graph, TOKENS, folder / "capture")
    return replay_capture(capture, model, ReplayOptions(), evaluators)


def with_the_residual(call: StageCall) -> Array:
    return call.honest() + call.seen[Node(1, BEHIND)]


def test_a_norm_that_reads_a_term_is_named_where_the_sum_was_captured_as_what_it_reads(
    model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    result = replay_with({SUM: rows.second_input, BEHIND: with_the_residual}, model, evaluators, tmp_path)
    (cause,) = result.causes
    assert (where_words(cause), cause.words) == ("layer 2 ffn_norm", f"reads attn_out in place of {SUM}")
    assert headline(result).startswith(f"layer 2 ffn_norm: reads attn_out in place of {SUM}")
    assert not unexplained(result)


@pytest.mark.parametrize("stage", often([SUM, BEHIND], {SUM}))
def test_a_sum_without_its_residual_is_named_itself_where_the_next_one_lacks_it_too(
    model: Model, evaluators: Evaluators, tmp_path: Path, stage: str
) -> None:
    (cause,) = replay_with({stage: rows.second_input}, model, evaluators, tmp_path).causes
    assert where_words(cause) == f"layer 2 {stage}" and cause.words.endswith("is not added")


def replay_of_a_large_sum(
    found: float, known: KnownArithmetic, model: Model, evaluators: Evaluators, exact: Path, folder: Path
) -> Comparison:
    """One value of a sum is `found`, where its terms make more than float16 holds."""
    shutil.copytree(exact, folder)
    (folder / "manifest.json").unlink()
    node, at = Node(2, SUM), 1000

    def kept(values: Array) -> Array:
        values = ROUND[known.output_type(node)](values) if known.output_type(node) != "f32" else values
        values[at] = found
        return values

    edit(folder, Node(2, "attn_out"), lambda values: values.__setitem__(at, 70000))
    edit(folder, node, kept)
    for stage in ("ffn_norm", BEHIND):  # which show that the engine itself had it, and not the file alone
        edit(folder, Node(2, stage), lambda values: values.__setitem__(at, np.nan if np.isinf(found) else values[at]))
    capture = Capture.open(folder)
    stages = CapturedStages(capture, model, TOKENS, last=len(TOKENS))
    identified = IdentifiedCapture(stages, (), FoundEngine(known, (), own_weights=True))
    options = ReplayOptions(selection=Selection(stages=SUM, layers="2"), tokens=TOKENS)
    return replay_capture(capture, model, options, evaluators, identified=identified)


OF_FLOAT16 = (
    KnownArithmetic(outputs={SUM: "f16"}),
    KnownArithmetic(replace(UNROUNDED, stage_output="f16"), between=frozenset({"f16"})),
)


@pytest.mark.parametrize("known", OF_FLOAT16, ids=["one stage in float16", "all stages in float16"])
def test_an_overflow_is_no_rounding_whatever_a_stage_is_kept_in(
    known: KnownArithmetic, model: Model, evaluators: Evaluators, exact: Path, tmp_path: Path
) -> None:
    result = replay_of_a_large_sum(np.inf, known, model, evaluators, exact, tmp_path / "capture")
    assert result.verdict is Verdict.FAIL
    (cause,) = result.causes
    assert cause.words == f"values beyond {LIMIT}, the largest float16, are Inf: an overflow"


def test_one_value_at_the_limit_of_a_type_proves_that_values_saturate_there(
    model: Model, evaluators: Evaluators, exact: Path, tmp_path: Path
) -> None:
    known = KnownArithmetic()
    (cause,) = replay_of_a_large_sum(LIMIT, known, model, evaluators, exact, tmp_path / "a").causes
    assert cause.words == f"values saturate at {LIMIT}, the largest float16"
    assert not replay_of_a_large_sum(60000, known, model, evaluators, exact, tmp_path / "b").causes, "of no type"
