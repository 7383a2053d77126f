"""What the diff screen says in words: help, the verdict and what it rests on, the stage under the cursor, lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aprtui.compare.align.pairing import Unpaired
from aprtui.compare.comparison import Comparison, ErrorState, Hypothesis, StageComparison, Support
from aprtui.compare.metrics.logits import Flip
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import ROUNDING_REL_L2, StageVerdict, Tolerance, Verdict
from aprtui.compare.wording import counted, figures_text, number_text
from aprtui.trace.archive import is_single_file
from aprtui.trace.graph.stage import Node
from aprtui.tui.draw.numbers import column_number
from aprtui.tui.screens.diff.source import DiffRequest
from aprtui.tui.screens.diff.verdict import SEPARATOR
from aprtui.tui.widgets.table import Column, Row, Tone

EXPLANATION = """\
The verdict is that of `aprtui diff A B --json`, run beside the screen; y copies the command that gives it. A is the \
reference. The sentence names the stage to look at, and the cursor stands on it until you move it; below it is what to \
do next.

In the grid a row is a layer and a column a stage, in the order in which they are computed. The upper half of a cell \
is the error that the stage adds itself, the lower half the difference of the sides as it is observed there, with what \
it inherited. Blue is within the bound, red is error that a stage adds beyond it, ochre a difference beyond it that \
may be inherited, grey what no bound judges. Without a replay the upper half stays empty where a stage may only pass \
error on: R replays both sides from their own inputs and finds out, by the model that the captures were made with. \
Behind the colours stands a sign, so that none of it needs colour; the legend below says what the signs mean.

Where not all layers have room for a line each, the overview shows them all at once, two or four a line, as one colour \
a stage: that of what the stage adds where it is known, else of the difference observed. Red (◆) is what adds error \
beyond its bound. The codes above are short for the stages; the line at the bottom names the one under the cursor. v \
goes through the views: either of these, and on small screens the values, the lists and the contracts.

Where a replay finds a stage that adds error, it computes it in other ways: the one that gives what was captured is \
the cause, which the sentence says. D shows its proof, and all that was tried and is refuted.

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

HYPOTHESIS_COLUMNS = (Column(""), Column("looks like", grows=True), Column("evidence", grows=True, rank=1))
ELEMENT_COLUMNS = (
    Column("place", grows=True), Column("A", right=True), Column("B", right=True), Column("B − A", right=True, rank=1),
)  # fmt: skip

SUPPORT_TEXTS: Mapping[Support, str] = {Support.SUPPORTED: "yes", Support.REFUTED: "no", Support.UNTESTED: "?"}

NO_HYPOTHESES: Mapping[Verdict, str] = {
    Verdict.PASS: "No stage is beyond its bound: there is no error to explain.",
    Verdict.FAIL: "No signature of a known bug was tried on this stage.",
    Verdict.UNKNOWN: "Nothing is known to be wrong: there is no error to explain yet.",
}
"""In place of hypotheses, where there are none."""


def place_words(place: Mapping[str, int]) -> str:
    """Coordinates: "token 3, channel 17"."""
    return ", ".join(f"{name} {index}" for name, index in place.items())


def next_steps(
    comparison: Comparison, request: DiffRequest, bound: Tolerance | None, key: Callable[[str], str]
) -> tuple[str, ...]:
    """What to do next, with the keys that do it, the most useful first; `key` gives the key of a command by its id."""
    replay = "" if request.replay or is_single_file(request.a) else key("diff.replay")
    values, again = f"{key('diff.open')} the values", f"{key('copy.command')} copy the command"
    causes = (
        (f"{key('diff.causes')} {causes_words(comparison)}",) if comparison.causes or comparison.alternatives else ()
    )
    if comparison.alignment.problem:
        return f"{key('go.browse')} choose captures of the same tokens", again
    if bound is not None:
        drop = f"{key('diff.bound.drop')} drop your bound"
        return f"{key('diff.again')} compare again by this bound", f"{key('diff.next')} next", drop, values, again
    if comparison.verdict is Verdict.FAIL:
        first = (f"{replay} replay: injected or inherited?",) if replay else ()
        others = (f"{key('diff.next')} next",) if len(comparison.divergent) > 1 else ()
        return *causes, *first, values, *others, again
    if comparison.verdict is Verdict.UNKNOWN:
        first = (f"{replay} replay: find the stage that adds error",) if replay else ()
        return *first, f"{key('diff.bound.wider')} set a bound", values, again
    if not comparison.differing:
        return values, again
    return values, f"{key('diff.metric')} next metric", f"{key('diff.bound.narrower')} narrower bound", again


def causes_words(comparison: Comparison) -> str:
    """What there is to see of causes."""
    refuted = sum(not one.is_proved for one in comparison.alternatives)
    proof = "the proof, and " if comparison.causes else ""
    return f"{proof}{counted(refuted, 'refuted alternative')}" if refuted else "the proof"


def no_causes(comparison: Comparison | None, replay_key: str) -> str:
    """Why there are none."""
    if comparison is not None and comparison.verdict is Verdict.PASS:
        return "no stage errs"
    return f"{replay_key} replays both sides, which finds what adds error and why"


def verdict_details(comparison: Comparison, request: DiffRequest, bound: Tolerance | None) -> tuple[str, str]:
    """What the sentence of the verdict leaves out: numbers, how sure it is, what was compared and judged by what.

    `bound` is the user's own, where the comparison of `request` was judged again by it.
    """
    divergence = comparison.first_divergence
    first: list[str] = list(comparison.reasons[1:])
    if divergence is not None:
        sure, _, why = divergence.certainty.partition(": ")
        numbers, place = _numbers(divergence.verdict), place_words(divergence.place)
        first = [numbers, place, f"{divergence.state}, {sure}", why]
    first += [hint.text for hint in comparison.hints]
    second = _criteria(comparison, request, bound)
    if comparison.differing:
        second.append(f"smallest tolerance {comparison.smallest or 'none'}")
    return SEPARATOR.join(filter(None, first)), SEPARATOR.join(second)


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
        return f"by a replay of both sides with {'the embedded model' if request.model is None else request.model.name}"
    if request.model is not None:
        return f"by the noise floor of {request.model.name}"
    return f"by the floor of {request.floor}" if request.floor else "no bound is set"


def _numbers(verdict: StageVerdict) -> str:
    if verdict.metric is Metric.NON_FINITE:
        return f"{counted(int(verdict.error or 0), 'value')} NaN or Inf on one side only"
    return figures_text(verdict.metric, verdict.error, verdict.floor, verdict.bound)


def stage_words(entry: StageComparison | Unpaired, metric: Metric, adds: bool, kind: str = "") -> str:
    """One stage: what was found, by how much it is beyond or below its bound, what a replay says, whether it `adds`
    error itself; and what `kind` of layer it is in.
    """
    if isinstance(entry, Unpaired):
        return f"{entry.node}: not compared: {entry.reason}"
    verdict, metrics = entry.verdict, entry.metrics
    words = [f"{entry.node}: {verdict.verdict}", _numbers(verdict), *([kind] if kind else [])]
    if verdict.metric is not metric and metrics.value(metric) is not None:
        words.append(f"{metric} {number_text(metrics.value(metric))}")
    for side, injected in zip("AB", entry.injected, strict=True):
        words += [] if injected is None else [f"{side} adds {number_text(injected.error)}"]
    if any(entry.injected):
        words.append(f"observed {number_text(metrics.token_rel_l2)} (rounding {ROUNDING_REL_L2:g})")
    if adds or entry.state is ErrorState.INHERITED:
        words.append(f"error is {entry.state}")
    words += [f"{entry.reordered}: the panes show them as stored"] if entry.reordered else []
    return SEPARATOR.join([*words, verdict.reason])


def no_stage_words(node: Node) -> str:
    """A cell of the grid that is blank: another kind of layer has the stage."""
    return f"layer {node.layer} has no {node.stage}"


def flip_words(flip: Flip) -> str:
    """A token after which the sides would go on differently."""
    return (
        f"after token {flip.row} A says id {flip.token_a}, B id {flip.token_b}; A's lead over its second is "
        f"{number_text(flip.margin_a)} logits"
    )


def hypothesis_rows(comparison: Comparison) -> list[Row]:
    """A row for each signature, those supported first."""
    return [
        Row(
            hypothesis,
            (SUPPORT_TEXTS[hypothesis.support], _appearance(hypothesis), hypothesis.evidence),
            Tone.MARKED if hypothesis.support is Support.SUPPORTED else Tone.MUTED,
        )
        for hypothesis in comparison.hypotheses
    ]


def _appearance(hypothesis: Hypothesis) -> str:
    return hypothesis.looks_like if hypothesis.support is Support.SUPPORTED else hypothesis.name


def hypothesis_words(hypothesis: Hypothesis) -> str:
    """A signature in full, with what usually causes it."""
    words = (f"{hypothesis.name}: {hypothesis.support}", hypothesis.evidence, f"usual cause: {hypothesis.cause}")
    return SEPARATOR.join(words)


def listed_stage(comparison: Comparison) -> Node | None:
    """The stage of which the largest differences are listed: the one that the verdict names."""
    if comparison.first_divergence is not None:
        return comparison.first_divergence.verdict.node
    return None if comparison.focus is None else comparison.focus.node


def no_elements(comparison: Comparison) -> str:
    """In place of the largest differences, where there are none."""
    if comparison.elements:
        return "Not listed yet: this bound blames another stage than before. Comparing again lists them."
    return "No value differs in what was compared." if comparison.stages else "Nothing was compared."


def element_rows(comparison: Comparison) -> list[Row]:
    """A row for each of the values that differ most, at the stage that the verdict names; none where a bound that was
    moved blames another one than the comparison has listed.
    """
    if comparison.focus is None or listed_stage(comparison) != comparison.focus.node:
        return []
    return [
        Row(
            place_of(element.place),
            (
                place_words(element.place),
                column_number(element.a, 6),
                column_number(element.b, 6),
                column_number(element.b - element.a),
            ),
        )
        for element in comparison.elements
    ]


def place_of(place: Mapping[str, int]) -> tuple[int, int, int]:
    """Plane, row and column of a value; values of unknown shape are one row."""
    if "head" in place:
        return place["head"], place["query"], place["key"]
    column = next((place[name] for name in ("channel", "expert", "choice", "element") if name in place), 0)
    return 0, place.get("token", 0), column
