"""`aprtui qa`: quality gates of a model."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aprtui.cli.json_lines import write_record
from aprtui.cli.options import LOCAL_PATH, MODEL_ARGUMENT, requested_path
from aprtui.engine.backends.registry import AUTO, backend_choices
from aprtui.errors import VERDICT_CODES

if TYPE_CHECKING:
    from aprtui.engine.quality.gates import GateResult, QualityReport


@click.command()
@MODEL_ARGUMENT
@click.option("--golden", type=LOCAL_PATH, metavar="FILE", help="Prompts and what their completions must hold.")
@click.option("--require", metavar="GATE", multiple=True, help="Fail where this gate is skipped. Repeatable.")
@click.option(
    "--min-executed", type=click.IntRange(1), default=1, show_default=True, help="UNKNOWN where fewer gates are run."
)
@click.option(
    "--assert-tps", type=click.FloatRange(0), default=10.0, show_default=True, help="Tokens a second that must be made."
)
@click.option(
    "--against", type=LOCAL_PATH, metavar="GOOD.gguf", help="A model that is known to be good, to compare with."
)
@click.option("--nll", type=click.FloatRange(0, 100), help="Nats a token of the fixed text that a good model needs.")
@click.option("--baseline", type=LOCAL_PATH, metavar="FILE", help="Where the speed of earlier runs is.")
@click.option("--save-baseline", is_flag=True, help="Store speed and likelihood of this run as the baseline.")
@click.option("--backend", type=click.Choice(backend_choices()), default=AUTO, show_default=True)
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads; all available cores by default.")
@click.option("--json", "as_json", is_flag=True, help="The report as one JSON object.")
@click.option("--bisect", is_flag=True, help="Exit codes for git bisect run: 125 for all but pass and fail.")
def command(
    model: Path | None, golden: Path | None, require: tuple[str, ...], min_executed: int, assert_tps: float,
    against: Path | None, nll: float | None, baseline: Path | None, save_baseline: bool, backend: str,
    threads: int | None, as_json: bool, bisect: bool,
) -> int:  # fmt: skip
    """Run the quality gates of MODEL (the embedded model by default), one line each as it ends.

    A gate that cannot be run here is skipped, which is not passed. Exit codes: 0 all gates that were run passed, 1 one
    failed or a required one was skipped, 3 no model file, 125 noise decides one, or fewer gates were run than
    --min-executed.
    """
    from aprtui.engine.quality.gate import QualityOptions
    from aprtui.engine.quality.gates import run_quality
    from aprtui.model.open_file import require_local
    from aprtui.resources import quality_baselines

    path = requested_path(model)
    require_local(path)
    options = QualityOptions(
        backend=backend, threads=threads, golden=golden, tokens_per_second=assert_tps,
        baseline=baseline or _baseline(path), save_baseline=save_baseline, against=against, nll=nll,
        likelihoods=quality_baselines(),
    )  # fmt: skip
    started = datetime.now(UTC)
    report = run_quality(
        path, options, required=require, least=min_executed, each=(lambda gate: None) if as_json else _print_gate
    )
    if as_json:
        write_record(_document(report, started))
    else:
        click.echo(f"{report.verdict.value}: {report.reason}")
    return VERDICT_CODES[report.verdict.value]


def _baseline(model: Path) -> Path:
    """Where the baseline of a model lies, named by the bytes of its file: a renamed model keeps its baseline."""
    from aprtui.model.digest import file_digest
    from aprtui.model.split_files import parts_there
    from aprtui.resources import quality_baselines

    return quality_baselines() / f"{file_digest(*parts_there(model))[:32]}.json"


def _print_gate(gate: GateResult) -> None:
    click.echo(f"{gate.finding.outcome.value:<8} {gate.name:<24} {gate.finding.message} ({gate.seconds:.1f} s)")


def _document(report: QualityReport, started: datetime) -> dict[str, Any]:
    """The report with the fields of `apr qa --json`, and the verdict."""
    from aprtui.machine import processor_name

    return {
        "model": str(report.model),
        "passed": report.verdict.value == "PASS",
        "gates": [_gate(gate) for gate in report.gates],
        "gates_executed": report.executed,
        "gates_skipped": len(report.gates) - report.executed,
        "total_duration_ms": round(1000 * sum(gate.seconds for gate in report.gates)),
        "timestamp": started.isoformat(timespec="seconds"),
        "summary": report.reason,
        "system_info": {"cpu_model": processor_name()},
        "verdict": report.verdict.value,
    }


def _gate(gate: GateResult) -> dict[str, Any]:
    finding = gate.finding
    numbers = {"value": finding.value, "threshold": finding.threshold}
    return {
        "name": gate.name,
        "passed": finding.outcome.value == "passed",
        "message": finding.message,
        **{name: number for name, number in numbers.items() if number is not None},
        "duration_ms": round(1000 * gate.seconds),
        "skipped": finding.outcome.value == "skipped",
    }
