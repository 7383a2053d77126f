"""`aprtui bench`: the project's benchmarks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from aprtui.cli.json_lines import write_file, write_record
from aprtui.cli.lazy_group import listed
from aprtui.cli.options import MODEL_ARGUMENT, requested_model
from aprtui.cli.progress import ProgressLine
from aprtui.engine.backends.cuda import CUDA
from aprtui.engine.backends.registry import backend_names, fast_backends, host_backends, require_available
from aprtui.errors import UsageError
from aprtui.progress import Progress

if TYPE_CHECKING:
    from aprtui.bench.cpu import Figure
    from aprtui.engine.evaluation.bug_detection import JudgedBug
    from aprtui.engine.evaluation.cause_detection import JudgedCause
    from aprtui.engine.evaluation.false_alarms import JudgedCapture
    from aprtui.engine.evaluation.fault_detection import Tally
    from aprtui.model.model import Model

_FOLDER = click.Path(path_type=Path, file_okay=False)
_BY_CASE = ("detection", "kinds", "planted", "bugs", "causes")
"""Parts of `verdicts` whose cases have names that some can be chosen by, and judgements that are kept."""

_Case = TypeVar("_Case")


@dataclass(frozen=True, slots=True)
class _CasesToJudge:
    """Which cases of a part are judged: one in `every`, those with one of `only` in their name; where judgements are
    kept, if anywhere."""

    every: int
    only: tuple[str, ...]
    results: Path | None

    def chosen(self, cases: Sequence[_Case]) -> list[_Case]:
        """Raises `UsageError` where none is left."""
        found = [case for case in cases if not self.only or any(text in str(case) for text in self.only)]
        if not found:
            raise UsageError(f"--only {' '.join(self.only)}: in the name of no case, as in {str(cases[0])!r}")
        return found

    def of(self, part: str, model: Model) -> dict[str, str]:
        """What a file of judgements says that they are of."""
        if self.results is None:
            return {}
        return {"record": "judgements", "part": part, "model": model.path.name, "sha256": model.sha256()}


@click.group()
def command() -> None:
    """Measure this build against its peers, as ratios in one run."""


@command.command(epilog=listed(("bench cpu --shape tiny", "bench cpu model.gguf --no-peer --json")))
@MODEL_ARGUMENT
@click.option(
    "--shape", default="0.57b", show_default=True,
    help="Without MODEL: random weights of this shape (tiny, 0.57b, 1.5b, 4b-moe).",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of each engine; all available cores by default.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds; figures are medians.")
@click.option("--peer/--no-peer", default=True, help="Measure llama.cpp (llama-cpp-python) as well.")
@click.option("--dir", "directory", type=_FOLDER, help="Where captures and random models go.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a figure.")
def cpu(
    model: Path | None, shape: str, threads: int | None, rounds: int, peer: bool, directory: Path | None, as_json: bool
) -> None:
    """The CPU engine: decode and prefill against llama.cpp, cost of taps and captures, memory."""
    from aprtui.bench.cpu import Options, run_cpu
    from aprtui.machine import default_threads

    path = model or _random_model(shape, directory)
    options = Options(path, threads or default_threads(), rounds, peer, directory)
    click.echo(
        f"aprtui: {path.name}, {options.threads} threads, medians of {rounds}, load {os.getloadavg()[0]:.1f}", err=True
    )
    with ProgressLine() as progress:
        for figure in run_cpu(options, progress):
            _print(figure, as_json)


@command.command(epilog=listed(("bench gpu --shape 1.5b --out gpu.json",)))
@MODEL_ARGUMENT
@click.option("--shape", default="7b", show_default=True, help="Without MODEL: random weights (tiny, 1.5b, 7b).")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds; figures are medians.")
@click.option("--prompt", type=click.IntRange(2), default=512, show_default=True, help="Tokens of the prompt.")
@click.option("--decode", type=click.IntRange(1), default=128, show_default=True, help="Tokens decoded behind it.")
@click.option("--soak", type=click.IntRange(0), default=10_000, show_default=True, help="Tokens to watch memory over.")
@click.option(
    "--llama-bench",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="llama.cpp's llama-bench, built with CUDA, to measure as well.",
)
@click.option("--dir", "directory", type=_FOLDER, help="Where random models go.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write setting and figures as JSON, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for the setting, then one a figure.")
def gpu(
    model: Path | None, shape: str, rounds: int, prompt: int, decode: int, soak: int, llama_bench: Path | None,
    directory: Path | None, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """The CUDA engine: kernels and decode against a copy on the device, prefill, llama.cpp, cost of taps, memory."""
    from aprtui.bench.gpu import GpuOptions, MeasurementSetup, run_gpu

    require_available(CUDA)
    records: list[dict[str, object]] = []

    def keep(record: dict[str, object]) -> None:
        """Add to the file at once: a run that is cut short loses nothing that was measured."""
        records.append(record)
        if out is not None:
            write_file(out, records)

    def announce(setup: MeasurementSetup) -> None:
        keep({"record": "setting", **asdict(setup)})
        if as_json:
            write_record(records[-1])
        else:
            click.echo("\n".join(f"{name:10} {value}" for name, value in asdict(setup).items() if value))

    options = GpuOptions(model or _random_model(shape, directory), rounds, prompt, decode, soak, llama_bench)
    with ProgressLine() as progress:
        for figure in run_gpu(options, announce, progress):
            keep({"record": "figure", **asdict(figure)})
            _print(figure, as_json, record="figure")


@command.command(epilog=listed(("bench sweep",)))
@click.option("--tasks", type=click.IntRange(30), default=3000, show_default=True, help="Empty tasks to schedule.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a figure.")
def sweep(tasks: int, as_json: bool) -> None:
    """What a sweep costs beside its engines (processor time), and a forecast of the scheduler's load.

    docs/scale.md says what follows from the figures.
    """
    from aprtui.bench.sweep import SEVENTY_B, SweepFigure, SweepLoad, capture_bytes, measure_sweep, simulated_seconds

    with ProgressLine() as progress:
        figures = list(measure_sweep(tasks, progress))
    scheduling = figures[0].value / 1e3
    size = capture_bytes(SEVENTY_B, 512)
    figures.append(SweepFigure("capture of a 70B, 512 tokens", size / 1e9, "GB"))
    for workers in (8, 64, 512, 4096):
        load = SweepLoad(30_000, 60.0, scheduling)
        hours = simulated_seconds(load, workers) / 3600
        figures.append(SweepFigure(f"30000 tasks of 60 s, {workers} workers", hours, "hours, simulated"))
    for figure in figures:
        if as_json:
            write_record({"record": "figure", **asdict(figure)})
        else:
            click.echo(f"{figure.name:40} {figure.value:10.4g} {figure.unit}")


@command.command(
    epilog=listed(
        ("bench verdicts --part speed", "bench verdicts model.gguf --part kinds --every 8 --results judged.jsonl")
    )
)
@MODEL_ARGUMENT
@click.option(
    "--captures", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR",
    help="<model>/model.gguf with captures of other engines beside it, and faults/<name>/expected.json.",
)  # fmt: skip
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Take one case in N only.")
@click.option(
    "--part",
    type=click.Choice(
        ["detection", "kinds", "planted", "pairs", "bugs", "causes", "everywhere", "honest", "oracles", "speed"]
    ),
    help="Measure this part only.",
)
@click.option(
    "--only", multiple=True, metavar="TEXT",
    help="Of detection, kinds, planted, bugs and causes: cases whose name has TEXT in it; several: any of them.",
)  # fmt: skip
@click.option(
    "--results", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Of one of the same parts: add each judgement to FILE at once, and go on behind those that are in it.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line of the tables.")
def verdicts(
    model: Path | None, captures: Path | None, every: int, part: str | None, only: tuple[str, ...],
    results: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """How often verdicts are right: planted faults named at their stage, honest engines not blamed; speed of metrics.

    Faults are planted in MODEL (the embedded one by default). Honest engines are our own runs, variations of them that
    round as other engines do, each as every kind of capture (the part `kinds`; with faults in it, the part `planted`)
    and held against one another (the part `pairs`), and those of --captures. Bugs as people write them are made in
    engines of three arithmetics, each as every kind of capture (the part `bugs`, only when asked for: it takes half an
    hour). Causes of faults in single stages are to be proved, and no wrong one (the part `causes`, only when asked
    for). Engines whose every matrix product is off (the part `everywhere`) are to be said so, and a local fault on top
    of it named. The part `oracles`, only when asked for, makes captures of MODEL by llama.cpp and transformers, says
    how far they and ours are apart, stage by stage, and judges them.
    """

    if (only or results) and (part not in _BY_CASE or captures is not None):
        raise click.UsageError(f"--only and --results go with --part {', '.join(_BY_CASE)}, without --captures")
    run = _CasesToJudge(every, only, results)
    with ProgressLine() as progress:
        if part in (None, "detection"):
            _detection(requested_model(model), run, as_json, progress)
        if captures is not None and part in (None, "kinds"):
            _kinds_of_others(captures, every, as_json, progress)
        for name in ("kinds", "planted"):
            if captures is None and part in (None, name):
                _kinds(requested_model(model), name, run, as_json, progress)
        if part in (None, "pairs"):
            _pairs(requested_model(model), every, as_json, progress)
        if part == "bugs":
            _bugs(requested_model(model), run, as_json, progress)
        if part == "causes":
            _causes(requested_model(model), run, as_json, progress)
        if part in (None, "everywhere"):
            _everywhere(requested_model(model), every, as_json, progress)
        if captures is not None and part in (None, "honest"):
            _honest(captures, as_json, progress)
        if part == "oracles":
            _oracles(requested_model(model), as_json, progress)
        if part in (None, "speed"):
            _speed(as_json, progress)


@command.command(epilog=listed(("bench tui --part keys",)))
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Rounds; figures are medians.")
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Where the model and the captures go: 17 GB.",
)  # fmt: skip
@click.option("--part", type=click.Choice(["live", "keys"]), help="Measure this part only.")
@click.option(
    "--backend", type=click.Choice(backend_names(fast_backends())), default=host_backends()[0].name,
    show_default=True, help="The engine beside the live screen.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object a figure.")
def tui(rounds: int, directory: Path | None, part: str | None, backend: str, as_json: bool) -> None:
    """The screens in a pseudo-terminal: frames, processor time, memory, and what they cost the engine.

    Each figure says how it stands to its limit. Measure on a machine that does nothing else.
    """
    import tempfile

    from aprtui.bench.tui import TuiOptions, run_keys, run_live

    with tempfile.TemporaryDirectory(prefix="aprtui-bench-", dir=directory) as folder, ProgressLine() as progress:
        options = TuiOptions(Path(folder), rounds, backend)
        parts = {"live": run_live, "keys": run_keys}
        for measure in [parts[part]] if part else parts.values():
            for figure in measure(options, progress):
                _print(figure, as_json)


def _random_model(shape: str, directory: Path | None) -> Path:
    import platformdirs

    from aprtui.bench.random_data import SHAPES, write_random_model

    if shape not in SHAPES:
        raise UsageError(f"--shape: {shape!r} is not known: use one of {', '.join(SHAPES)}")
    path = (directory or Path(platformdirs.user_cache_dir("aprtui"))) / f"random-{shape}-q4km.gguf"
    if not path.exists():
        click.echo(f"aprtui: writing {path}", err=True)
        write_random_model(path, SHAPES[shape])
    return path


def _print(figure: Figure, as_json: bool, **kind: str) -> None:
    """Print a figure as a line, or as a record with the fields of `kind` before its own."""
    if as_json:
        write_record({**kind, **asdict(figure)})
        return
    low, high = figure.spread
    judged = "" if figure.ratio is None else f"  {figure.ratio:.2f} of {figure.against} ({figure.target})"
    click.echo(f"{figure.what:38} {figure.value:9.2f} {figure.unit} [{low:.2f} … {high:.2f}]{judged}")


def _detection(model: Model, run: _CasesToJudge, as_json: bool, progress: Progress) -> None:
    from functools import partial

    from aprtui.bench.judgements import going_on, judged_fault
    from aprtui.engine.evaluation.fault_detection import SIGNALS, detection_on, tallies

    with detection_on(model) as detection:
        cases = run.chosen(detection.cases(run.every))
        judge = partial(detection.judge, progress=progress)
        found = list(tallies(list(going_on(run.results, run.of("detection", model), cases, judged_fault, judge))))
    for tally in found if as_json else ():
        write_record({"record": "detection", **asdict(tally)})
    if not as_json:
        click.echo("\n".join(_detection_lines(found, SIGNALS)))


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


def _kinds_of_others(captures: Path, every: int, as_json: bool, progress: Progress) -> None:
    """Parts of the captures of other engines below `captures`."""
    from aprtui.engine.evaluation.false_alarms import judge_honest_by_kind

    _print_kinds("other engines", list(judge_honest_by_kind(captures, progress, every)), as_json)


def _kinds(model: Model, part: str, run: _CasesToJudge, as_json: bool, progress: Progress) -> None:
    """Parts of captures of variations of our own, honest or with faults in them."""
    from functools import partial

    from aprtui.bench.judgements import going_on, judged_capture
    from aprtui.engine.evaluation import partial_captures as kinds
    from aprtui.engine.replay.evaluators import Evaluators

    with Evaluators(model, progress=progress) as evaluators:
        model_and_tokens = model, kinds.prompt_of(model), evaluators
        if part == "kinds":
            honest = partial(kinds.judge_honest_kinds, *model_and_tokens, progress=progress)
            cases = run.chosen(kinds.honest_cases(run.every))
            found = list(going_on(run.results, run.of(part, model), cases, judged_capture, honest))
        else:
            planted = partial(kinds.judge_planted_kinds, *model_and_tokens, progress=progress)
            faults = run.chosen(kinds.planted_cases(model, run.every))
            found = list(going_on(run.results, run.of(part, model), faults, judged_capture, planted))
    _print_kinds("honest" if part == "kinds" else part, found, as_json)


def _print_kinds(name: str, found: Sequence[JudgedCapture], as_json: bool) -> None:
    for judged in found if as_json else ():
        write_record({"record": f"{name} kind", **asdict(judged)})
    if not as_json:
        click.echo("\n".join(_kind_lines(name, found)))


def _pairs(model: Model, every: int, as_json: bool, progress: Progress) -> None:
    from aprtui.engine.evaluation.honest_pairs import judge_honest_pairs
    from aprtui.engine.evaluation.partial_captures import prompt_of
    from aprtui.engine.replay.evaluators import Evaluators

    with Evaluators(model, progress=progress) as evaluators:
        found = list(judge_honest_pairs(model, prompt_of(model), evaluators, progress, every))
    for judged in found if as_json else ():
        write_record({"record": "honest pair", **asdict(judged)})
    if not as_json:
        click.echo("\n".join(_judged_lines("honest pairs", found)))


def _everywhere(model: Model, every: int, as_json: bool, progress: Progress) -> None:
    from aprtui.engine.evaluation.everywhere import judge_everywhere
    from aprtui.engine.evaluation.partial_captures import prompt_of
    from aprtui.engine.replay.evaluators import Evaluators

    with Evaluators(model, progress=progress) as evaluators:
        found = list(judge_everywhere(model, prompt_of(model), evaluators, progress, every))
    for judged in found if as_json else ():
        write_record({"record": "everywhere", **asdict(judged)})
    if not as_json:
        click.echo("\n".join(_everywhere_lines(found)))


def _everywhere_lines(found: Sequence[JudgedCapture]) -> Iterator[str]:
    """How many are said as they are, by signal; then each that is not."""
    yield f"{'wrong everywhere':<32}{'right':>6}{'of':>6}"
    for what in dict.fromkeys(judged.what.partition(":")[0] for judged in found):
        of = [judged for judged in found if judged.what.startswith(f"{what}:")]
        yield f"{what:<32}{sum(bool(judged.right) for judged in of):>6}{len(of):>6}"
    yield from (f"   {judged.what}: {judged.verdict.value}: {judged.said}" for judged in found if not judged.right)


def _kind_lines(name: str, found: Sequence[JudgedCapture]) -> Iterator[str]:
    """A row for each kind of capture, then why how many are UNKNOWN, each honest capture that is blamed and each fault
    that is passed over."""
    planted = any(judged.right is not None for judged in found)
    yield f"{name:<24}{'PASS':>6}{'UNKNOWN':>9}{'FAIL':>6}" + ("   in the right segment" if planted else "")
    for kind in dict.fromkeys(judged.what.partition(":")[0] for judged in found):
        of_kind = [judged for judged in found if judged.what.startswith(f"{kind}:")]
        counts = Counter(judged.verdict.value for judged in of_kind)
        right = f"{sum(bool(judged.right) for judged in of_kind):>6}" if planted else ""
        yield f"{kind:<24}{counts['PASS']:>6}{counts['UNKNOWN']:>9}{counts['FAIL']:>6}{right}"
    yield from _false_causes(found)
    reasons = Counter(judged.said.rpartition(": ")[2] for judged in found if judged.verdict.value == "UNKNOWN")
    yield from (f"   UNKNOWN {count}: {reason}" for reason, count in reasons.most_common())
    for judged in found:
        wrong = judged.verdict.value == "PASS" or (judged.verdict.value == "FAIL" and not judged.right)
        if wrong if planted else judged.verdict.value == "FAIL":
            yield f"   {judged.what}: {judged.verdict.value}: {judged.said}"


def _bugs(model: Model, run: _CasesToJudge, as_json: bool, progress: Progress) -> None:
    from functools import partial

    from aprtui.bench.judgements import going_on, judged_bug
    from aprtui.engine.evaluation.bug_detection import bug_cases, judge_bugs
    from aprtui.engine.evaluation.partial_captures import prompt_of
    from aprtui.engine.replay.evaluators import Evaluators

    found = []
    with Evaluators(model, progress=progress) as evaluators:
        judge = partial(judge_bugs, model, prompt_of(model), evaluators, progress=progress)
        cases = run.chosen(bug_cases(model, run.every))
        for judged in going_on(run.results, run.of("bugs", model), cases, judged_bug, judge):
            found.append(judged)
            if as_json:
                write_record({"record": "bug", **asdict(judged)})
    if not as_json:
        click.echo("\n".join(_bug_lines(found)))


def _bug_lines(found: Sequence[JudgedBug]) -> Iterator[str]:
    """A row for each kind of capture, their sum, then each bug that was missed or put at the wrong place. The last
    column counts the unknown that are found once `--rounding` states the arithmetic."""
    from aprtui.engine.evaluation.bug_detection import FOUND, BugOutcome

    yield f"{'bugs':<24}{'found':>8}" + "".join(f"{o:>16}" for o in (*BugOutcome, "once stated"))
    rows = {kind: [j for j in found if j.case.kind == kind] for kind in dict.fromkeys(j.case.kind for j in found)}
    for name, some in (*rows.items(), ("all", found)):
        counts = Counter(judged.outcome for judged in some)
        visible = len(some) - counts[BugOutcome.BENEATH]
        share = f"{100 * sum(counts[outcome] for outcome in FOUND) / visible:.1f}%" if visible else "–"
        when_stated = sum(judged.when_stated in FOUND for judged in some)
        yield f"{name:<24}{share:>8}" + "".join(f"{counts[o]:>16}" for o in BugOutcome) + f"{when_stated:>16}"
    for judged in found:
        if judged.outcome in (BugOutcome.MISPLACED, BugOutcome.MISSED):
            where = f"{judged.case.kind}: {judged.case.engine}, {judged.case.bug}"
            yield f"   {where}: {judged.outcome} ({judged.times_noise:.3g} times the noise) {judged.said}"


def _causes(model: Model, run: _CasesToJudge, as_json: bool, progress: Progress) -> None:
    from functools import partial

    from aprtui.bench.judgements import going_on, judged_cause
    from aprtui.engine.evaluation.cause_detection import cause_cases, judge_causes
    from aprtui.engine.evaluation.partial_captures import prompt_of
    from aprtui.engine.replay.evaluators import Evaluators

    found = []
    with Evaluators(model, progress=progress) as evaluators:
        judge = partial(judge_causes, model, prompt_of(model), evaluators, progress=progress)
        cases = run.chosen(cause_cases(model, run.every))
        for judged in going_on(run.results, run.of("causes", model), cases, judged_cause, judge):
            found.append(judged)
            if as_json:
                write_record({"record": "cause", **asdict(judged)})
    if not as_json:
        click.echo("\n".join(_cause_lines(found)))


def _cause_lines(found: Sequence[JudgedCause]) -> Iterator[str]:
    """A row for each fault, their sum, then each without a cause and each with a wrong one."""
    from aprtui.engine.evaluation.cause_detection import CauseOutcome

    yield f"{'causes planted':<52}" + "".join(f"{outcome:>18}" for outcome in CauseOutcome)
    rows = {name: [j for j in found if j.case.cause == name] for name in dict.fromkeys(j.case.cause for j in found)}
    for name, some in (*rows.items(), ("all", found)):
        counts = Counter(judged.outcome for judged in some)
        yield f"{name[:51]:<52}" + "".join(f"{counts[outcome]:>18}" for outcome in CauseOutcome)
    for judged in found:
        if judged.outcome in (CauseOutcome.NONE, CauseOutcome.WRONG):
            yield f"   {judged.what}: {judged.outcome} {judged.said}"


def _honest(folder: Path, as_json: bool, progress: Progress) -> None:
    from aprtui.engine.evaluation.false_alarms import judge_honest, judge_outside_faults

    for name, judge in (("honest", judge_honest), ("outside fault", judge_outside_faults)):
        found = list(judge(folder, progress))
        for judged in found if as_json else ():
            write_record({"record": name, **asdict(judged)})
        if not as_json:
            click.echo("\n".join(_judged_lines(name, found)))


def _judged_lines(name: str, found: Sequence[JudgedCapture]) -> Iterator[str]:
    """Verdicts by signal; each honest one that is not PASS, and each fault that was not named."""
    for signal in dict.fromkeys(judged.signal for judged in found):
        of_signal = [judged for judged in found if judged.signal == signal]
        counts = Counter(judged.verdict.value for judged in of_signal)
        text = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        right = sum(bool(judged.right) for judged in of_signal)
        named = "" if of_signal[0].right is None else f"; {right} of {len(of_signal)} at their own stage"
        yield f"{name}, judged by {signal}: {text}{named}"
    yield from _false_causes(found)
    for judged in found:
        wrong = judged.verdict.value != "PASS" if judged.right is None else not judged.right
        if wrong:
            yield f"   {judged.what}, {judged.signal}: {judged.verdict.value}: {judged.said}"


def _false_causes(found: Sequence[JudgedCapture]) -> Iterator[str]:
    """How many honest captures a cause was proved in, and each of these."""
    honest = [judged for judged in found if judged.right is None]
    if honest:
        yield f"honest, but with a cause that is called proved: {sum(bool(j.causes) for j in honest)} of {len(honest)}"
    yield from (f"   {judged.what}, {judged.signal}: {cause}" for judged in honest for cause in judged.causes)


def _oracles(model: Model, as_json: bool, progress: Progress) -> None:
    import tempfile

    from aprtui.bench.oracles import PAIRS, judge_oracles, run_oracles
    from aprtui.engine.evaluation.partial_captures import prompt_of

    tokens = prompt_of(model)
    with tempfile.TemporaryDirectory(prefix="aprtui-oracles-") as folder:
        errors = list(run_oracles(model, tokens, Path(folder) / "captures", progress))
        judged = list(judge_oracles(model, tokens, Path(folder) / "captures", progress))
    if as_json:
        for found in errors:
            pairs = [{"a": a, "b": b, "rel_l2": error} for (a, b), error in zip(PAIRS, found.errors, strict=True)]
            write_record({"record": "oracle stage", "stage": found.stage, "errors": pairs})
        for capture in judged:
            write_record({"record": "oracle verdict", **asdict(capture)})
        return
    click.echo(f"{'stage':<28}" + "".join(f"{f'{a}, {b}':>26}" for a, b in PAIRS))
    for found in errors:
        cells = ("–" if error is None else f"{error:.1e}" for error in found.errors)
        click.echo(f"{found.stage:<28}" + "".join(f"{cell:>26}" for cell in cells))
    click.echo("\n".join(_judged_lines("honest", judged)))


def _speed(as_json: bool, progress: Progress) -> None:
    from aprtui.bench.metrics import MetricsOptions, run_metrics

    for figure in run_metrics(MetricsOptions(), progress):
        _print(figure, as_json, record="speed")
