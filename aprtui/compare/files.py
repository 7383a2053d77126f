"""Comparing two single stage files, element by element.

A stage file records neither shape nor tokens. The user who names two files says that they belong together, so nothing
is aligned here; files of different layers or sizes are refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from aprtui.compare.align.pairing import StagePair
from aprtui.compare.align.tokens import TokenAlignment
from aprtui.compare.comparison import Comparison, Divergence, Focus, FocusKind, StageComparison
from aprtui.compare.explain.locate import first_failing_place, most_differing_place, top_elements
from aprtui.compare.metrics.measure import measure
from aprtui.compare.verdict import DEFAULT_METRIC, NO_BOUND, StageVerdict, Tolerance, Verdict, judge, smallest_tolerance
from aprtui.compare.wording import UNBOUNDED, counted
from aprtui.errors import UsageError
from aprtui.trace.aprt import AprtFile
from aprtui.trace.graph.names import graph_from_names
from aprtui.trace.graph.stage import Node, canonical_name


def compare_files(a: AprtFile, b: AprtFile, tolerances: Sequence[Tolerance], limit: int) -> Comparison:
    """Compare file `b` with the reference `a`; attention maps with all their elements, as the token count is unknown.

    Raises `UsageError` for files of another layer or size.
    """
    check_comparable(a, b)
    node = Node(a.layer, canonical_name(a.path.stem))
    pair = StagePair(node, a.values, b.values, (), 0, "element by element")
    measured = measure(pair.a, pair.b)
    metrics = measured.metrics
    verdict = judge(node, metrics, tolerances)
    metric = tolerances[0].metric if tolerances else DEFAULT_METRIC
    divergence = None
    kind = FocusKind.WORST
    if verdict.verdict is Verdict.FAIL:
        kind = FocusKind.DIVERGENCE
        divergence = Divergence(
            verdict, first_failing_place(pair, metrics, verdict), (node,),
            certainty="open: nothing that it is computed from was compared",
            settled_by="comparing the captures that the files are from",
        )  # fmt: skip
    return Comparison(
        graph=graph_from_names([node.stage], 1 if node.layer is None else node.layer + 1),
        verdict=verdict.verdict,
        reasons=(_reason(verdict),) if verdict.verdict is Verdict.UNKNOWN else (),
        alignment=TokenAlignment(None, (None, None), (None, None)),
        stages=(
            StageComparison(
                node, metrics, measured.tokens, verdict, pair.matched, pair.a.shape,
                place=most_differing_place(pair, metrics),
            ),
        ),
        compared=1,
        expected=1,
        first_divergence=divergence,
        focus=Focus(node, kind),
        elements=top_elements(pair, limit),
        metric=metric,
        smallest=smallest_tolerance([metrics], metric),
    )  # fmt: skip


def _reason(verdict: StageVerdict) -> str:
    return f"1 of 1 stage differs, {UNBOUNDED}" if verdict.reason.startswith(NO_BOUND) else verdict.reason


def check_comparable(a: AprtFile, b: AprtFile) -> None:
    """Raises `UsageError` unless both files are of one layer and one size."""
    if a.layer != b.layer:
        raise UsageError(
            f"APRT layer mismatch: {a.path} is of {_layer_text(a)}, {b.path} of {_layer_text(b)}: "
            "compare files of one layer"
        )
    if a.values.size != b.values.size:
        raise UsageError(
            f"APRT dim_product mismatch: {a.path} holds {counted(a.values.size, 'value')}, {b.path} {b.values.size}: "
            "compare captures of the same model and tokens"
        )


def _layer_text(file: AprtFile) -> str:
    return "the whole model" if file.layer is None else f"layer {file.layer}"
