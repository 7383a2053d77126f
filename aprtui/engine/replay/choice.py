"""Whether the experts that a capture chose are those that its router found most probable."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.metrics.logits import measure_indices
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import StageVerdict, Verdict, judge_indices
from aprtui.compare.wording import counted
from aprtui.trace.graph import Node

Array = NDArray[np.float32]


def judge_choice(node: Node, expected: Array, chosen: Array, router: Array, tolerance: float) -> StageVerdict:
    """The verdict on `chosen` experts `[tokens, K]`, where `expected` are the most probable ones of `router`.

    Experts whose probabilities differ by less than `tolerance`, as a share, may stand for one another: rounding decides
    which of them is the larger. No token may have an expert twice.
    """
    verdict = judge_indices(node, measure_indices(expected, chosen))
    if verdict.verdict is not Verdict.FAIL or not _are_equal_choices(expected, chosen, router, tolerance):
        return verdict
    differing = int(np.count_nonzero(expected != chosen))
    reason = f"{counted(differing, 'choice')} between experts that the router finds equally probable"
    return StageVerdict(node, Verdict.PASS, Metric.INDICES, float(differing), None, 0.0, reason)


def _are_equal_choices(expected: Array, chosen: Array, router: Array, tolerance: float) -> bool:
    in_order = np.sort(chosen, axis=1)
    if (in_order[:, 1:] == in_order[:, :-1]).any():
        return False
    a, b = (np.take_along_axis(router, ids.astype(np.int64), axis=1) for ids in (expected, chosen))
    return bool((np.abs(a - b) <= tolerance * np.maximum(a, b)).all())
