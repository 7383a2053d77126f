"""What workers do: make a capture, judge a pair. Each is a pure function of its task, and leaves one result, whole.

A result that is there is not made again. What a user may cause comes back as a value, not as an exception: a sweep goes
on where one engine fails on one prompt.
"""

from __future__ import annotations

import resource
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from aprtui.compare.captures import Criteria, DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.manifests import ManifestDifferences, compare_manifests
from aprtui.compare.policy import read_policy
from aprtui.compare.report.records import comparison_records
from aprtui.compare.verdict import Verdict
from aprtui.engine.judging import Replaying, Side, judged_by_floor, judged_by_replay
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.form import in_form_of
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.errors import AprtuiError, EngineError
from aprtui.model.model import Model, load_model
from aprtui.progress import no_progress
from aprtui.sweep.engines.engine import CaptureJob
from aprtui.sweep.folder import SweepFolder
from aprtui.sweep.outcome import Made, PairOutcome, TaskFailed, read_outcome, unjudged
from aprtui.sweep.plan import JudgedBy
from aprtui.sweep.tasks import CaptureTask, SweptModel, VerdictTask
from aprtui.trace.capture import Capture


def make_capture(task: CaptureTask, root: Path, threads: int) -> Made | TaskFailed:
    """Make the capture of `task` in the sweep's folder `root`."""
    folder, started = SweepFolder(root), time.monotonic()
    if folder.capture(task.key).is_dir():
        return Made(0, 0.0, peak_memory())
    try:
        with folder.making(task.key) as directory:
            task.engine.capture(CaptureJob(_model(task.model), task.tokens, task.text, threads), directory)
            _check(task, Capture.open(directory))
            size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    except (AprtuiError, MemoryError) as error:
        return TaskFailed(f"{task.engine_name}: {str(error) or 'does not fit in memory'}")
    return Made(size, time.monotonic() - started, peak_memory())


def _check(task: CaptureTask, capture: Capture) -> None:
    """Raise `EngineError` for a capture that says it is of something else, or of a run that did not finish."""
    if capture.complete is False:
        raise EngineError("the capture was not finished")
    if capture.tokens is not None and capture.tokens[: len(task.tokens)] != task.tokens:
        raise EngineError("the capture is of other tokens than the prompt's: pass {tokens} to the engine")


def judge_pair(task: VerdictTask, root: Path, threads: int, *captures: Made | TaskFailed) -> PairOutcome:
    """Judge the pair of `task`, whose `captures` were made before."""
    folder, started = SweepFolder(root), time.monotonic()
    failed = [capture for capture in captures if isinstance(capture, TaskFailed)]
    if failed:
        return unjudged(failed[0].problem)
    known = folder.read_outcome(task.key)
    if known is not None:
        return read_outcome(known)
    try:
        comparison, manifests = _compared(task, folder, threads)
    except (AprtuiError, MemoryError) as error:
        return unjudged(f"{task.pair.name}: {str(error) or 'does not fit in memory'}")
    sides = ("the model, from captured inputs" if task.a is None else task.a.engine_name, task.b.engine_name)
    records = list(comparison_records(*sides, manifests, comparison))
    outcome = _outcome(records[-1], time.monotonic() - started)
    folder.write_verdict(task.key, outcome.record(), records)
    return outcome


def _compared(task: VerdictTask, folder: SweepFolder, threads: int) -> tuple[Comparison, ManifestDifferences | None]:
    """The comparison that `aprtui diff`, or `aprtui replay`, makes of the same captures."""
    pair, model = task.pair, _model(task.b.model)
    b = Capture.open(folder.capture(task.b.key))
    policy = None if pair.policy is None else read_policy(pair.policy)
    missing = (*pair.allow_missing, *(policy.allow_missing if policy else ()))
    if task.a is None:
        bounds = policy.tolerances if policy else (lambda node: pair.bounds)
        fitting = in_form_of(b, model)
        with Evaluators(fitting, threads=threads) as evaluators:
            return replay_capture(b, fitting, ReplayOptions(bounds=bounds, allow_missing=missing), evaluators), None
    a = Capture.open(folder.capture(task.a.key))
    options = DiffOptions(tolerances=pair.bounds, allow_missing=missing)
    criteria = Criteria() if policy is None else Criteria(bounds=policy.tolerances)
    if pair.judge is JudgedBy.FLOOR:
        criteria, _ = judged_by_floor(a, b, model, None, no_progress, threads)
    elif pair.judge is JudgedBy.REPLAY:
        sides = Side(a, model), Side(b, model)
        criteria, _ = judged_by_replay(*sides, Replaying(options, threads=threads), no_progress)
    return compare_captures(a, b, options, no_progress, criteria), compare_manifests(a, b)


def _outcome(summary: dict[str, Any], seconds: float) -> PairOutcome:
    first = summary["first_divergence"] or {}
    return PairOutcome(
        Verdict(summary["verdict"]), summary["headline"], first.get("layer"), first.get("stage"), first.get("metric"),
        first.get("error"), first.get("floor"), first.get("bound"), summary["compared"], summary["expected"], seconds,
        peak_memory(),
    )  # fmt: skip


def _model(swept: SweptModel) -> Model:
    """The model of a task. Raises `EngineError` where the file is another one by now."""
    model = _loaded(swept.path)
    if model.sha256() != swept.sha256:
        raise EngineError(f"{swept.path}: has changed since the sweep began: start it again")
    return model


@lru_cache(maxsize=1)
def _loaded(path: Path) -> Model:
    """The model that this worker has loaded last: tasks come model by model."""
    return load_model(path)


def peak_memory() -> int:
    """The most memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
