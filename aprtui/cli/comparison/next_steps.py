"""What to do after a comparison: commands that settle an UNKNOWN or look closer at a FAIL, ready to paste."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from aprtui.cli.comparison.options import ComparisonOptions
from aprtui.cli.comparison.render import wrapped
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import PLAUSIBLE_COSINE, PLAUSIBLE_REL_L2, Verdict
from aprtui.compare.wording import counted, number_text
from aprtui.trace.archive import is_folder

_LIMIT = 10
"""The default of --limit, which a command need not repeat."""


def diff_steps(
    comparison: Comparison, a: Path, b: Path, options: ComparisonOptions, judging: list[str]
) -> Iterator[str]:
    """Commands that would settle an UNKNOWN, or look closer at a FAIL; each is whole on one line."""
    if comparison.verdict is Verdict.PASS:
        return
    if comparison.first_divergence and comparison.first_divergence.not_selected:
        yield "next  compare the stages before it as well:"
        yield _command(a, b, replace(options, stages=None, layers=None), judging)
    elif comparison.verdict is Verdict.FAIL:
        yield from _closer_lines(comparison, a, b, options, judging, "see more of that stage:")
    elif comparison.unfinished:
        runs = "its run" if len(comparison.unfinished) == 1 else "their runs"
        yield f"next  capture {' and '.join(comparison.unfinished)} again: {runs} did not finish"
    elif comparison.alignment.problem:
        yield "next  capture both sides from the same tokens, or give the ids with --tokens where"
        yield "      a side records none"
    elif comparison.compared < comparison.expected:
        yield "next  capture what is missing, or accept it with --allow-missing GLOB"
    elif any(stage.metrics.excluded and not stage.metrics.compared for stage in comparison.stages):
        yield "next  find the first stage with NaN or Inf:"
        yield shlex.join(["aprtui", "stats", str(a)])
    elif comparison.implausible:
        yield from _judged_lines(a, b, judging)
        yield from wrapped("seen", _implausible_text(comparison))
        yield from _closer_lines(comparison, a, b, options, judging, "see more of the stage to look at first:")
    elif comparison.smallest and not options.tolerances and not judging:
        yield from _judged_lines(a, b, judging)
        yield "next  say how far apart they may be; this is how far they are:"
        yield _command(a, b, replace(options, tolerances=(str(comparison.smallest),)), judging)


def _judged_lines(a: Path, b: Path, judging: list[str]) -> Iterator[str]:
    """Commands that would judge two captures, where nothing does yet."""
    if not judging and is_folder(a):
        yield "next  name the stage that injects error, or judge by a measured noise floor:"
        yield shlex.join(["aprtui", "replay", str(b), "--model", "MODEL"])
        yield shlex.join(["aprtui", "diff", str(a), str(b), "--model", "MODEL"])


def _implausible_text(comparison: Comparison) -> str:
    first, *more = comparison.implausible
    others = f" and {counted(len(more), 'stage')} after it" if more else ""
    numbers = f"rel_l2 {number_text(first.metrics.rel_l2)}, cosine {number_text(first.metrics.cosine)}"
    return (
        f"this is no noise to accept: {first.node} ({numbers}){others} differ{'' if more else 's'} by more than "
        f"rounding and 4-bit weights explain (rel_l2 {PLAUSIBLE_REL_L2:g}, cosine {PLAUSIBLE_COSINE:g})"
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


def replay_steps(comparison: Comparison, capture: Path, model: Path | None, words: list[str]) -> Iterator[str]:
    """After a replay made with the options `words`."""
    if comparison.verdict is Verdict.PASS:
        return
    focus = comparison.focus
    if comparison.verdict is Verdict.FAIL and focus is not None and "--stage" not in words:
        layers = [] if focus.node.layer is None else ["--layers", str(focus.node.layer)]
        named = [] if model is None else ["--model", str(model)]
        yield "next  see more of that stage:"
        yield shlex.join(
            ["aprtui", "replay", str(capture), *named, *words, "--stage", focus.node.stage, *layers, "--limit", "50"]
        )
    elif comparison.alignment.problem:
        yield "next  give the capture's own model with --model, or its token ids with --tokens"
    elif comparison.verdict is Verdict.UNKNOWN:
        yield from _capture_steps(comparison)


def _capture_steps(comparison: Comparison) -> Iterator[str]:
    """The smallest capture that decides the first stage that nothing settles: what its layer computes it from."""
    unsettled = [stage for stage in comparison.stages if stage.verdict.verdict is Verdict.UNKNOWN and stage.segment]
    if not unsettled:
        return
    first = unsettled[0]
    missing = [node for node in first.segment if node.layer == first.node.layer] or [first.segment[-1]]
    layers = [] if missing[0].layer is None else ["--save-tensor-layers", str(missing[0].layer)]
    names = ",".join(dict.fromkeys(node.stage for node in missing))
    yield f"next  {first.node} is decided by {counted(len(missing), 'more stage')} of the same run, captured as by:"
    yield shlex.join(["aprtui", "trace", "MODEL", "-p", "PROMPT", "--save-tensor", names, *layers])
