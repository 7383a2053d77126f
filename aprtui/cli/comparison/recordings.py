"""Recordings of op graphs where `replay` and `diff` are given them in place of captures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from aprtui.cli.comparison.options import ComparisonOptions
from aprtui.cli.json_lines import write_record
from aprtui.compare.metrics.measure import Metric
from aprtui.errors import VERDICT_CODES, UsageError


def are_recordings(*paths: Path) -> bool:
    """Whether all of the paths hold recordings. Raises `UsageError` where some do and some do not."""
    from aprtui.recordings.reading import is_recording

    found = [is_recording(path) for path in paths]
    if any(found) and not all(found):
        raise UsageError(
            f"{paths[found.index(True)]} is a recording of ops, {paths[found.index(False)]} is none: compare two "
            "recordings or two captures"
        )
    return all(found)


def _require_no_others(options: ComparisonOptions, others: bool, takes: str) -> None:
    """Raise `UsageError` for options that mean nothing for recordings; `takes` are those that do."""
    plain = replace(options, stages=None, layers=None, policy_file=None, tokens=None, html=None, svg=None)
    if others or plain != options:
        raise UsageError(f"a recording of ops: only {takes}, --json and --bisect go with it")


def _bound(options: ComparisonOptions, otherwise: float) -> float:
    for tolerance in options.parsed_tolerances:
        if tolerance.metric is not Metric.REL_L2:
            raise UsageError(f"--tolerance {tolerance}: ops are judged by rel_l2: use --tolerance rel_l2=X")
        return tolerance.bound
    return otherwise


def replay(path: Path, model: Path | None, others: bool, options: ComparisonOptions) -> int:
    """Compute the ops of a recording again and print the verdict; its exit code.

    `others`: whether options are given that do not apply.
    """
    from aprtui.cli.progress import ProgressLine
    from aprtui.recordings.judging import BOUND
    from aprtui.recordings.reading import Recording
    from aprtui.recordings.replay import OpReplayOptions, replay_recording
    from aprtui.recordings.report import next_steps, replay_lines, replay_records
    from aprtui.recordings.weights import weights_of_recording

    _require_no_others(options, others, "--model, --tolerance rel_l2=X, --allow-missing OP")
    recording = Recording.open(path)
    weights = weights_of_recording(recording, model)
    with ProgressLine() as progress:
        found = replay_recording(
            recording, weights, OpReplayOptions(_bound(options, BOUND), options.allow_missing), progress
        )
    if options.as_json:
        for record in replay_records(recording, found):
            write_record(record)
    else:
        click.echo("\n".join([*replay_lines(recording, found), "", *next_steps(recording, found)]).rstrip())
    return VERDICT_CODES[found.verdict]


def diff(a: Path, b: Path, model: tuple[Path | None, Path | None], others: bool, options: ComparisonOptions) -> int:
    """Hold recording B against A and print the verdict; its exit code. `model`: where weights of each side are."""
    from aprtui.cli.progress import ProgressLine
    from aprtui.recordings.alignment.meaning import compare_meaning
    from aprtui.recordings.alignment.report import diff_lines, diff_records, diff_steps
    from aprtui.recordings.reading import Recording
    from aprtui.recordings.weights import weights_of_recording

    more = bool(options.tolerances or options.allow_missing)
    _require_no_others(options, others or more, "--model, --model-a, --model-b")
    left, right = Recording.open(a), Recording.open(b)
    with ProgressLine() as progress:
        weights = [weights_of_recording(side, path) for side, path in zip((left, right), model, strict=True)]
        found = compare_meaning(left, right, weights[0], weights[1], progress)
    if options.as_json:
        for record in diff_records(left, right, found):
            write_record(record)
    else:
        click.echo("\n".join([*diff_lines(left, right, found), "", *diff_steps(left, right, found)]).rstrip())
    return VERDICT_CODES[found.verdict]
