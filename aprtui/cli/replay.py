"""`aprtui replay`: recompute each stage of a capture from its captured inputs."""

from __future__ import annotations

from pathlib import Path

import click

from aprtui.cli.comparison.options import AS_CAPTURE, ComparisonOptions, comparison_options, report, warn_about
from aprtui.cli.options import MODEL, PATH, requested_model
from aprtui.engine.backends.registry import AUTO, backend_choices, evaluating_backends


@click.command()
@click.argument("capture", type=PATH)
@click.option("--model", type=MODEL, metavar="MODEL", help="The capture's model file; the embedded one by default.")
@click.option(
    "--rounding",
    metavar="WHERE=WHAT,…",
    default="",
    help="What the capture's engine rounds, as matmul_input=q8_k,kv_cache=f16; found by trying where not given.",
)
@click.option("--backend", type=click.Choice(backend_choices(evaluating_backends())), default=AUTO, show_default=True)
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads; all available cores by default.")
@click.option(AS_CAPTURE, is_flag=True, help="Of a recording: replay the stages that its ops are.")
@comparison_options
def command(
    capture: Path, model: Path | None, rounding: str, backend: str, threads: int | None, as_capture: bool,
    options: ComparisonOptions,
) -> int:  # fmt: skip
    """Recompute each stage of CAPTURE from its captured inputs, and name the one that injects error.

    One capture and its model suffice, whichever engine wrote it. A stage whose inputs were not captured is computed
    from the nearest ones that were, and the verdict names the whole segment. Side A of the report is what the model
    gives, side B what was captured.

    A recording (`aprtui record`) has an engine's own ops: each is computed again from what it was given. With
    --as-capture, the stages that its ops are get replayed with the model, as those of a capture. Captures of
    other tools that say what they are (aprtui import --formats) are taken as they are.

    Exit codes: 0 pass, 1 divergence, 2 usage, 3 unreadable input, 4 output failed, 70 internal error, 125 cannot be
    judged, 130 interrupted.
    """
    from aprtui.cli.comparison.recordings import are_recordings, readable
    from aprtui.cli.comparison.recordings import replay as replay_ops

    if are_recordings(capture) and not as_capture:
        return replay_ops(capture, model, bool(rounding or threads or backend != AUTO), options)
    from aprtui.cli.comparison.further_captures import run_of
    from aprtui.cli.comparison.next_steps import replay_steps
    from aprtui.cli.progress import ProgressLine
    from aprtui.engine.replay.arithmetic import parse_rounding
    from aprtui.engine.replay.evaluators import Evaluators
    from aprtui.engine.replay.form import in_form_of
    from aprtui.engine.replay.replay import ReplayOptions, replay_capture
    from aprtui.trace.capture import Capture

    policy, tolerances = options.policy, options.parsed_tolerances
    replayed = ReplayOptions(
        selection=options.selection,
        rounding=parse_rounding(rounding) if rounding else {},
        bounds=policy.tolerances if policy else (lambda node: tolerances),
        allow_missing=(*options.allow_missing, *(policy.allow_missing if policy else ())),
        tokens=options.token_ids,
        limit=options.limit,
    )
    loaded = requested_model(model)
    with ProgressLine() as progress, readable(capture, lambda: loaded.graph, progress) as folder:
        opened = Capture.open(folder)
        warn_about(opened)
        fitting = in_form_of(opened, loaded, progress)
        with Evaluators(fitting, backend, threads, progress) as evaluators:
            comparison = replay_capture(opened, fitting, replayed, evaluators, progress)
    words = [*options.words(), *([AS_CAPTURE] if as_capture else []), *(["--rounding", rounding] if rounding else [])]
    sides = (f"{loaded.path}, from captured inputs", str(capture))
    steps = replay_steps(comparison, capture, model, words, run_of(opened, model, embedded=True))
    return report(sides, None, comparison, options, steps)
