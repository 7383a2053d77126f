"""The verdict of a comparison in one sentence, without its word: every report and the diff screen say the same."""

from __future__ import annotations

from aprtui.compare.causes import causes_besides, causes_headline
from aprtui.compare.comparison import Comparison, Divergence, StageComparison, Support
from aprtui.compare.deviations import deviations_in
from aprtui.compare.everywhere import sentence
from aprtui.compare.explain.focus import nearest_to_bound
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import Signal, Verdict, alike_text
from aprtui.compare.wording import (
    NOTHING_COMPARED,
    UNBOUNDED,
    UNCOMPARED,
    counted,
    first_tokens,
    listed,
    number_text,
    ranges,
)

_COORDINATES = ("head", "query", "token", "expert", "element")
"""The coordinates of the first wrong value that the sentence names; its channel or key stands in the details."""

_FAR = 10.0
"""Times its bound, from which a stage that nothing settles may well be the first to diverge."""


def headline(comparison: Comparison) -> str:
    """Of a FAIL where it is and what it looks like, of an UNKNOWN why and where to look, of a PASS how near it was.

    Where engines do otherwise than the file says, a PASS says so, too.
    """
    if comparison.first_divergence is not None:
        return _fail(comparison, comparison.first_divergence)
    if comparison.verdict is Verdict.UNKNOWN:
        return _unknown(comparison)
    return _pass(comparison)


def undecided_before(comparison: Comparison, divergence: Divergence) -> str:
    """The stages before a divergence that are far beyond their bounds though nothing settles them: one of them may be
    the first; empty where there are none."""
    order = {stage.node: place for place, stage in enumerate(comparison.stages)}
    alike = {node for found in comparison.everywhere for node in found.nodes}
    before = comparison.stages[: order.get(divergence.verdict.node, 0)]
    found = [stage for stage in before if _is_far_beyond(stage) and stage.node not in alike]
    if not found:
        return ""
    nodes = {node for stage in found for node in (*stage.segment, stage.node)}
    layers = sorted({node.layer for node in nodes if node.layer is not None})
    names = listed(dict.fromkeys(stage.node.stage for stage in found))
    of = f"layer{'s' if len(layers) > 1 else ''} {ranges(layers)} ({names})" if layers else names
    return f"or before: {of} {'are' if len(layers) > 1 else 'is'} UNKNOWN"


def _is_far_beyond(stage: StageComparison) -> bool:
    verdict = stage.verdict
    if verdict.verdict is not Verdict.UNKNOWN or verdict.error is None or verdict.bound is None:
        return False
    return verdict.metric.deviation(verdict.error) > _FAR * verdict.metric.deviation(verdict.bound)


def _fail(comparison: Comparison, divergence: Divergence) -> str:
    before = undecided_before(comparison, divergence)
    return f"{_of_divergence(comparison, divergence)}{'; ' if before else ''}{before}"


def _of_divergence(comparison: Comparison, divergence: Divergence) -> str:
    explained = causes_headline(comparison, {divergence.verdict.node, *divergence.segment})
    if explained is not None:
        nodes = {node for cause in comparison.causes for node in cause.nodes}
        unexplained = [found for found in comparison.everywhere if not nodes.issuperset(found.nodes)]
        return explained + "".join(f"; besides, {sentence(found)}" for found in unexplained)
    place = ", ".join(f"{name} {divergence.place[name]}" for name in _COORDINATES if name in divergence.place)
    where = f"{divergence.verdict.node}{', ' if place else ''}{place}"
    others = len(divergence.segment) - 1
    if others > 0:
        where += f", or {counted(others, 'stage')} before it that {'was' if others == 1 else 'were'} not compared"
    common = [found for found in comparison.everywhere if divergence.verdict.node in found.nodes]
    besides = "".join(f"; besides, {sentence(found)}" for found in comparison.everywhere if found not in common)
    known = next((found for found in common if found.looks_like is not None), None)
    if known is not None:
        return f"{sentence(known)}; first at {divergence.verdict.node}{besides}"
    also = "".join(f"; {sentence(found)}" for found in common)
    return f"{where}: {_appearance(comparison, divergence)}{also}{besides}{causes_besides(comparison)}"


def _appearance(comparison: Comparison, divergence: Divergence) -> str:
    """The likeliest hypothesis, with its number and its usual cause; without one, the number that is beyond its bound.

    The signatures are listed with those that explain most first.
    """
    if divergence.verdict.metric is Metric.PLACE:
        return divergence.verdict.reason
    likeliest = next((found for found in comparison.hypotheses if found.support is Support.SUPPORTED), None)
    if likeliest is not None:
        return f"looks like {likeliest.looks_like} ({likeliest.cause})"
    verdict = divergence.verdict
    if verdict.metric is Metric.NON_FINITE:
        return f"{counted(int(verdict.error or 0), 'value')} NaN or Inf on one side only"
    if verdict.metric is Metric.INDICES:
        return verdict.reason
    known = ", like no signature of a known bug" if comparison.hypotheses else ""
    beyond = "below" if verdict.metric.is_similarity else "above"
    return f"{verdict.metric} {number_text(verdict.error)}, {beyond} its bound {number_text(verdict.bound)}{known}"


def _unknown(comparison: Comparison) -> str:
    """The reason that settles most, then what can be said of the values all the same."""
    reason = comparison.reasons[0]
    if any(reason.startswith(sentence(found)) for found in comparison.everywhere) and _nothing_else(comparison):
        return f"{reason}; no stage errs by more than that"
    if not comparison.stages:
        return reason if reason == NOTHING_COMPARED else f"{reason}; {NOTHING_COMPARED}"
    if reason.endswith(UNCOMPARED) and comparison.skipped and not comparison.allowed_missing:
        first, *more = comparison.skipped
        reason += f" ({'first ' if more else ''}{first.node}: {first.reason})"
    if reason.endswith(UNBOUNDED) and len(comparison.stages) == 1:
        return f"{_share_differing(comparison)}, {UNBOUNDED}"
    if reason.endswith(UNBOUNDED):
        return f"{reason}{_look_at(comparison)}"
    aligned = comparison.alignment.aligned
    of = f"of {first_tokens(aligned)} " if comparison.alignment.problem and aligned else ""
    if not comparison.differing:
        silent = any(not stage.metrics.compared for stage in comparison.stages)
        return f"{reason}; {of}{'all others are equal' if silent else 'all stages compared are equal'}"
    return f"{reason}; {of}{_share_differing(comparison)}{_look_at(comparison)}"


def _nothing_else(comparison: Comparison) -> bool:
    """Whether all stages pass that an error which is everywhere does not explain."""
    explained = {node for found in comparison.everywhere for node in found.nodes}
    return all(s.verdict.verdict is Verdict.PASS for s in comparison.stages if s.node not in explained)


def _share_differing(comparison: Comparison) -> str:
    if len(comparison.stages) == 1:
        (alone,) = comparison.stages
        return f"{alone.node} differs ({_number(alone)})"
    differing, count = len(comparison.differing), counted(len(comparison.stages), "stage")
    return f"{differing} of {count} compared differ{'s' if differing == 1 else ''}"


def _look_at(comparison: Comparison) -> str:
    """The stage in focus, of which the report lists the largest differences, and its number."""
    entry = None if comparison.focus is None else comparison.by_node[comparison.focus.node]
    if not isinstance(entry, StageComparison) or len(comparison.stages) == 1:
        return ""
    return f": look first at {entry.node} ({_number(entry)})"


def _number(stage: StageComparison) -> str:
    mismatches = stage.metrics.mismatches
    if mismatches:
        return f"{counted(mismatches, 'value')} NaN or Inf on one side only"
    return f"rel_l2 {number_text(stage.metrics.rel_l2)}"


def _pass(comparison: Comparison) -> str:
    closeness = _closeness(comparison)
    deviations = [said for said in deviations_in(comparison.statements) if said not in closeness]
    return "; ".join(filter(None, (closeness, alike_note(comparison), *deviations)))


def _closeness(comparison: Comparison) -> str:
    if not comparison.differing:
        same_bits = all(stage.metrics.equal_bits == 1 for stage in comparison.stages)
        what = str(comparison.stages[0].node) if len(comparison.stages) == 1 else "every compared stage"
        return f"{what} is {'bit-equal' if same_bits else 'equal'}"
    nearest = nearest_to_bound(comparison.stages)
    assert nearest is not None, "what differs passes by a bound"
    verdict = nearest.verdict
    if verdict.metric is Metric.INDICES:
        return f"{verdict.node}: {verdict.reason}"
    figures = f"{verdict.metric} {number_text(verdict.error)}, bound {number_text(verdict.bound)}"
    share = _share_differing(comparison)
    if len(comparison.stages) == 1 and verdict.signal is not Signal.INJECTED:
        return f"{verdict.node} differs, but not beyond its bound: {figures}"
    figures = f"nearest is {verdict.node}: {figures}"
    if any(nearest.injected):
        return f"{share}, and neither side adds error beyond its bound at any of them; {figures}"
    if verdict.signal is Signal.INJECTED:
        return f"no stage adds error beyond its bound; {figures}"
    return f"{share}, none beyond its bound; {figures}"


def alike_note(comparison: Comparison) -> str:
    """How many values are NaN or Inf alike on both sides, in which stage first; empty where there are none."""
    if not comparison.alike:
        return ""
    first, *more = comparison.alike
    of = f" (first of {1 + len(more)} stages)" if more else ""
    return f"{alike_text(first.metrics)} in {first.node}{of}"
