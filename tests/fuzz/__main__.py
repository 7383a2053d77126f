"""The long run: all harnesses in turn, until a time or a number of executions is reached.

What a reader does not refuse with one of our errors is written to `--crashes`, one file for each kind of failure, and
the exit code is 1. The table at the end is what was really executed; SIGINT and SIGTERM end a run with it as well.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.fuzz.harness import Target, execute, memory_folder, strict
from tests.fuzz.mutate import mutated
from tests.fuzz.table import HARNESSES

_BATCH_SECONDS = 2.0
_MOST_MEMORY = 8 << 30


class Run:
    """The harnesses that take part, what each has executed, and where they failed."""

    def __init__(self, names: list[str], seed: int, folder: Path, crashes: Path) -> None:
        self.crashes, self.seed = crashes, seed
        self.executed: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """Of processor time."""
        self.failures: set[tuple[str, ...]] = set()
        self._targets: dict[str, tuple[Target, Random]] = {}
        for name in names:
            own = folder / name
            own.mkdir()
            self._targets[name] = HARNESSES[name].prepare(own), Random(f"{name} {seed}")

    def batch(self, name: str, executions: int | None) -> None:
        """Execute a harness for a while, or so many times.

        Circles of objects are collected between batches only: with the collector on, half as much is executed.
        """
        gc.collect()
        target, random = self._targets[name]
        end, first, began = time.monotonic() + _BATCH_SECONDS, self.executed[name], time.process_time()
        while time.monotonic() < end if executions is None else self.executed[name] - first < executions:
            data = mutated(random, target.samples, target.words)
            self.executed[name] += 1
            try:
                self.accepted[name] += execute(target, data)
            except Exception as error:  # noqa: BLE001 - every other error is what is looked for
                self.failed(name, data, error)
        self.seconds[name] += time.process_time() - began

    def failed(self, name: str, data: bytes, error: Exception) -> None:
        """Keep an input that fails at a place where none has failed before."""
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/aprtui/" in frame.filename]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        key = (name, type(error).__name__, place)
        if key in self.failures:
            return
        self.failures.add(key)
        file = self.crashes / name / f"{type(error).__name__}-{place.replace(':', '-')}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        print(f"{name}: {type(error).__name__} at {place}: {str(error)[:200]}: {file}", flush=True)

    def table(self) -> Iterator[str]:
        yield f"{'harness':30}{'executed':>12}{'accepted':>12}{'a second':>12}"
        for name, count in self.executed.items():
            yield f"{name:30}{count:>12,}{self.accepted[name]:>12,}{count / self.seconds[name]:>12,.0f}"
        count, seconds = self.executed.total(), sum(self.seconds.values())
        yield f"{'all':30}{count:>12,}{self.accepted.total():>12,}{count / seconds:>12,.0f}"
        yield f"seed {self.seed}, {seconds / 60:.1f} minutes of processor time, {len(self.failures)} kinds of failure"


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long all harnesses together run")
    parser.add_argument("--executions", type=int, help="how often each harness runs, in place of --minutes")
    parser.add_argument("--only", action="append", choices=HARNESSES, help="a harness; may be given several times")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--crashes", type=Path, default=Path("fuzz-crashes"))
    options = parser.parse_args()
    names = options.only or list(HARNESSES)
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    with tempfile.TemporaryDirectory(prefix="aprtui-fuzz-", dir=memory_folder()) as folder:
        run = Run(names, options.seed, Path(folder), options.crashes)
        end = time.monotonic() + 60 * options.minutes
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, interrupted)
        gc.freeze()
        gc.disable()
        with contextlib.suppress(KeyboardInterrupt), strict():
            while True:
                for name in names:
                    run.batch(name, options.executions)
                if options.executions or time.monotonic() > end:
                    break
        print("\n".join(run.table()))
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
