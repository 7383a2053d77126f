"""A verdict as a row of the results: with the captures that are there, and the commands that make them again."""

from __future__ import annotations

from dataclasses import asdict

from aprtui.sweep.folder import SweepFolder
from aprtui.sweep.outcome import PairOutcome
from aprtui.sweep.results import ResultRow
from aprtui.sweep.tasks import CaptureTask, SweepGroup, VerdictTask

_MADE = "made-again"
"""Where the command that makes a capture again leaves it, with the engine's name behind."""


def result_row(folder: SweepFolder, group: SweepGroup, task: VerdictTask, outcome: PairOutcome) -> ResultRow:
    """The row of a verdict, with the captures that are there now."""
    short = asdict(outcome)
    del short["peak"]
    return ResultRow(
        model=group.model.name, model_path=str(group.model.path), prompt=group.prompt, text=group.text or "",
        token_count=len(group.tokens), pair=task.pair.name, a=task.pair.a or "", b=task.pair.b,
        judge=task.pair.judge.value, key=task.key, **{**short, "verdict": outcome.verdict.value},
        capture_a=_kept(folder, task.a), capture_b=_kept(folder, task.b), again_a=_again(task.a),
        again_b=_again(task.b),
    )  # fmt: skip


def _kept(folder: SweepFolder, capture: CaptureTask | None) -> str:
    if capture is None or not folder.capture(capture.key).is_dir():
        return ""
    return str(folder.capture(capture.key).relative_to(folder.root))


def _again(capture: CaptureTask | None) -> str:
    if capture is None:
        return ""
    return capture.engine.by_hand(capture.model.path, capture.tokens, f"{_MADE}-{capture.engine_name}")
