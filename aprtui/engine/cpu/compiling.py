"""Compiling the kernels of a model, in several processes: in one, numba compiles one kernel at a time.

A process that helps reads the names of kernels and says each name once more when the kernel lies in numba's cache, from
which this process then loads it. What a helper does not deliver is compiled here.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numba

from aprtui.collector import collect_rarely
from aprtui.engine.cpu.interpreter import compile_interpreter
from aprtui.engine.cpu.operations import Kernel, operation_address
from aprtui.engine.cpu.program import Opcode
from aprtui.machine import default_threads
from aprtui.progress import Progress

_MOST_HELPERS = 3
"""Each takes 200 MB while it compiles; the longest kernel takes a fifth of the time of all."""
_LEAST_KERNELS = 4
"""For each helper, which takes a second to start."""
_LONGEST = (Opcode.ATTENTION, Opcode.QUANTIZE, Opcode.MATMUL, Opcode.EXPERT_MATMUL, Opcode.STORE_KEYS)
"""Begun first, so that no process is left with a long one in the end."""
_INTERPRETER = "interpreter"


def compile_kernels(kernels: Sequence[Kernel], progress: Progress) -> None:
    """Compile `kernels` and the interpreter, or load them from numba's cache.

    `progress(what, done, total)` is called along the way; what it raises ends the work.
    """
    work = {_INTERPRETER: compile_interpreter} | {kernel.name: _compilation(kernel) for kernel in kernels}
    missing = sorted((name for name in work if not _mark(name).exists()), key=_turn)
    if missing:
        _Sharing(missing, work).run(progress)
    what = "compiling kernels" if missing else "loading kernels"
    for done, (name, compile_one) in enumerate(work.items()):
        progress(what, len(work) if missing else done, len(work))
        compile_one()
        if name in missing:
            _mark(name).touch()
    progress(what, len(work), len(work))


def _compilation(kernel: Kernel) -> Callable[[], object]:
    return lambda: operation_address(kernel)


def _mark(name: str) -> Path:
    """A file that is there when the kernel of that name was compiled into the cache."""
    return Path(numba.config.CACHE_DIR) / f"{name}.compiled"


def _turn(name: str) -> int:
    opcode = next((opcode for opcode in _LONGEST if name.startswith(f"{opcode.name}.")), None)
    return len(_LONGEST) if opcode is None else _LONGEST.index(opcode)


class _Sharing:
    """Kernels that are missing, dealt out one at a time to this process and to those that help."""

    def __init__(self, missing: Sequence[str], work: Mapping[str, Callable[[], object]]) -> None:
        self._work, self._there = work, len(work) - len(missing)
        self._waiting = deque(missing)
        self._done: list[str] = []
        self._helpers: list[subprocess.Popen[str]] = []

    def run(self, progress: Progress) -> None:
        count = min(_MOST_HELPERS, default_threads() - 1, len(self._waiting) // _LEAST_KERNELS)
        threads = [threading.Thread(target=self._feed, daemon=True) for _ in range(count)]
        try:
            for thread in threads:
                thread.start()
            for name in iter(self._next, None):
                self._tell(progress)
                self._work[name]()
                self._done.append(name)
            for thread in threads:
                while thread.is_alive():
                    self._tell(progress)
                    thread.join(0.2)
        finally:
            self._waiting.clear()
            for helper in self._helpers:
                helper.kill()

    def _tell(self, progress: Progress) -> None:
        progress("compiling kernels", self._there + len(self._done), len(self._work))

    def _next(self) -> str | None:
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def _feed(self) -> None:
        """Start a helper, and give it kernels as long as there are some and it delivers them."""
        code = f"import sys; sys.path[:] = {sys.path!r}; from aprtui.engine.cpu.compiling import main; main()"
        helper = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, start_new_session=True,
        )  # fmt: skip
        self._helpers.append(helper)
        with suppress(OSError), helper as process:
            assert process.stdin is not None and process.stdout is not None
            for name in iter(self._next, None):
                process.stdin.write(f"{name}\n")
                process.stdin.flush()
                if process.stdout.readline().strip() != name:
                    return
                self._done.append(name)


def main() -> None:
    """What a helper does until its input ends: compile a kernel into the cache, and say its name."""
    collect_rarely()
    for line in sys.stdin:
        name = line.strip()
        if name == _INTERPRETER:
            compile_interpreter()
        else:
            operation_address(Kernel.named(name))
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()
