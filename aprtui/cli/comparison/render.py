"""The text of a comparison, for 80 columns without colour: the sides, a row for each stage, then the verdict."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from aprtui.compare.causes import cause_of, cause_sentence, tried_words, unexplained_lines
from aprtui.compare.comparison import Comparison, Divergence, FocusKind, StageComparison, Support
from aprtui.compare.explain.focus import error_of
from aprtui.compare.manifests import ManifestDifferences
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.report.headline import alike_note, headline, undecided_before
from aprtui.compare.verdict import ROUNDING_REL_L2, Verdict
from aprtui.compare.wording import NOTHING_COMPARED, counted, figures_text, first_tokens, number_text
from aprtui.trace.graph.stage import Node

_WIDTH = 80
_SHORT = {Metric.TOKEN_REL_L2: "worst l2"}
"""Column heads of metrics whose name is wider than the column."""
_ORDINARY = ("from captured inputs", "all tokens", "all tokens, key ≤ query", "element by element")


def header_lines(
    a: Path | str, b: Path | str, manifests: ManifestDifferences | None, comparison: Comparison
) -> Iterator[str]:
    """The two sides, what their manifests state differently (None for stage files), and what aligns their positions."""
    yield f"A  {a}"
    yield f"B  {b}"
    if manifests is not None:
        yield from _manifest_lines(manifests)
    for statement in comparison.statements:
        yield from wrapped("", statement)
    alignment = comparison.alignment
    if alignment.problem:
        aligned = alignment.aligned if comparison.stages else None
        only = f"; the numbers below are of {first_tokens(aligned)} only" if aligned else ""
        yield from wrapped("tokens", f"{alignment.problem}{only}")
    elif alignment.sources[0] is not None:
        count = "all tokens" if alignment.aligned is None else counted(alignment.aligned, "token")
        yield f"tokens  {count} aligned, {_source_text(alignment.sources)}"
    else:
        yield "tokens  stage files record none: element by element, as named"


def _manifest_lines(manifests: ManifestDifferences) -> Iterator[str]:
    if not manifests.without_manifest:
        for difference in manifests.differences:
            yield f"   {difference.what}: A {_fact(difference.a)} · B {_fact(difference.b)}"
        if not manifests.differences:
            yield "   the manifests state the same model, engine, mode and rounding"
        return
    yield f"   no manifest in {' and '.join(manifests.without_manifest)}: model, engine and mode not known"
    stated = [f"{entry.what} {_fact(entry.a or entry.b)}" for entry in manifests.differences]
    if stated:
        yield from wrapped("   the other states", ", ".join(stated))


def _fact(text: str | None) -> str:
    """What a side states, shortened: the first digits of a checksum are enough."""
    return "unknown" if text is None else text if len(text) <= 24 else f"{text[:23]}…"


def _source_text(sources: tuple[str | None, str | None]) -> str:
    left, right = sources
    if left == right == "embedding":
        return "as their embedding stages agree"
    if left == right and left is not None and "," in left:
        return f"ids from the {left}"
    return f"ids equal ({left})" if left == right else f"ids equal (A: {left}, B: {right})"


def table_lines(comparison: Comparison) -> Iterator[str]:
    """A row for each stage, over all its layers: the first layer beyond noise, and the worst layer's numbers."""
    if not comparison.stages:
        return
    columns = (
        f"{_SHORT.get(comparison.metric, comparison.metric):>9}{'max abs':>9}{'1-cosine':>9}{'nan/inf':>9}{'equal':>6}"
    )
    yield f"{'stage':<18} {'verdict':<7}{'first':>6}{'worst':>6}{columns}"
    for name in dict.fromkeys(stage.node.stage for stage in comparison.stages):
        yield _row([stage for stage in comparison.stages if stage.node.stage == name], comparison.metric)
    bounded = any(stage.verdict.bound is not None for stage in comparison.stages if not stage.metrics.mismatches)
    beyond = "beyond its bound" if bounded else f"with rel_l2 above {ROUNDING_REL_L2:g}"
    yield f"first: first layer {beyond}; worst: layer of these numbers"


def _row(layers: Sequence[StageComparison], metric: Metric) -> str:
    verdicts = [stage.verdict.verdict for stage in layers]
    verdict = next(v for v in (Verdict.FAIL, Verdict.UNKNOWN, Verdict.PASS) if v in verdicts)
    first = next((stage for stage in layers if _is_beyond(stage)), None)
    worst = _worst(layers, metric)
    numbers = worst.metrics
    # Rounded down: 100 % must mean that every bit is equal.
    equal = "–" if numbers.equal_bits is None else f"{int(100 * numbers.equal_bits)}%"
    odd = sum(stage.metrics.count - stage.metrics.compared for stage in layers)
    return (
        f"{worst.node.stage:<18} {verdict.value:<7}{_layer(first):>6}{_layer(worst):>6}"
        f"{number_text(numbers.value(metric)):>9}{number_text(numbers.max_abs):>9}{number_text(numbers.deviation(Metric.COSINE)):>9}{odd:>9}{equal:>6}"
    )


def _is_beyond(stage: StageComparison) -> bool:
    """Whether the stage fails, or, where nothing says how far it may differ, differs by more than rounding."""
    verdict = stage.verdict.verdict
    return verdict is Verdict.FAIL or (verdict is Verdict.UNKNOWN and error_of(stage) > ROUNDING_REL_L2)


def _layer(stage: StageComparison | None) -> str:
    return "–" if stage is None or stage.node.layer is None else str(stage.node.layer)


def _worst(stages: Sequence[StageComparison], metric: Metric) -> StageComparison:
    """The first stage with NaN or Inf on one side only, else the one that is worst by `metric`."""

    def badness(stage: StageComparison) -> tuple[bool, float]:
        deviation = stage.metrics.deviation(metric)
        return stage.metrics.mismatches > 0, -math.inf if deviation is None else deviation

    return max(stages, key=badness)


def note_lines(comparison: Comparison) -> Iterator[str]:
    """Notes on NaN and Inf, on unusual matches, and on stages that were not compared."""
    odd = [stage for stage in comparison.stages if stage.metrics.mismatches or stage.metrics.excluded]
    for name in dict.fromkeys(stage.node.stage for stage in odd):
        layers = [stage for stage in odd if stage.node.stage == name]
        yield from wrapped(f"{_layers_text([stage.node for stage in layers])}{name}:", _non_finite_text(layers))
    unusual = [stage for stage in comparison.stages if stage.matched not in _ORDINARY]
    matches = [(stage.node, f"matched: {stage.matched}") for stage in unusual]
    skipped = [(skip.node, f"not compared: {skip.reason}") for skip in comparison.skipped]
    yield from grouped_lines([*matches, *skipped])


def grouped_lines(entries: Iterable[tuple[Node, str]]) -> Iterator[str]:
    """A line for each stage and text, with all the layers that the text is about."""
    groups: dict[tuple[str, str], list[Node]] = {}
    for node, text in entries:
        groups.setdefault((node.stage, text), []).append(node)
    for (stage, text), nodes in groups.items():
        yield from wrapped(f"{_layers_text(nodes)}{stage}:", text)


def _non_finite_text(layers: Sequence[StageComparison]) -> str:
    numbers = [stage.metrics for stage in layers]
    if not any(m.mismatches for m in numbers):
        return (
            f"{sum(m.nan_both for m in numbers)} NaN, {sum(m.inf_both for m in numbers)} Inf on both sides, "
            "left out of the numbers"
        )
    nan = f"NaN {sum(m.nan_a for m in numbers)} in A, {sum(m.nan_b for m in numbers)} in B"
    inf = f"Inf {sum(m.inf_a for m in numbers)} in A, {sum(m.inf_b for m in numbers)} in B"
    places = (
        f"{sum(m.mismatches for m in numbers)} on one side only, {sum(m.excluded for m in numbers)} alike, left out"
    )
    return f"{nan}; {inf}; {places}"


def _layers_text(nodes: Sequence[Node]) -> str:
    layers = list(dict.fromkeys(node.layer for node in nodes if node.layer is not None))
    if not layers:
        return ""
    if len(layers) == 1:
        return f"layer {layers[0]} "
    if layers == list(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]}–{layers[-1]} "
    return f"layers {', '.join(str(layer) for layer in layers)} "


def verdict_lines(comparison: Comparison, steps: Iterable[str]) -> Iterator[str]:
    """The verdict of a comparison, with what it rests on, and the `steps` that say what to do next."""
    word = comparison.verdict.value
    for index, text in enumerate(_verdict_texts(comparison)):
        yield from wrapped(word if index == 0 else " " * len(word), text)
    divergence = comparison.first_divergence
    if divergence:
        yield from wrapped("sure", f"{divergence.state}: {divergence.certainty}")
        if divergence.settled_by:
            yield from wrapped("settle", divergence.settled_by)
    focus = comparison.focus
    if focus is not None and focus.kind is FocusKind.NEAREST:
        nearest = next(stage.verdict for stage in comparison.stages if stage.node == focus.node)
        figures = figures_text(nearest.metric, nearest.error, nearest.floor, nearest.bound)
        yield from wrapped("nearest", f"{nearest.node}: {figures}, {nearest.reason}")
    yield from _cause_lines(comparison)
    yield from _hypothesis_lines(comparison)
    yield from _element_lines(comparison)
    yield from _step_lines(comparison)
    yield from wrapped("coverage", _coverage_text(comparison))
    if comparison.stages and comparison.smallest is None:
        yield "smallest  tolerance that passes: none would"
    elif comparison.differing:
        yield f"smallest  tolerance that passes: {comparison.smallest}"
    for hint in comparison.hints:
        yield from wrapped("hint", f"{_layers_text(hint.nodes)}{hint.text}")
    yield from steps


def alternative_lines(comparison: Comparison) -> Iterator[str]:
    """All alternatives that were tried, under their own head."""
    lines = [line for one in comparison.alternatives for line in wrapped("tried", tried_words(one))]
    yield from lines or ["tried  no alternative: no stage fails a replay whose inputs were captured"]


def _cause_lines(comparison: Comparison) -> Iterator[str]:
    """What was proved of why, what to do, and what cannot be told from it; else what comes nearest."""
    for cause in comparison.causes:
        yield from wrapped("cause", cause_sentence(cause))
        yield from wrapped("do", cause.advice)
        for words in cause.alike:
            yield from wrapped("or", f"{words}; told apart by {cause.settled_by}")
    for text in unexplained_lines(comparison):
        yield from wrapped("cause", text)


def _hypothesis_lines(comparison: Comparison) -> Iterator[str]:
    """The supported hypotheses; of the others only how many there are."""
    if not comparison.hypotheses:
        return
    by_support = {
        support: [found for found in comparison.hypotheses if found.support is support] for support in Support
    }
    for found in by_support[Support.SUPPORTED]:
        yield from wrapped("looks like", f"{found.name}: {found.evidence}. Usual cause: {found.cause}")
    refuted, untested = (len(by_support[support]) for support in (Support.REFUTED, Support.UNTESTED))
    word = "looks like" if not by_support[Support.SUPPORTED] else " " * 10
    nothing = "" if by_support[Support.SUPPORTED] else "none of the known signatures; "
    yield f"{word}  {nothing}{refuted} refuted, {untested} untested (--json lists them)"


def _step_lines(comparison: Comparison) -> Iterator[str]:
    """How many float32 numbers lie between the sides, where the user asked for it."""
    if comparison.steps is None or comparison.focus is None:
        return
    yield f"float32 steps in {comparison.focus.node}, counted in {comparison.steps.seconds:.2f} s:"
    for exponent, count in enumerate(comparison.steps.histogram.counts):
        if count:
            yield f"   {'0' if not exponent else f'{2 ** (exponent - 1)} … {2**exponent - 1}':>24}  {count}"


def _verdict_texts(comparison: Comparison) -> Iterator[str]:
    """The sentence of the verdict, then what it leaves out; NaN and Inf on both sides are named whatever it is."""
    yield headline(comparison)
    if comparison.first_divergence:
        yield _divergence_text(comparison, comparison.first_divergence)
    yield from (reason for reason in comparison.reasons[1:] if reason != NOTHING_COMPARED)
    alike = alike_note(comparison)
    if alike and comparison.verdict is not Verdict.PASS:
        yield alike


def _coverage_text(comparison: Comparison) -> str:
    allowed = comparison.allowed_missing
    text = f"{comparison.compared} of {counted(comparison.expected + allowed, 'stage')} compared"
    if allowed:
        text += f", {allowed} allowed to be missing"
    aligned = comparison.alignment.aligned
    return text if aligned is None else f"{text}, {counted(aligned, 'token')} aligned"


def _divergence_text(comparison: Comparison, divergence: Divergence) -> str:
    verdict = divergence.verdict
    where = ", ".join([str(verdict.node), *(f"{name} {index}" for name, index in divergence.place.items())])
    first = "first certain divergence" if undecided_before(comparison, divergence) else "first divergence"
    text = (
        f"{first}: {where}: {verdict.metric} {number_text(verdict.error)}: {verdict.reason} "
        f"(floor {number_text(verdict.floor)}, bound {number_text(verdict.bound)})"
    )
    others = [node for node in divergence.segment if node != verdict.node]
    if others:
        is_proved = cause_of(comparison.causes, divergence.segment) is not None
        text += f". Not compared{'' if is_proved else ', so as likely to blame'}: {_latest(others)}"
    if divergence.not_selected:
        text += f". The stages before it were not selected and may be to blame: {_latest(divergence.not_selected)}"
    return text


def _latest(nodes: Sequence[Node]) -> str:
    more = f" and {len(nodes) - 4} more" if len(nodes) > 4 else ""
    return f"{', '.join(str(node) for node in nodes[-4:])}{more}"


def _element_lines(comparison: Comparison) -> Iterator[str]:
    focus = comparison.focus
    if not comparison.elements or focus is None or comparison.verdict is Verdict.PASS:
        return
    which = "" if focus.kind is FocusKind.DIVERGENCE or len(comparison.stages) == 1 else f", {focus.kind}"
    yield from textwrap.wrap(f"largest differences in {focus.node}{which}:", _WIDTH)
    for element in comparison.elements:
        place = " ".join(f"{name} {index}" for name, index in element.place.items())
        yield f"   {place:<26} A {element.a:>14.8g}  B {element.b:>14.8g}  B-A {element.b - element.a:>9.3g}"


def wrapped(label: str, text: str) -> list[str]:
    """`text` behind its label, in lines that fit."""
    indent = " " * min(len(label) + 2, 10)
    return textwrap.wrap(
        f"{label}  {text}", _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
