"""`aprtui sweep`: models × prompts × engines, captured and judged on all cores, or on a cluster."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.json_lines import write_record
from aprtui.cli.options import LOCAL_PATH, PATH, PlaceParameter

if TYPE_CHECKING:
    from aprtui.sweep.results import ResultRow, RollupRow
    from aprtui.sweep.running import SweepReport

_GIGABYTE = 10**9
_MOST_LINES = 20
_OUT = PlaceParameter(local=True, instead="the work goes on from a folder here; --results writes tables to an address")


@click.command()
@click.argument("plan", type=LOCAL_PATH)
@click.option("--out", type=_OUT, metavar="DIR", help="The folder of the results; ./<plan>-sweep by default.")
@click.option(
    "--results", type=PATH, metavar="DIR", help="Write tables and page to DIR as well: a folder or an address."
)
@click.option(
    "--keep", type=click.Choice(["failing", "all", "none"]), default="failing", show_default=True,
    help="Captures that stay when their verdicts are there: those of a FAIL, all, none.",
)  # fmt: skip
@click.option("--scheduler", metavar="ADDRESS", help="A Dask cluster that runs, as tcp://host:8786; local without it.")
@click.option("--workers", type=click.IntRange(1, 1024), help="Local workers; as many as there is room for by default.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of an engine; cores over workers by default.")
@click.option("--memory", type=click.FloatRange(0.1), metavar="GB", help="Most memory of a local worker; even shares.")
@click.option("--gpus", type=click.IntRange(0, 64), default=0, metavar="N", help="GPUs of this machine, a worker each.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a verdict, then a summary.")
def command(
    plan: Path, out: Path | None, results: Path | None, keep: str, scheduler: str | None, workers: int | None,
    threads: int | None, memory: float | None, gpus: int, as_json: bool,
) -> int:  # fmt: skip
    """Capture and judge what PLAN, a YAML file, names: models, prompts, engines, pairs of engines.

    What is done stays in DIR, and the same command goes on where it was stopped. DIR then holds results.jsonl and
    results.parquet (a row a verdict), rollup.jsonl and rollup.parquet (stage by stage over all prompts), and
    index.html; aprtui open DIR shows the matrix. Needs `pip install 'aprtui[sweep]'`.

    Exit codes: 0 all pass, 1 a divergence, 125 a pair that cannot be judged and none that diverges, 2 a wrong plan,
    3 unreadable input, 4 an engine or the cluster failed, 130 interrupted.
    """
    from aprtui.cli.progress import ProgressLine
    from aprtui.errors import UsageError
    from aprtui.sweep.cluster import ClusterRequest, configured_scheduler
    from aprtui.sweep.folder import SweepFolder
    from aprtui.sweep.plan import read_plan
    from aprtui.sweep.results import exit_code
    from aprtui.sweep.running import Keep, SweepRequest, run_sweep

    address = scheduler or configured_scheduler()
    if address is not None and (workers or memory or gpus):
        raise UsageError(f"the workers of {address} are there already: leave out --workers, --memory and --gpus")
    folder = SweepFolder((out or Path(f"{plan.stem}-sweep")).absolute())
    cluster = ClusterRequest(address, workers, threads, None if memory is None else int(memory * _GIGABYTE), gpus)
    if gpus > cluster.worker_count:
        raise UsageError(
            f"--gpus {gpus}: a worker has one GPU, and there are {cluster.worker_count}: give --workers too"
        )
    request = SweepRequest(read_plan(plan), folder, Keep(keep), cluster, results)
    try:
        with ProgressLine() as progress:
            report = run_sweep(request, progress, lambda text: click.echo(f"aprtui: {text}", err=True))
    except KeyboardInterrupt:
        click.echo(f"aprtui: what is done stays in {folder.root}: the same command goes on from there", err=True)
        raise
    _print(report, folder.root, as_json)
    return exit_code(report.rows)


def _print(report: SweepReport, root: Path, as_json: bool) -> None:
    from aprtui.sweep.matrix import counts_of
    from aprtui.sweep.report.page import PAGE

    counts = counts_of(report.rows)
    if as_json:
        for row in report.rows:
            write_record({"record": "result", **asdict(row)})
        write_record(
            {"record": "summary", "directory": str(root), **{each.value: count for each, count in counts.items()},
             "verdicts_before": report.before, "captures_made": report.made, "bytes_captured": report.bytes,
             "peak_worker_bytes": report.peak}
        )  # fmt: skip
        return
    for line in (*_failing_lines(report.rows), *_rollup_lines(report.rollup)):
        click.echo(line)
    click.echo(", ".join(f"{count} {verdict.value}" for verdict, count in counts.items()))
    click.echo(
        f"{root}: results.jsonl, results.parquet, rollup.jsonl, rollup.parquet, {PAGE}; {report.made} captures of "
        f"{report.bytes / 1e6:.0f} MB in all were made, {report.before} verdicts were there"
    )
    click.echo(f"aprtui: next: aprtui open {shlex.quote(str(root))}", err=True)


def _failing_lines(rows: Sequence[ResultRow]) -> Iterator[str]:
    from aprtui.sweep.matrix import failing_first

    bad = failing_first(rows)
    for row in bad[:_MOST_LINES]:
        yield f"{row.verdict:7}  {row.model}  {row.pair}  prompt {row.prompt}: {row.headline}"
    if len(bad) > _MOST_LINES:
        yield f"… {len(bad) - _MOST_LINES} more that do not pass"


def _rollup_lines(rollup: Iterable[RollupRow]) -> Iterator[str]:
    from aprtui.sweep.rollup import worst_first

    failing = [row for row in worst_first(list(rollup)) if row.first]
    for row in failing[:_MOST_LINES]:
        where = row.stage if row.layer is None else f"layer {row.layer} {row.stage}"
        worst = "" if row.largest_over_floor is None else f", at most {row.largest_over_floor:.3g} × its floor"
        yield f"{row.model}  {row.pair}  {where}: the first wrong stage at {row.first} of {row.judged} prompts{worst}"
