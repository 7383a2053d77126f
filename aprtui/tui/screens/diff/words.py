"""What the diff screen says in words: help, the verdict and what it rests on, the stage under the cursor, lists."""

from __future__ import annotations

from collections.abc import Mapping

from aprtui.compare.align.pairing import Unpaired
from aprtui.compare.comparison import Comparison, Element, ErrorState, StageComparison, Support
from aprtui.compare.metrics.logits import Flip
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import ROUNDING_REL_L2, StageVerdict, Tolerance
from aprtui.compare.wording import counted, figures_text, number_text
from aprtui.tui.screens.diff.source import DiffRequest
from aprtui.tui.widgets.table import Column, Row, Tone

EXPLANATION = """\
The verdict is that of `aprtui diff A B --json`, run beside the screen; y copies the command that gives it. A is the \
reference.

In the grid a row is a layer and a column a stage, in the order in which they are computed. The upper half of a cell \
is the error that the stage adds itself, the lower half the difference of the sides as it is observed there, with what \
it inherited; both over their bound. Without a replay the upper half stays empty where a stage only passes error on, \
for what it adds is not known: R replays both sides from their own inputs and finds out. Behind the colours stands a \
sign, so that none of it needs colour; the legend below says what the signs mean.

b and B put a bound of your own on the difference, by the metric that is shown, and judge every stage again at once; \
backspace drops it. M shows the next metric: in greys where no bound is on it.
"""

NOTHING_TO_COMPARE = """\
Nothing to compare yet.

Mark two captures in Browse (2) with space, then press d;
or start with two captures:   aprtui open A B

A capture is written by   aprtui trace -p "def fib(n):" --save-tensor-dir A
and one with a fault by   aprtui trace -p "def fib(n):" --save-tensor-dir B --inject layer=1,stage=ffn_up,kind=scale
"""

SEPARATOR = " · "

HYPOTHESIS_COLUMNS = (Column(""), Column("looks like", grows=True), Column("evidence", grows=True, rank=1))
ELEMENT_COLUMNS = (
    Column("place", grows=True), Column("A", right=True), Column("B", right=True), Column("B − A", right=True, rank=1),
)  # fmt: skip

SUPPORT_TEXTS: Mapping[Support, str] = {Support.SUPPORTED: "yes", Support.REFUTED: "no", Support.UNTESTED: "?"}

NO_HYPOTHESES = "Nothing diverges: there is no error to look at."
NO_ELEMENTS = "No stage differs."


def place_words(place: Mapping[str, int]) -> str:
    """Coordinates: "token 3, channel 17"."""
    return ", ".join(f"{name} {index}" for name, index in place.items())


def verdict_lines(comparison: Comparison, request: DiffRequest, bound: Tolerance | None) -> tuple[str, str, str, str]:
    """Beside the word: which stage it is, its numbers, what was compared and judged by what, how sure that is.

    `bound` is the user's own, where the comparison of `request` was judged again by it.
    """
    divergence = comparison.first_divergence
    if divergence is not None:
        place = f", {place_words(divergence.place)}" if divergence.place else ""
        sure, _, why = divergence.certainty.partition(": ")
        what = f"first divergence: {divergence.verdict.node}{place}{SEPARATOR}{divergence.state}, {sure}"
        rest = _numbers(divergence.verdict)
        why += "; r judges each token" if bound is not None else ""
    elif comparison.reasons:
        what, *more = comparison.reasons
        rest, why = _worst_words(comparison), SEPARATOR.join(more)
    else:
        what, rest, why = "nothing is beyond its bound", _worst_words(comparison), ""
    differs = any(stage.metrics.max_abs or stage.metrics.mismatches for stage in comparison.stages)
    rest += f"{SEPARATOR}smallest tolerance {comparison.smallest or 'none'}" if differs else ""
    return what, rest, SEPARATOR.join(_criteria(comparison, request, bound)), why


def _criteria(comparison: Comparison, request: DiffRequest, bound: Tolerance | None) -> list[str]:
    tokens = comparison.alignment.aligned
    words = [judged_by(request, bound), f"{comparison.compared} of {comparison.expected} stages compared"]
    words += [f"{comparison.allowed_missing} allowed to be missing"] if comparison.allowed_missing else []
    words += [] if tokens is None else [f"{counted(tokens, 'token')} aligned"]
    return words


def judged_by(request: DiffRequest, bound: Tolerance | None) -> str:
    if bound is not None or request.tolerance:
        return f"by your bound {bound or request.tolerance}"
    if request.replay:
        return "by a replay of both sides"
    if request.model is not None:
        return "by the noise floor of the model"
    return f"by the floor of {request.floor}" if request.floor else "by no bound: b sets one, R replays"


def _numbers(verdict: StageVerdict) -> str:
    if verdict.metric is Metric.NON_FINITE:
        return f"{counted(int(verdict.error or 0), 'value')} NaN or Inf on one side only"
    return figures_text(verdict.metric, verdict.error, verdict.floor, verdict.bound)


def _worst_words(comparison: Comparison) -> str:
    """The stage that differs most by the metric of the verdict."""
    metric = comparison.metric
    found = [
        (deviation, stage)
        for stage in comparison.stages
        if (deviation := stage.metrics.deviation(metric)) is not None and stage.metrics.max_abs
    ]
    if not found:
        return "every compared stage is equal" if comparison.compared else ""
    _, worst = max(found, key=lambda pair: pair[0])
    return f"differs most: {worst.node}, {metric} {number_text(worst.metrics.value(metric))}"


def stage_words(entry: StageComparison | Unpaired, metric: Metric) -> str:
    """One stage: what was found, by how much it is beyond or below its bound, what a replay says."""
    if isinstance(entry, Unpaired):
        return f"{entry.node}: not compared: {entry.reason}"
    verdict, metrics = entry.verdict, entry.metrics
    words = [f"{entry.node}: {verdict.verdict}", _numbers(verdict)]
    if verdict.metric is not metric and metrics.value(metric) is not None:
        words.append(f"{metric} {number_text(metrics.value(metric))}")
    for side, injected in zip("AB", entry.injected, strict=True):
        words += [] if injected is None else [f"{side} adds {number_text(injected.error)}"]
    if any(entry.injected):
        words.append(f"observed {number_text(metrics.token_rel_l2)} (rounding {ROUNDING_REL_L2:g})")
    if entry.state in (ErrorState.INHERITED, ErrorState.INJECTED):
        words.append(f"error is {entry.state}")
    return SEPARATOR.join([*words, verdict.reason])


def flip_words(flip: Flip) -> str:
    """A token after which the sides would go on differently."""
    return (
        f"after token {flip.row} A says id {flip.token_a}, B id {flip.token_b}; A's lead over its second is "
        f"{number_text(flip.margin_a)} logits"
    )


def hypothesis_rows(comparison: Comparison) -> list[Row]:
    """A row for each signature, those supported first; the cause stands behind what it looks like."""
    return [
        Row(
            hypothesis.name,
            (SUPPORT_TEXTS[hypothesis.support], f"{hypothesis.name}: {hypothesis.cause}", hypothesis.evidence),
            Tone.MARKED if hypothesis.support is Support.SUPPORTED else Tone.MUTED,
        )
        for hypothesis in comparison.hypotheses
    ]


def element_rows(comparison: Comparison) -> list[Row]:
    """A row for each of the values that differ most, at the stage in focus."""
    return [
        Row(
            place_of(element),
            (place_words(element.place), f"{element.a:.6g}", f"{element.b:.6g}", number_text(element.b - element.a)),
        )
        for element in comparison.elements
    ]


def place_of(element: Element) -> tuple[int, int, int]:
    """Plane, row and column of a value."""
    place = element.place
    if "head" in place:
        return place["head"], place["query"], place["key"]
    return 0, place.get("token", 0), place.get("channel", 0)
