"""Bounds from noise floors: how much honest engines differ at a stage, and from where on it is a divergence.

A floor comes from a third capture of the reference's own kind (`--floor REF`), or from runs of the model. The bound is
three times the floor, as in the three-way gate of AWS Neuron's accuracy debugger; float32 rounding is always admitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from aprtui.compare.align.coverage import Selection, plan_coverage
from aprtui.compare.align.pairing import StagePair, pair_stage
from aprtui.compare.align.tokens import align_tokens
from aprtui.compare.captures import Bounds, Criteria
from aprtui.compare.metrics.extras import error_overlap
from aprtui.compare.metrics.measure import Metric, PairMetrics, measure
from aprtui.compare.verdict import ROUNDING_REL_L2, Tolerance
from aprtui.progress import Progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node

L2_RATIO = 3.0
LINF_RATIO = 5.0
LEAST_OVERLAP = 0.99
"""Bhattacharyya coefficient from which two distributions of errors count as one."""
MOST_BINS, VALUES_A_BIN, LEAST_VALUES, LEAST_TOKENS = 256, 100, 1000, 16
"""Two samples of one distribution overlap by about 1 − bins / 4 values: with so many values a bin that is 0.9975. The
errors of one token have one cause (a flipped rounding, say): few values or tokens do not show a distribution."""


def floor_tolerance(floor: float, basis: str) -> Tolerance:
    """The bound that follows from a floor of `token_rel_l2`."""
    bound = max(ROUNDING_REL_L2, L2_RATIO * floor)
    return Tolerance(Metric.TOKEN_REL_L2, bound, floor, f"{L2_RATIO:g} × {basis}")


def floor_bounds(floors: Mapping[Node, float], basis: str, coarsest: Mapping[Node, float] | None = None) -> Bounds:
    """Bounds for each node that has a floor; none for others.

    `coarsest`, where given, are floors of engines that nothing has ruled out: between the two, nothing is settled.
    """

    def bounds(node: Node) -> Sequence[Tolerance]:
        if node not in floors:
            return ()
        tolerance = floor_tolerance(floors[node], basis)
        if coarsest is None:
            return (tolerance,)
        return (replace(tolerance, limit=floor_tolerance(coarsest[node], basis).bound),)

    return bounds


def reference_criteria(
    a: Capture, reference: Capture, tokens: tuple[int, ...] | None, progress: Progress | None
) -> Criteria:
    """Criteria from `reference`, a capture by an engine that errs as the reference's own kind does.

    Its error against `a` is the floor of each stage that both hold: three times that in relative L2 of the worst
    token, five times in relative L∞. A reference whose tokens are not A's gives none, and a doubt.
    """
    alignment = align_tokens(a, reference, tokens)
    if alignment.problem:
        return Criteria(doubts=(f"the floor's capture cannot be compared with A: {alignment.problem}",))
    coverage = plan_coverage(a, reference, Selection(), ())
    found: dict[Node, tuple[Tolerance, ...]] = {}

    def pair_of(node: Node) -> StagePair | None:
        pair = pair_stage(a, reference, coverage.graph[node.stage], node, alignment)
        return pair if isinstance(pair, StagePair) else None

    for done, node in enumerate(coverage.nodes):
        if progress:
            progress(f"measuring the floor at {node},", done, len(coverage.nodes))
        if node not in a.files or node not in reference.files:
            continue
        pair = pair_of(node)
        if pair is not None:
            found[node] = _ratios(pair)
    return Criteria(
        bounds=lambda node: found.get(node, ()),
        gate=lambda pair, metrics: _distribution_gate(pair, metrics, pair_of(pair.node)),
        statements=(f"floor: the error of {reference.path} against A, at {len(found)} stages",),
    )


def _ratios(pair: StagePair) -> tuple[Tolerance, ...]:
    metrics = measure(pair.a, pair.b, causal=pair.causal).metrics
    if metrics.token_rel_l2 is None or metrics.rel_linf is None or metrics.mismatches:
        return ()
    largest = max(ROUNDING_REL_L2, LINF_RATIO * metrics.rel_linf)
    return (
        floor_tolerance(metrics.token_rel_l2, "the floor of the reference capture"),
        Tolerance(
            Metric.REL_LINF, largest, metrics.rel_linf, f"{LINF_RATIO:g} × the reference capture's largest error"
        ),
    )


def _distribution_gate(candidate: StagePair, metrics: PairMetrics, reference: StagePair | None) -> str | None:
    """The third part of the gate: a candidate that errs more than the reference is judged by the shape of its errors.

    float32 rounding passes, and so do a σ-ratio of at most 1 and distributions of errors that are alike.
    """
    if reference is None or reference.a.shape != candidate.a.shape or not candidate.axes:
        return None
    if metrics.compared < LEAST_VALUES or candidate.a.shape[-2] < LEAST_TOKENS:
        return None
    if (metrics.rel_l2 or 0.0) <= ROUNDING_REL_L2:
        return None
    errors = candidate.b - candidate.a
    expected = reference.b - reference.a
    sigma_ratio = float(np.std(errors, dtype=np.float64) / (np.std(expected, dtype=np.float64) or np.inf))
    if sigma_ratio <= 1:
        return None
    bins = min(MOST_BINS, errors.size // VALUES_A_BIN)
    overlap = error_overlap(errors, expected, bins).bhattacharyya
    if overlap is None or overlap >= LEAST_OVERLAP:
        return None
    return (
        f"errors distributed unlike the reference capture's: Bhattacharyya {overlap:.3f} (at least {LEAST_OVERLAP}), "
        f"σ-ratio {sigma_ratio:.3g} (at most 1)"
    )
