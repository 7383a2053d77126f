"""The tables of `aprtui bench verdicts`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aprtui.cli.json_lines import write_record
from aprtui.progress import Progress

if TYPE_CHECKING:
    from aprtui.engine.evaluation.false_alarms import Judged
    from aprtui.engine.evaluation.fault_detection import Tally
    from aprtui.model.model import Model


def detection(model: Model, every: int, as_json: bool, progress: Progress) -> None:
    """Faults planted and named, for each kind and signal."""
    from aprtui.engine.evaluation.fault_detection import SIGNALS, run_detection

    tallies = []
    for tally in run_detection(model, progress, every=every):
        tallies.append(tally)
        if as_json:
            write_record({"record": "detection", **asdict(tally)})
    if not as_json:
        click.echo("\n".join(_detection_lines(tallies, SIGNALS)))


def _detection_lines(tallies: Sequence[Tally], signals: Sequence[str]) -> Iterator[str]:
    """A row for each kind, then the sum of each signal, then what was missed."""
    yield f"{'faults planted':<22}" + "".join(f"{signal:>8} named of   below" for signal in signals)
    for kind in dict.fromkeys(tally.kind for tally in tallies):
        yield f"{kind:<22}" + "".join(_cells([t for t in tallies if (t.kind, t.signal) == (kind, s)]) for s in signals)
    yield f"{'all':<22}" + "".join(_cells([t for t in tallies if t.signal == signal]) for signal in signals)
    yield "right answer: the stage where the fault is, whatever its kind"
    yield "below: plants that change their stage by less than the signal's bound, or no bit: in no rate"
    for tally in tallies:
        yield from (f"missed by {tally.signal}: {miss}" for miss in tally.missed)


def _cells(tallies: Sequence[Tally]) -> str:
    planted, named = sum(t.planted for t in tallies), sum(t.named for t in tallies)
    share = f"{100 * named / planted:.1f}%" if planted else "–"
    return f"{share:>8}{named:>6}{planted:>6}{sum(t.below + t.unchanged for t in tallies):>6}"


def honest(folder: Path, as_json: bool, progress: Progress) -> None:
    """Honest captures judged, and captures of edited models."""
    from aprtui.bench.honest import judge_honest, judge_outside_faults

    parts = (("honest", judge_honest), ("outside fault", judge_outside_faults))
    for name, judge in parts:
        found = list(judge(folder, progress))
        for judged in found if as_json else ():
            write_record({"record": name, **asdict(judged)})
        if not as_json:
            click.echo("\n".join(_judged_lines(name, found)))


def _judged_lines(name: str, found: Sequence[Judged]) -> Iterator[str]:
    """Verdicts by signal; each honest one that is not PASS, and each fault that was not named."""
    for signal in dict.fromkeys(judged.signal for judged in found):
        of_signal = [judged for judged in found if judged.signal == signal]
        counts = Counter(judged.verdict.value for judged in of_signal)
        text = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        right = sum(bool(judged.right) for judged in of_signal)
        named = "" if of_signal[0].right is None else f"; {right} of {len(of_signal)} at their own stage"
        yield f"{name}, judged by {signal}: {text}{named}"
    for judged in found:
        wrong = judged.verdict.value != "PASS" if judged.right is None else not judged.right
        if wrong:
            yield f"   {judged.what}, {judged.signal}: {judged.verdict.value}: {judged.said}"


def speed(as_json: bool, progress: Progress) -> None:
    """Rate and memory of the default metrics."""
    from aprtui.bench.metrics import MetricsOptions, run_metrics
    from aprtui.cli.bench import figure_line

    for figure in run_metrics(MetricsOptions(), progress):
        if as_json:
            write_record({"record": "speed", **asdict(figure)})
        else:
            click.echo(figure_line(figure))
