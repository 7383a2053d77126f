"""What the diff screen says in words: the verdict and what it rests on, the stage under the cursor."""

from __future__ import annotations

from collections.abc import Mapping

from aprtui.compare.explain.classify import ErrorState
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import ROUNDING_REL_L2
from aprtui.compare.wording import counted
from aprtui.tui.screens.diff.model import Flip, Judgement, Stage
from aprtui.tui.screens.diff.source import DiffRequest

SEPARATOR = " · "


def number(value: float | None) -> str:
    """Three digits; – for what is not known."""
    return "–" if value is None else f"{value:.3g}"


def place_words(place: Mapping[str, int]) -> str:
    """Coordinates: "token 3, channel 17"."""
    return ", ".join(f"{name} {index}" for name, index in place.items())


def verdict_lines(judgement: Judgement, request: DiffRequest) -> tuple[str, str, str, str]:
    """Beside the word: which stage it is, its numbers, what was compared and judged by what, how sure that is."""
    first = None if judgement.first is None else judgement.stages[judgement.first]
    if first is not None:
        place = f", {place_words(judgement.place)}" if judgement.place else ""
        sure, _, why = judgement.certainty.partition(": ")
        what, rest = f"first divergence: {first.node}{place}{SEPARATOR}{first.state}, {sure}", _numbers(first)
    elif judgement.reasons:
        what, *more = judgement.reasons
        rest, why = _worst_words(judgement), SEPARATOR.join(more)
    else:
        what, rest, why = "nothing is beyond its bound", _worst_words(judgement), ""
    smallest = judgement.smallest or "none"
    rest += f"{SEPARATOR}smallest tolerance {smallest}" if _differs(judgement) else ""
    return what, rest, SEPARATOR.join(_criteria(judgement, request)), why


def _criteria(judgement: Judgement, request: DiffRequest) -> list[str]:
    summary = judgement.told.summary
    tokens = summary["aligned_tokens"]
    words = [judged_by(judgement, request), f"{summary['compared']} of {summary['expected']} stages compared"]
    words += [f"{summary['allowed_missing']} allowed to be missing"] if summary["allowed_missing"] else []
    words += [] if tokens is None else [f"{counted(tokens, 'token')} aligned"]
    return words


def _differs(judgement: Judgement) -> bool:
    return any(metrics.max_abs or metrics.mismatches for _, _, metrics in judgement.told.compared)


def judged_by(judgement: Judgement, request: DiffRequest) -> str:
    """What the verdict rests on."""
    if judgement.bound is not None:
        return f"by your bound {judgement.bound}"
    if request.tolerance:
        return f"by your bound {request.tolerance}"
    if request.replay:
        return "by a replay of both sides"
    if request.model is not None:
        return "by the noise floor of the model"
    return f"by the floor of {request.floor}" if request.floor else "by no bound: + sets one, R replays"


def _numbers(stage: Stage) -> str:
    verdict = stage.verdict
    if verdict is None:
        return stage.reason
    if verdict.metric is Metric.NON_FINITE:
        return f"{counted(int(verdict.error or 0), 'value')} NaN or Inf on one side only"
    return f"{verdict.metric} {number(verdict.error)}, floor {number(verdict.floor)}, bound {number(verdict.bound)}"


def _worst_words(judgement: Judgement) -> str:
    """The stage that differs most by the metric of the verdict."""
    found = [
        (value, stage.node)
        for stage, _, metrics in judgement.told.compared
        if (value := metrics.value(judgement.metric)) is not None and metrics.max_abs
    ]
    if not found:
        return "every compared stage is equal" if judgement.told.summary["compared"] else ""
    pick = min if judgement.metric.is_similarity else max
    value, node = pick(found, key=lambda pair: pair[0])
    return f"differs most: {node}, {judgement.metric} {number(value)}"


def stage_words(stage: Stage, metric: Metric) -> str:
    """One stage: what was found, by how much it is beyond or below its bound, what a replay says."""
    if stage.verdict is None or stage.metrics is None:
        return f"{stage.node}: not compared: {stage.reason}"
    verdict, metrics = stage.verdict, stage.metrics
    words = [f"{stage.node}: {verdict.verdict}", _numbers(stage)]
    if verdict.metric is not metric and metrics.value(metric) is not None:
        words.append(f"{metric} {number(metrics.value(metric))}")
    for side, injected in zip("AB", stage.injected, strict=True):
        words += [] if injected is None else [f"{side} adds {number(injected.error)}"]
    if any(stage.injected):
        words.append(f"observed {number(metrics.token_rel_l2)} (rounding {ROUNDING_REL_L2:g})")
    words += (
        []
        if stage.state is ErrorState.UNKNOWN
        else [f"error is {stage.state}"]
        if stage.state is not ErrorState.CLEAN
        else []
    )
    return SEPARATOR.join([*words, stage.reason])


def flip_words(flip: Flip) -> str:
    """A token after which the sides would go on differently."""
    return (
        f"after token {flip.token} A says id {flip.id_a}, B id {flip.id_b}; A's lead over its second is "
        f"{number(flip.margin_a)} logits"
    )
