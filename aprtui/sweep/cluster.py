"""The Dask cluster that a sweep runs on: one of this machine, or one that is there already.

Dask schedules, queues, balances and starts again what a dead worker was at. It is imported here alone, when a sweep has
something to do.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprtui import __version__
from aprtui.engine.result_cache import python_digest
from aprtui.errors import AprtuiError, EngineError, UsageError
from aprtui.machine import available_memory, default_threads, memory_bytes
from aprtui.sweep.engines.engine import SweepEngine
from aprtui.sweep.folder import SweepFolder
from aprtui.sweep.tasks import Needs

MEMORY, GPU = "MEMORY", "GPU"
"""Dask resources: bytes of memory and GPUs. A worker that declares none is not limited by ours."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_SECONDS_TO_CONNECT = 20
_START_SECONDS = 300
"""Within which local workers must be there: seconds on an idle machine, minutes where many others compute."""
_MILLISECONDS_BETWEEN_LOOKS = 10_000
"""How often a local cluster is asked to have all its workers."""
_LOCAL_SETTINGS = {
    # A task's results are a few numbers. A worker that waits until it has less memory would wait for ever: mapped
    # weights stay. One that goes beyond its limit is killed, and what it was at is tried again elsewhere.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.scheduler.allowed-failures": 2,
    "distributed.worker.profile.enabled": False,  # nobody looks at it, and it samples all threads 100 times a second
    "distributed.comm.timeouts.connect": _SECONDS_TO_CONNECT,
}


@dataclass(frozen=True, slots=True)
class ClusterRequest:
    """The cluster that is asked for: the `scheduler` of one that is there, or a local one of so many `workers`.

    `threads` are those of an engine in a task. `memory` is the limit of each worker in bytes, None for an even share of
    what is free; `gpus` are those of this machine, one for each of the first workers.
    """

    scheduler: str | None = None
    workers: int | None = None
    threads: int | None = None
    memory: int | None = None
    gpus: int = 0

    @property
    def worker_count(self) -> int:
        return self.workers or max(default_threads() // (self.threads or 1), 1)

    @property
    def engine_threads(self) -> int:
        return self.threads or max(default_threads() // self.worker_count, 1)

    @property
    def worker_memory(self) -> int:
        return self.memory or (available_memory() or memory_bytes()) // self.worker_count


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that is connected: Dask's client, and how it is called in messages."""

    client: Any
    name: str

    def worker_count(self) -> int:
        """Tasks that can run at once."""
        return sum(self.client.nthreads().values())

    def resources(self, needs: Needs) -> dict[str, float]:
        """What a task with `needs` asks the scheduler for. Raises `UsageError` where no worker has it."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        asked: dict[str, float] = {GPU: needs.gpus} if needs.gpus else {}
        if any(MEMORY in worker["resources"] for worker in workers):
            asked[MEMORY] = needs.memory
        most = max((worker["resources"].get(MEMORY, worker["memory_limit"]) or 0 for worker in workers), default=0)
        if most and needs.memory > most:
            raise UsageError(
                f"a task needs about {needs.memory / 1e9:.1f} GB, the largest worker has {most / 1e9:.1f} GB: "
                "fewer --workers, a larger --memory, or shorter prompts"
            )
        if asked and not any(all(w["resources"].get(name, 0) >= asked[name] for name in asked) for w in workers):
            raise UsageError(
                f"an engine needs {needs.gpus} GPU, no worker of {self.name} declares that: --gpus N for a local "
                "cluster, dask worker --resources GPU=1 for others"
            )
        return asked

    def check(self, folder: SweepFolder) -> None:
        """Raise `UsageError` unless all workers have this very code and see `folder`."""
        token = folder.leave_token()
        try:
            answers = self._ask(_see, folder.root, token)
        finally:
            (folder.root / token).unlink(missing_ok=True)
        own = _own_code()
        for address, (code, sees) in answers.items():
            if not sees:
                raise UsageError(
                    f"worker {address}: does not see {folder.root}: choose an --out that all workers share"
                )
            if code != own:
                raise UsageError(f"worker {address}: has another version of aprtui: install the same everywhere")

    def identities(self, engines: Mapping[str, SweepEngine]) -> dict[str, str]:
        """The identity of each engine, on which all workers that can run it must agree. Raises `AprtuiError`."""
        answers = self._ask(identities_here, engines)
        found: dict[str, str] = {}
        for name, engine in engines.items():
            of_engine = {address: answer[name] for address, answer in answers.items()}
            able = {address: text for address, (is_able, text) in of_engine.items() if is_able}
            if not able or (len(able) < len(of_engine) and not engine.gpus):
                address, problem = next((a, text) for a, (is_able, text) in of_engine.items() if not is_able)
                raise EngineError(f"engine {name}: worker {address}: {problem}")
            if len(set(able.values())) > 1:
                (first, its), *others = able.items()
                other, another = next(each for each in others if each[1] != its)
                raise UsageError(
                    f"engine {name}: workers {first} and {other} have different versions of it: {its:.80} and "
                    f"{another:.80}: install the same everywhere"
                )
            found[name] = next(iter(able.values()))
        return found

    def _ask(self, question: Any, *arguments: Any) -> dict[str, Any]:
        answers: dict[str, Any] = self.client.run(question, *arguments)
        if not answers:
            raise EngineError(f"{self.name}: has no workers: start some, as dask worker ADDRESS does")
        return answers


def _see(root: Path, token: str) -> tuple[str, bool]:
    return _own_code(), (root / token).exists()


def _own_code() -> str:
    return f"{__version__} {python_digest('sweep', 'engine', 'compare', 'trace', 'model')}"


def identities_here(engines: Mapping[str, SweepEngine]) -> dict[str, tuple[bool, str]]:
    """Of each engine, by its name: whether it can run in this process, and its identity or why it cannot."""
    found = {}
    for name, engine in engines.items():
        try:
            found[name] = (True, engine.identity())
        except AprtuiError as error:
            found[name] = (False, str(error))
    return found


def configured_scheduler() -> str | None:
    """The scheduler that Dask's own configuration names (`DASK_SCHEDULER_ADDRESS`, `scheduler-address`)."""
    _require_dask()
    import dask

    address = dask.config.get("scheduler-address", None)
    return None if address is None else str(address)


@contextmanager
def connected(request: ClusterRequest, folder: SweepFolder) -> Iterator[Cluster]:
    """The cluster of `request`, checked and ready. Raises `EngineError` where it cannot be had."""
    _require_dask()
    # What a lost connection leaves behind is told in one line, by us; loggers of Dask's modules have their own levels.
    logging.disable(logging.CRITICAL)
    from distributed import Client

    with _scheduler(request) as (address, name):
        try:
            client = Client(address, timeout=_SECONDS_TO_CONNECT, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise EngineError(f"{name}: cannot be reached: {_first_line(error)}: is the scheduler running?") from error
        try:
            if request.scheduler is None:
                client.wait_for_workers(request.worker_count, timeout=_START_SECONDS)
            cluster = Cluster(client, name)
            cluster.check(folder)
            yield cluster
        finally:
            with suppress(Exception):  # a scheduler that is gone cannot say goodbye
                client.close(timeout=2)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _require_dask() -> None:
    try:
        import distributed  # noqa: F401 - whether it is there
        import pyarrow as pa  # noqa: F401 - the same
    except ImportError as error:
        raise EngineError(f"{error.name} is not installed: pip install 'aprtui[sweep]'") from error


@contextmanager
def _scheduler(request: ClusterRequest) -> Iterator[tuple[Any, str]]:
    """What a client connects to, and its name in messages."""
    if request.scheduler is not None:
        yield request.scheduler, f"the cluster at {request.scheduler}"
        return
    import dask
    from distributed import Nanny, Scheduler, SpecCluster
    from tornado.ioloop import PeriodicCallback

    with dask.config.set(_LOCAL_SETTINGS):
        # Each worker is one process with one task at a time; a GPU belongs to one worker.
        workers = {
            number: {"cls": Nanny, "options": _worker(request, number)} for number in range(request.worker_count)
        }
        served = {
            "cls": Scheduler,
            "options": {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"},
        }
        try:
            cluster = SpecCluster(workers=workers, scheduler=served, silence_logs=logging.CRITICAL)
        except Exception as error:  # Dask tells of a worker that does not start by whatever fails next
            raise EngineError(
                f"the local cluster of {request.worker_count} workers: cannot be started ({_first_line(error)}): "
                "use fewer --workers, or wait until the machine is less busy"
            ) from error
        # A worker that died before its nanny knew that it had started is started by nobody else.
        missing = PeriodicCallback(lambda: cluster.scale(request.worker_count), _MILLISECONDS_BETWEEN_LOOKS)
        cluster.loop.add_callback(missing.start)
        try:
            yield cluster, f"the local cluster of {request.worker_count} workers"
        finally:
            cluster.loop.add_callback(missing.stop)
            with suppress(Exception):  # workers that do not answer any more end with this process
                cluster.close(timeout=30)


def _worker(request: ClusterRequest, number: int) -> dict[str, Any]:
    resources: dict[str, float] = {MEMORY: request.worker_memory}
    env = dict.fromkeys(_THREAD_VARIABLES, str(request.engine_threads))
    if number < request.gpus:
        resources[GPU] = 1
        env["CUDA_VISIBLE_DEVICES"] = _visible_gpus(request.gpus)[number]
    return {
        "nthreads": 1, "memory_limit": request.worker_memory, "resources": resources, "env": env,
        "silence_logs": logging.CRITICAL, "dashboard": False, "death_timeout": _START_SECONDS,
    }  # fmt: skip


def _visible_gpus(count: int) -> Sequence[str]:
    """The GPUs of the workers: those that are visible to this process, where that is limited."""
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if visible and count > len(visible):
        raise UsageError(f"--gpus {count}: CUDA_VISIBLE_DEVICES names {len(visible)}: {shlex.join(visible)}")
    return visible or [str(number) for number in range(count)]
