"""What to do after a comparison: commands that settle an UNKNOWN or look closer at a FAIL, ready to paste."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from aprtui.cli.comparison.further_captures import Run
from aprtui.cli.comparison.options import ComparisonOptions
from aprtui.cli.comparison.render import wrapped
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import PADDED, PLAUSIBLE_COSINE, PLAUSIBLE_REL_L2, QUANTISED_OTHERWISE, Verdict
from aprtui.compare.wording import counted, number_text
from aprtui.trace.archive import is_folder
from aprtui.trace.graph.stage import ENTRY, LAYER_OUTPUT, Node

_UNKNOWN_RUN = Run()
_LIMIT = 10
"""The default of --limit, which a command need not repeat."""


def diff_steps(
    comparison: Comparison, a: Path, b: Path, options: ComparisonOptions, judging: list[str],
    runs: tuple[Run, Run] = (_UNKNOWN_RUN, _UNKNOWN_RUN),
) -> Iterator[str]:  # fmt: skip
    """Commands that would settle an UNKNOWN, or look closer at a FAIL; each is whole on one line."""
    settled_otherwise = not (comparison.judgeable or comparison.unfinished or comparison.alignment.problem)
    if comparison.verdict is Verdict.PASS or settled_otherwise:
        return
    if comparison.first_divergence and comparison.first_divergence.not_selected:
        yield "next  compare the stages before it as well:"
        yield _command(a, b, replace(options, stages=None, layers=None), judging)
    elif comparison.verdict is Verdict.FAIL:
        yield from _closer_lines(comparison, a, b, options, judging, "see more of that stage:")
    else:
        yield from _settling_diff_lines(comparison, a, b, options, judging, runs)


def _settling_diff_lines(
    comparison: Comparison, a: Path, b: Path, options: ComparisonOptions, judging: list[str], runs: tuple[Run, Run]
) -> Iterator[str]:
    """What decides a comparison that is UNKNOWN."""
    if comparison.unfinished:
        for side in comparison.unfinished:
            yield from _capture_lines(f"the run of {side} did not finish: all of it", (), _of_side(side, runs))
    elif comparison.alignment.problem:
        yield from _capture_lines("capture B from the tokens of A", (), _on_tokens_of_a(runs))
        if not all(run.tokens for run in runs):
            yield from wrapped("next", "or give the ids, where a side records none:")
            yield _command(a, b, replace(options, tokens=options.tokens or "IDS"), judging)
    elif comparison.compared < comparison.expected:
        for side, nodes in _missing(comparison).items():
            yield from _capture_lines(f"what {side} lacks", nodes, _of_side(side, runs))
        yield from wrapped("next", "or accept that they are missing:")
        globs = tuple(dict.fromkeys(skip.node.stage for skip in comparison.skipped)) or ("*",)
        yield _command(a, b, replace(options, allow_missing=(*options.allow_missing, *globs)), judging)
    elif any(stage.metrics.excluded and not stage.metrics.compared for stage in comparison.stages):
        yield "next  find the first stage with NaN or Inf:"
        yield shlex.join(["aprtui", "stats", str(a)])
    elif comparison.implausible:
        yield from _judged_lines(a, b, options, judging, runs)
        if judging and comparison.stages:
            yield from _undecided_lines(comparison, runs[1])
        yield from wrapped("seen", _implausible_text(comparison))
        yield from _closer_lines(comparison, a, b, options, judging, "see more of the stage to look at first:")
    elif comparison.smallest and not options.tolerances and not judging:
        yield from _judged_lines(a, b, options, judging, runs)
        yield "next  say how far apart they may be; this is how far they are:"
        yield _command(a, b, replace(options, tolerances=(str(comparison.smallest),)), judging)
    elif comparison.stages:
        yield from _undecided_lines(comparison, runs[1])
    else:
        yield from _capture_lines("nothing was compared: B whole", (), runs[1])


def _of_side(side: str, runs: tuple[Run, Run]) -> Run:
    return runs[0] if side.upper() == "A" else runs[1]


def _on_tokens_of_a(runs: tuple[Run, Run]) -> Run:
    return replace(runs[1], tokens=runs[0].tokens or runs[1].tokens)


def _missing(comparison: Comparison) -> dict[str, list[Node]]:
    """By side, what one has and the other lacks, or cannot be read there."""
    found: dict[str, list[Node]] = {}
    for skip in comparison.skipped:
        lacking = {"a": "B", "b": "A"}.get(skip.side or "", "B")
        found.setdefault(lacking, []).append(skip.node)
    return found


def _judged_lines(
    a: Path, b: Path, options: ComparisonOptions, judging: list[str], runs: tuple[Run, Run]
) -> Iterator[str]:
    """Commands that would judge two captures, where nothing does yet."""
    if not judging and is_folder(a):
        yield "next  name the stage that injects error, or judge by a measured noise floor:"
        yield shlex.join(["aprtui", "replay", str(b), "--model", *runs[1].model])
        yield _command(a, b, replace(options, tolerances=()), ["--model", *runs[1].model])


def _implausible_text(comparison: Comparison) -> str:
    first, *more = comparison.implausible
    others = f" and {counted(len(more), 'stage')} after it" if more else ""
    numbers = f"rel_l2 {number_text(first.metrics.rel_l2)}, cosine {number_text(first.metrics.cosine)}"
    return (
        f"more than noise mostly is: {first.node} ({numbers}){others} differ{'' if more else 's'} by more than "
        f"rounding and 4-bit weights cost in most models (rel_l2 {PLAUSIBLE_REL_L2:g}, cosine {PLAUSIBLE_COSINE:g}); "
        "a measured floor tells"
    )


def _closer_lines(
    comparison: Comparison, a: Path, b: Path, options: ComparisonOptions, judging: list[str], what: str
) -> Iterator[str]:
    focus = comparison.focus
    if focus and options.stages is None and is_folder(a):
        layers = None if focus.node.layer is None else str(focus.node.layer)
        yield f"next  {what}"
        yield _command(a, b, replace(options, stages=focus.node.stage, layers=layers, limit=50), judging)


def _command(a: Path, b: Path, options: ComparisonOptions, judging: list[str]) -> str:
    """The command line that makes this comparison, for a shell."""
    limit = ["--limit", str(options.limit)] if options.limit != _LIMIT else []
    return shlex.join(["aprtui", "diff", str(a), str(b), *judging, *options.words(), *limit])


def replay_steps(
    comparison: Comparison, capture: Path, model: Path | None, words: list[str], run: Run = _UNKNOWN_RUN
) -> Iterator[str]:  # fmt: skip
    """After a replay made with the options `words` of a capture of `run`."""
    if comparison.verdict is Verdict.PASS:
        return
    focus = comparison.focus
    named = [] if model is None else ["--model", str(model)]
    if comparison.verdict is Verdict.FAIL:
        if focus is not None and "--stage" not in words:
            layers = [] if focus.node.layer is None else ["--layers", str(focus.node.layer)]
            more = [*_without(words, "--layers"), "--stage", focus.node.stage, *layers, "--limit", "50"]
            yield "next  see more of that stage:"
            yield shlex.join(["aprtui", "replay", str(capture), *named, *more])
        yield from _telling_apart(comparison, run)
        return
    yield from _settling_lines(comparison, capture, named, words, run)


def _without(words: Sequence[str], option: str) -> list[str]:
    """`words` without an option and its value."""
    before = ("", *words)
    return [word for earlier, word in zip(before, words, strict=False) if option not in (earlier, word)]


def _settling_lines(
    comparison: Comparison, capture: Path, named: list[str], words: list[str], run: Run
) -> Iterator[str]:  # fmt: skip
    """The smallest further capture that decides what is UNKNOWN, or what need be stated of this one."""
    again = ["aprtui", "replay", str(capture)]
    meant = next((found for found in comparison.everywhere if found.may_be_meant), None)
    if comparison.alignment.problem and PADDED in comparison.alignment.problem:
        yield from wrapped("next", "or state the ids, where these rows are tokens of a text:")
        yield shlex.join([*again, *named, "--tokens", "IDS"])
    elif comparison.alignment.problem:
        yield from wrapped("next", "give the capture's own model, or the ids of all its tokens:")
        yield shlex.join([*again, "--model", "MODEL"])
        yield shlex.join([*again, *named, "--tokens", "IDS"])
        yield from _capture_lines("or the stage that tells its tokens", (Node(0, ENTRY),), run)
    elif meant is not None:
        _, option, stated = meant.settled_by.partition("--rounding ")
        yield from wrapped("next", "say that it is meant:" if option else "give the engine's own model:")
        how = ["--rounding", stated] if option else ["--model", "MODEL"]
        yield shlex.join([*again, *(named if option else []), *words, *how])
    elif comparison.unfinished:
        yield from _capture_lines("its run did not finish: all of it", (), run)
    elif comparison.skipped and comparison.compared < comparison.expected:
        yield from _capture_lines("what could not be read", [skip.node for skip in comparison.skipped], run)
    elif any(stage.verdict.reason == QUANTISED_OTHERWISE for stage in comparison.stages):
        yield from wrapped("next", "give a model file of the capture's own form, that of its engine:")
        yield shlex.join([*again, "--model", "MODEL", *words])
    elif not comparison.stages:
        yield from _capture_lines("nothing was compared: the first layer", _layer_nodes(comparison, 0), run)
    else:
        yield from _undecided_lines(comparison, run)


def _undecided_lines(comparison: Comparison, run: Run) -> Iterator[str]:
    """What the first stage that nothing settles is computed from, of its own layer; where that is there, the products
    of a layer, which show what the engine rounds."""
    unsettled = [stage for stage in comparison.stages if stage.verdict.verdict is Verdict.UNKNOWN]
    first = next((stage for stage in unsettled if stage.segment), unsettled[0] if unsettled else comparison.stages[0])
    if first.node.layer is None and any(node.layer is not None for node in first.segment):
        outputs = [Node(None, LAYER_OUTPUT)]
        yield from _capture_lines(f"{first.node} is decided by the output of each layer of the same run", outputs, run)
        return
    missing = [node for node in first.segment if node.layer == first.node.layer] or list(first.segment[-1:])
    if missing:
        is_are = "is" if len(missing) == 1 else "are"
        what = f"{first.node} is decided by {counted(len(missing), 'more stage')} of the same run, which {is_are}"
        yield from wrapped("next", f"{what} {run.words}:")
        yield run.command(missing)
        return
    layer = first.node.layer if first.node.layer is not None else 0
    yield from _capture_lines(f"{first.node} is decided by all of layer {layer}", _layer_nodes(comparison, layer), run)


def _layer_nodes(comparison: Comparison, layer: int) -> list[Node]:
    return [node for node in comparison.graph.nodes if node.layer == layer]


def _capture_lines(what: str, nodes: Sequence[Node], run: Run) -> Iterator[str]:
    yield from wrapped("next", f"{what}, {run.words}:")
    yield run.command(nodes)


def _telling_apart(comparison: Comparison, run: Run) -> Iterator[str]:
    """The capture that tells alternatives apart which come out alike."""
    cause = next((cause for cause in comparison.causes if cause.alike and cause.apart), None)
    if cause is not None:
        yield from _capture_lines("what tells these causes apart", cause.apart, run)
