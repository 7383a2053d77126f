"""`aprtui diff`: compare two captures, two APRT stage files, or the weights of two models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.comparison.judging import Judging
from aprtui.cli.comparison.options import (
    AS_CAPTURES,
    ComparisonOptions,
    announce,
    comparison_options,
    report,
    warn_about,
    warn_about_trailing,
)
from aprtui.cli.json_lines import write_record
from aprtui.cli.options import MODEL, PATH
from aprtui.errors import VERDICT_CODES, UsageError
from aprtui.progress import Progress
from aprtui.trace.archive import is_folder, is_single_file

if TYPE_CHECKING:
    from aprtui.model.model import Model
    from aprtui.trace.capture import Capture
    from aprtui.trace.graph.stage_graph import StageGraph

_APR_FORMAT = "apr-stage-diff-v1"


@click.command()
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@click.option("--floor", type=PATH, metavar="REF", help="A third capture: its error against A is the noise floor.")
@click.option("--model", type=MODEL, metavar="MODEL", help="The model of both sides: its runs give the noise floor.")
@click.option("--model-a", type=MODEL, metavar="MODEL", help="The model of A, where B has another; implies --replay.")
@click.option("--model-b", type=MODEL, metavar="MODEL", help="The model of B, where A has another; implies --replay.")
@click.option("--replay", is_flag=True, help="Tell injected from inherited error: recompute each side from its inputs.")
@click.option("--rounding", metavar="WHERE=WHAT,…", default="", help="What both engines round; found by trying.")
@click.option("--mapping", type=PATH, metavar="FILE", help="How B's stages correspond to A's, from a YAML file.")
@click.option("--extras", is_flag=True, help="Count the float32 steps between the sides of the stage to look at.")
@click.option(AS_CAPTURES, is_flag=True, help="Of two recordings: compare the stages that their ops are.")
@click.option("--weights", is_flag=True, help="A and B are models: compare their weights and metadata.")
@click.option(
    "--format", "file_format", type=click.Choice([_APR_FORMAT]), help="For two files: the record of apr diff --values."
)
@comparison_options
def command(
    a: Path, b: Path, floor: Path | None, model: Path | None, model_a: Path | None, model_b: Path | None, replay: bool,
    rounding: str, mapping: Path | None, extras: bool, as_captures: bool, weights: bool, file_format: str | None,
    options: ComparisonOptions,
) -> int:  # fmt: skip
    """Compare B with the reference A: two captures, two APRT stage files, two models (--weights), or two recordings of
    ops (`aprtui record`), whose graphs are held against one another. Of a recording beside a capture, and of two with
    --as-captures, the stages are compared that the ops are.

    Names the first divergent stage. Equal values pass; values that differ are judged by a noise floor (--model,
    --floor), by a replay of each side, or by a --tolerance or --policy of your own.

    Captures of other tools that say what they are, and parts of tensors that they print, are taken as they are (aprtui
    import --formats).

    Each row of the table is one stage over all its layers: "first" is its first layer beyond the bound (without one,
    beyond rounding: rel_l2 above 1e-5), "worst" the layer whose numbers are shown, "nan/inf" how many values in all
    its layers are not finite on one side or both.

    Exit codes: 0 pass, 1 divergence, 2 usage, 3 unreadable input, 4 output failed, 70 internal error, 125 cannot be
    judged, 130 interrupted.
    """
    if options.as_json and file_format:
        raise UsageError("--json and --format: choose one of them")
    judging = Judging(floor, model, model_a, model_b, replay, rounding)
    if weights:
        a, b = (MODEL.convert(str(path), None, None) for path in (a, b))
        return _diff_weights(a, b, options, judging.given or mapping is not None or file_format is not None)
    from aprtui.cli.comparison.recordings import are_recordings
    from aprtui.cli.comparison.recordings import diff as diff_recordings

    if are_recordings(a, b) and not as_captures:
        others = bool(floor or replay or rounding or mapping or extras or file_format)
        return diff_recordings(a, b, (model_a or model, model_b or model), others, options)
    if is_single_file(a) and is_single_file(b) and not _of_other_tools(a, b):
        if judging.given or mapping or not options.plain:
            raise UsageError(
                "two stage files record neither tokens nor stage: only --tolerance, --limit and the report can be given"
            )
        return _diff_files(a, b, options, file_format is not None)
    if file_format:
        raise UsageError(f"--format {_APR_FORMAT}: needs two APRT stage files, not captures")
    both = are_recordings(a, b)
    return _diff_captures(a, b, judging, mapping, extras, both, options)


def _of_other_tools(*paths: Path) -> bool:
    """Whether one of several files is a capture of another tool, or parts of one."""
    others = _no_captures(paths)
    if not others:
        return False
    from aprtui.importing.formats.registry import format_of, sample_format_of

    return any(sample_format_of(path) is not None or format_of(path) is not None for path in others)


def _hold_parts(*paths: Path) -> bool:
    """Whether one of several files holds parts of the tensors of a capture."""
    others = _no_captures(paths)
    if not others:
        return False
    from aprtui.importing.formats.registry import sample_format_of

    return any(sample_format_of(path) is not None for path in others)


def _no_captures(paths: Iterable[Path]) -> list[Path]:
    """Those that are not read as they are: formats of other tools, all of which take a while to import."""
    from aprtui.trace.capture import is_capture

    return [path for path in paths if not is_capture(path)]


def _diff_weights(a: Path, b: Path, options: ComparisonOptions, asks_more: bool) -> int:
    from aprtui.cli.comparison.weights import diff_weights

    reports = options.html or options.svg or options.policy_file
    if asks_more or reports or options.allow_missing or options.tokens is not None:
        raise UsageError("--weights: only --stage, --layers, --tolerance, --limit and --json go with it")
    return diff_weights(a, b, options.selection, options.parsed_tolerances, options.limit, options.as_json)


def _diff_files(a: Path, b: Path, options: ComparisonOptions, as_apr: bool) -> int:
    from aprtui.cli.comparison.next_steps import diff_steps
    from aprtui.compare.files import compare_files
    from aprtui.compare.report.apr_diff import apr_stage_diff
    from aprtui.trace.aprt import read_aprt

    left, right = read_aprt(a), read_aprt(b)
    for file in (left, right):
        warn_about_trailing(file)
    _remark_on_names(a, b)
    comparison = compare_files(left, right, options.parsed_tolerances, options.limit)
    if as_apr:
        write_record(apr_stage_diff(left, right, options.limit, comparison.verdict))
        return VERDICT_CODES[comparison.verdict]
    return report((str(a), str(b)), None, comparison, options, diff_steps(comparison, a, b, options, []))


def _remark_on_names(a: Path, b: Path) -> None:
    """Say on stderr that two files are named after different stages: only its name says which stage a file holds."""
    from aprtui.trace.graph.names import known_names
    from aprtui.trace.graph.stage import canonical_name

    left, right = canonical_name(a.stem), canonical_name(b.stem)
    if left != right and {left, right} <= set(known_names()):
        click.echo(
            f"aprtui: A is named {left}, B {right}: two stages, compared element by element all the same", err=True
        )


@contextmanager
def _parts(
    a: Path, b: Path, judging: Judging, tokens: Sequence[int] | None, progress: Progress
) -> Iterator[tuple[Capture, Capture]]:
    """The parts of both sides, where one is a dump of parts of tensors; a model only tells their stages."""
    from aprtui.cli.options import requested_model
    from aprtui.importing.import_format import PartChoice
    from aprtui.importing.importer import as_captures
    from aprtui.recordings.captures.stand_in import stand_in
    from aprtui.recordings.reading import is_recording
    from aprtui.trace.capture import Capture

    if judging.given and judging.words() != ["--model", str(judging.model)]:
        raise UsageError("parts of tensors are judged by their digits or by --tolerance: of the others, give --model")

    def model() -> Model | None:
        return None if judging.model is None else requested_model(judging.model)

    a, b = (stand_in(path, progress, announce) if is_recording(path) else path for path in (a, b))
    with as_captures(a, b, model, PartChoice(), tokens, announce, progress) as (of_a, of_b):
        yield Capture.open(of_a), Capture.open(of_b)


@contextmanager
def _opened(a: Path, b: Path, judging: Judging, progress: Progress) -> Iterator[tuple[Capture, Capture]]:
    """Both captures; of another tool, read with the stages of the model that is given, or of the other side."""
    from aprtui.cli.comparison.recordings import readable
    from aprtui.cli.options import requested_model
    from aprtui.recordings.reading import is_recording
    from aprtui.trace.capture import Capture, is_capture

    def graph(own: Path | None, other: Path) -> StageGraph | None:
        chosen = own or judging.model
        if chosen is not None:
            return requested_model(chosen).graph
        from aprtui.recordings.captures.stand_in import open_capture

        has_graph = is_recording(other) or (is_folder(other) and is_capture(other))
        known = open_capture(other, progress=progress) if has_graph else None
        return None if known is None or known.manifest is None else known.graph

    with (
        readable(a, lambda: graph(judging.model_a, b), progress) as of_a,
        readable(b, lambda: graph(judging.model_b, a), progress) as of_b,
    ):
        yield Capture.open(of_a), Capture.open(of_b)


def _diff_captures(
    a: Path, b: Path, judging: Judging, mapping: Path | None, extras: bool, of_recordings: bool,
    options: ComparisonOptions,
) -> int:  # fmt: skip
    from aprtui.cli.comparison.further_captures import run_of
    from aprtui.cli.comparison.next_steps import diff_steps
    from aprtui.cli.progress import ProgressLine
    from aprtui.compare.align.mapping import StageMapping, read_mapping
    from aprtui.compare.captures import DiffOptions, compare_captures
    from aprtui.compare.manifests import compare_manifests

    for path, other in ((a, b), (b, a)):
        if is_single_file(path) and is_folder(other) and not _of_other_tools(path):
            raise UsageError(f"{path}: is a file, {other} a directory: compare two captures or two stage files")
    policy = options.policy
    given = DiffOptions(
        selection=options.selection,
        tolerances=options.parsed_tolerances,
        allow_missing=(*options.allow_missing, *(policy.allow_missing if policy else ())),
        tokens=options.token_ids,
        limit=options.limit,
        extras=extras,
        mapping=StageMapping() if mapping is None else read_mapping(mapping),
    )
    by_parts = _hold_parts(a, b)
    with ExitStack() as stack:
        progress = stack.enter_context(ProgressLine())
        if by_parts:
            left, right = stack.enter_context(_parts(a, b, judging, given.tokens, progress))
            given, judging = replace(given, tokens=None), replace(judging, model=None)
        else:
            left, right = stack.enter_context(_opened(a, b, judging, progress))
        for capture in dict.fromkeys((a, b)):
            warn_about(left if capture == a else right)
        criteria, tokens = judging.criteria(left, right, given, policy, progress)
        if given.tokens is None and tokens is not None:
            from aprtui.engine.replay.token_ids import TABLE_SOURCE

            given = replace(given, tokens=tokens, token_source=TABLE_SOURCE)
        comparison = compare_captures(left, right, given, progress, criteria)
        manifests = compare_manifests(left, right)
        runs = run_of(left, judging.model_a or judging.model), run_of(right, judging.model_b or judging.model)
    words = [*judging.words(), *([AS_CAPTURES] if of_recordings else [])]
    steps = diff_steps(comparison, a, b, options, words, runs)
    return report((str(a), str(b)), manifests, comparison, options, steps)
