"""The drive of a sweep: what is missing goes to Dask, a few prompts at a time; what comes back decides what is kept.

Prompts are handed out in a window, so that a sweep of any length has as many captures on disk, and as many tasks with
the scheduler, as its workers need. This program holds no result that is not on disk: killed, it goes on where it was.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from aprtui.compare.verdict import Verdict
from aprtui.errors import EngineError, UnreadableError
from aprtui.progress import Progress
from aprtui.sweep.cluster import Cluster, ClusterRequest, connected, identities_here
from aprtui.sweep.folder import SweepFolder
from aprtui.sweep.outcome import Made, PairOutcome, TaskFailed, read_outcome, unjudged
from aprtui.sweep.plan import SweepPlan
from aprtui.sweep.report.page import write_page
from aprtui.sweep.results import RESULTS, ROLLUP, ResultRow, RollupRow, write_rows
from aprtui.sweep.rollup import RollupTask, roll_up
from aprtui.sweep.rows import result_row
from aprtui.sweep.tasks import CaptureTask, Needs, SweepGroup, VerdictTask, planned_groups
from aprtui.sweep.work import judge_pair, make_capture

_GROUPS_A_WORKER, _LEAST_GROUPS = 2, 4
"""Prompts that are with the scheduler at once: enough that no worker waits for the next one."""

_DIED = "the worker died at it, again and again: it ran out of memory, or the engine crashed"


class Keep(StrEnum):
    """Which captures stay when their verdicts are there."""

    FAILING = "failing"
    ALL = "all"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class SweepRequest:
    plan: SweepPlan
    folder: SweepFolder
    keep: Keep
    cluster: ClusterRequest
    results: Path | None = None
    """Where the tables and the page go beside the folder: another one, or an address."""


@dataclass(slots=True)
class SweepReport:
    """What a sweep came to, and what it took: `before` verdicts were there when it began."""

    rows: list[ResultRow] = field(default_factory=list)
    rollup: list[RollupRow] = field(default_factory=list)
    before: int = 0
    made: int = 0
    bytes: int = 0
    peak: int = 0
    """The most memory that the process of any worker has had."""


def run_sweep(request: SweepRequest, progress: Progress, announce: Callable[[str], None]) -> SweepReport:
    """Make all that is missing of a sweep, and write its tables. Raises `AprtuiError`; what is done until then stays.

    An interrupt writes the tables of what is there, and goes on.
    """
    folder, plan = request.folder, request.plan
    with ExitStack() as stack:
        stack.enter_context(folder.locked())
        cluster = _Connecting(request.cluster, folder, stack)
        if request.cluster.scheduler is None:
            identities = _own_identities(plan)
        else:
            identities = cluster.get().identities(plan.engines)
        groups = planned_groups(plan, identities, progress)
        run = _Run(request, groups, _known(folder, groups), progress)
        run.report.before = len(run.outcomes)
        total = len({task.key for group in groups for task in group.verdicts})
        announce(
            f"{len(plan.models)} × {len(plan.prompts)} × {len(plan.pairs)} (models, prompts, pairs): {total} verdicts, "
            f"{len(run.outcomes)} of them done"
        )
        if request.results is not None:
            run.write_tables()  # where that cannot be done, it is said now
        try:
            if len(run.outcomes) < total:
                run.work(cluster.get())
            run.tidy()
            run.report.rollup = list(_rolled_up(groups, run.outcomes, folder, cluster, progress))
        finally:
            run.write_tables()
    return run.report


@dataclass(slots=True)
class _Connecting:
    """The cluster, connected when it is first needed, until `stack` ends."""

    request: ClusterRequest
    folder: SweepFolder
    stack: ExitStack
    cluster: Cluster | None = None

    def get(self) -> Cluster:
        if self.cluster is None:
            opened: AbstractContextManager[Cluster] = connected(self.request, self.folder)
            self.cluster = self.stack.enter_context(opened)
        return self.cluster


def _own_identities(plan: SweepPlan) -> dict[str, str]:
    """The identities of the engines on this machine. Raises `EngineError` for one that cannot run here."""
    found = identities_here(plan.engines)
    for name, (is_able, text) in found.items():
        if not is_able:
            raise EngineError(f"{plan.engine_places[name]}: {text}")
    return {name: text for name, (_, text) in found.items()}


def _known(folder: SweepFolder, groups: Iterable[SweepGroup], besides: Collection[str] = ()) -> dict[str, PairOutcome]:
    """The outcomes that are there, by their keys, but those of the keys `besides`. A damaged one is removed: it is made
    again."""
    found = {}
    for key in dict.fromkeys(task.key for group in groups for task in group.verdicts if task.key not in besides):
        try:
            record = folder.read_outcome(key)
            if record is not None:
                found[key] = read_outcome(record)
        except (UnreadableError, KeyError, ValueError):
            folder.verdict(key).unlink(missing_ok=True)
    return found


@dataclass(slots=True)
class _Run:
    """One run of a sweep: what is known, and what is with the scheduler."""

    request: SweepRequest
    groups: Sequence[SweepGroup]
    outcomes: dict[str, PairOutcome]
    progress: Progress
    report: SweepReport = field(default_factory=SweepReport)
    _done: int = 0

    def work(self, cluster: Cluster) -> None:
        """Have all that is missing made. Raises `EngineError` where the scheduler is lost."""
        from distributed import as_completed

        missing = self._missing()
        total = sum(len(tasks) + len(_captures(tasks)) for tasks in missing)
        waiting, tasks_of = iter(enumerate(missing)), Counter[int]()
        submit = _Submitting(cluster, self.request)
        futures, owners = as_completed(loop=cluster.client.loop), dict[str, tuple[int, CaptureTask | VerdictTask]]()

        def feed() -> None:
            room = max(_GROUPS_A_WORKER * cluster.worker_count(), _LEAST_GROUPS)
            while len(tasks_of) < room and (group := next(waiting, None)) is not None:
                number, tasks = group
                for task, future in submit.group(tasks, number):
                    owners[future.key] = (number, task)
                    tasks_of[number] += 1
                    futures.add(future)

        self.progress("captures and verdicts", 0, total)
        feed()
        suspects = defaultdict[int, list[VerdictTask]](list)
        for future in futures:
            number, task = owners.pop(future.key)
            ended = self._ended(future, cluster)
            if ended is None and isinstance(task, VerdictTask):
                suspects[number].append(task)
            else:
                self._take(task, ended)
            self._done += 1
            self.progress("captures and verdicts", self._done, total)
            tasks_of[number] -= 1
            if not tasks_of[number]:
                del tasks_of[number]
                submit.release(number)
                if number not in suspects:
                    self._tidy(missing[number])
                feed()
        for done, (number, tasks) in enumerate(suspects.items()):
            self.progress("alone, what was at workers that died", done, len(suspects))
            self._judge_alone(tasks, submit, cluster)
            self._tidy(missing[number])

    def _judge_alone(self, tasks: Sequence[VerdictTask], submit: _Submitting, cluster: Cluster) -> None:
        """Have a group's verdicts made with nothing else on the workers.

        Where a worker dies, the scheduler blames all that it had been given. What kills it alone is to blame.
        """
        made: dict[str, Made | TaskFailed] = {}
        for task in tasks:
            for capture in task.captures:
                if capture.key not in made:
                    ended = self._ended(submit.capture(capture), cluster)
                    died = TaskFailed(f"{capture.engine_name}: {_DIED}")
                    made[capture.key] = ended if isinstance(ended, Made | TaskFailed) else died
                    self._take(capture, made[capture.key])
            ended = self._ended(submit.verdict(task, *(made[capture.key] for capture in task.captures)), cluster)
            self._take(task, ended or unjudged(f"{task.pair.name}: {_DIED}"))

    def _missing(self) -> list[list[VerdictTask]]:
        """The verdicts to make, group by group, each once: prompts may be alike."""
        seen, missing = set(self.outcomes), []
        for group in self.groups:
            tasks = [task for task in group.verdicts if task.key not in seen]
            seen.update(task.key for task in tasks)
            missing += [tasks] if tasks else []
        return missing

    def _ended(self, future: Any, cluster: Cluster) -> Made | TaskFailed | PairOutcome | None:
        """What a task has sent back; None where workers died at it, again and again.

        A value that was lost with its worker is made again, and waited for. Raises `EngineError` where the scheduler is
        lost.
        """
        try:
            ended: Made | TaskFailed | PairOutcome = future.result()
        except CancelledError as error:
            raise EngineError(
                f"{cluster.name}: lost its scheduler: what is done stays in {self.request.folder.root}: start it, and "
                "give the same command again"
            ) from error
        except Exception as error:  # noqa: BLE001 - whatever a task raises, it costs that task only
            if type(error).__name__ == "KilledWorker":
                return None
            return TaskFailed(f"internal error: {type(error).__name__}: {error}")
        return ended

    def _take(self, task: CaptureTask | VerdictTask, ended: Made | TaskFailed | PairOutcome | None) -> None:
        """Keep what a task has sent back."""
        if isinstance(task, VerdictTask):
            outcome = unjudged(f"{task.pair.name}: {ended.problem}") if isinstance(ended, TaskFailed) else ended
            assert isinstance(outcome, PairOutcome)
            self.outcomes[task.key] = outcome
            self.report.peak = max(self.report.peak, outcome.peak)
        elif isinstance(ended, Made):
            self.report.made += bool(ended.bytes)
            self.report.bytes += ended.bytes
            self.report.peak = max(self.report.peak, ended.peak)

    def tidy(self) -> None:
        """Remove the captures of earlier runs that are not to be kept."""
        for group in self.groups:
            self._tidy(group.verdicts)

    def _tidy(self, tasks: Sequence[VerdictTask]) -> None:
        if self.request.keep is Keep.ALL:
            return
        kept = {
            capture.key
            for task in tasks
            if self.request.keep is Keep.FAILING and self.outcomes[task.key].verdict is Verdict.FAIL
            for capture in task.captures
        }
        for key in _captures(tasks).keys() - kept:
            self.request.folder.remove_capture(key)

    def write_tables(self) -> None:
        """Write the tables of what is there; of a run that ended early, workers may have done more than they told."""
        folder = self.request.folder
        self.outcomes |= _known(folder, self.groups, besides=self.outcomes)
        self.report.rows = [
            result_row(folder, group, task, self.outcomes.get(task.key) or unjudged("not done yet"))
            for group in self.groups
            for task in group.verdicts
        ]
        for place in filter(None, (folder.root, self.request.results)):
            write_rows(place, RESULTS, ResultRow, self.report.rows)
            write_rows(place, ROLLUP, RollupRow, self.report.rollup)
            write_page(place, self.request.plan.path.name, self.report.rows, self.report.rollup)


def _captures(tasks: Iterable[VerdictTask]) -> dict[str, CaptureTask]:
    """The captures that verdicts need, by their keys."""
    return {capture.key: capture for task in tasks for capture in task.captures}


@dataclass(slots=True)
class _Submitting:
    """Hands groups to the scheduler, the first group with the highest priority: its captures are wanted no longer
    first."""

    cluster: Cluster
    request: SweepRequest
    _resources: dict[Needs, dict[str, float]] = field(default_factory=dict)
    _held: dict[int, list[Any]] = field(default_factory=dict)

    def group(self, tasks: Sequence[VerdictTask], number: int) -> Iterator[tuple[CaptureTask | VerdictTask, Any]]:
        futures = {}
        for key, capture in _captures(tasks).items():
            futures[key] = self.capture(capture, number)
            yield capture, futures[key]
        verdicts = []
        for task in tasks:
            needed = [futures[capture.key] for capture in task.captures]
            verdicts.append(self.verdict(task, *needed, number=number))
            yield task, verdicts[-1]
        self._held[number] = [*futures.values(), *verdicts]

    def capture(self, task: CaptureTask, number: int = 0) -> Any:
        return self._submit(make_capture, f"capture-{task.key}", number, task)

    def verdict(self, task: VerdictTask, *made: Any, number: int = 0) -> Any:
        """`made` are its captures, as values or futures."""
        return self._submit(judge_pair, f"verdict-{task.key}", number, task, *made)

    def release(self, number: int) -> None:
        """Let the scheduler forget a group."""
        for future in self._held.pop(number):
            future.release()

    def _submit(
        self, function: Callable[..., Any], key: str, number: int, task: CaptureTask | VerdictTask, *made: Any
    ) -> Any:
        if task.needs not in self._resources:
            self._resources[task.needs] = self.cluster.resources(task.needs)
        root, threads = self.request.folder.root, self.request.cluster.engine_threads
        return self.cluster.client.submit(
            function, task, root, threads, *made, key=key, pure=False, priority=-number,
            resources=self._resources[task.needs] or None,
        )  # fmt: skip


def _rolled_up(
    groups: Sequence[SweepGroup], outcomes: dict[str, PairOutcome], folder: SweepFolder, cluster: _Connecting,
    progress: Progress,
) -> Iterator[RollupRow]:  # fmt: skip
    """The roll-up of each pair on each model: by the workers where there are some, else here."""
    verdicts: dict[tuple[str, str, str], list[tuple[int, str]]] = {}
    for group in groups:
        for task in group.verdicts:
            if not outcomes[task.key].problem:
                name = (group.model.name, task.pair.name, task.pair.b)
                verdicts.setdefault(name, []).append((group.prompt, task.key))
    tasks = [RollupTask(*name, tuple(found)) for name, found in verdicts.items()]
    results = _mapped(tasks, folder.root, cluster.cluster)
    for number, rows in enumerate(results):
        progress("rolling up", number, len(tasks))
        yield from rows


def _mapped(tasks: Sequence[RollupTask], root: Path, cluster: Cluster | None) -> Iterator[list[RollupRow]]:
    if cluster is None:
        yield from (roll_up(task, root) for task in tasks)
        return
    futures = [cluster.client.submit(roll_up, task, root, key=f"rollup-{task.key}", pure=False) for task in tasks]
    for task, future in zip(tasks, futures, strict=True):
        # What a worker cannot do is tried here, where its error is told as any other.
        yield future.result() if future.exception() is None else roll_up(task, root)
