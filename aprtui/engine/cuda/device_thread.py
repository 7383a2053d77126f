"""One thread that owns a device: every call that touches it runs there, from the first to the last.

PyCUDA keeps the current context on a stack of each thread, aborts the process when a thread ends that still has one,
and leaks what is freed elsewhere. So one thread makes the context, allocates, frees and pops it, for all callers.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

from aprtui.errors import EngineError

P = ParamSpec("P")
T = TypeVar("T")


class DeviceThread:
    """Runs calls one after the other on a thread of its own."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon: a process that ends without closing its engine must not wait for it. Its owner closes it at exit.
        self._thread = threading.Thread(target=self._serve, name="cuda", daemon=True)
        self._closed = False
        self._thread.start()
        self.cancelled = threading.Event()
        """Set once the result of a long call is no longer wanted."""

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` on the thread; its result, or what it raises. Raises `EngineError` once it is closed."""
        if threading.current_thread() is self._thread:
            return function(*args, **kwargs)  # garbage collection may end an engine on any thread
        if self._closed:
            raise EngineError("the engine is closed: open it again")
        outcome: Future[T] = Future()

        def job() -> None:
            try:
                outcome.set_result(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - raised again where the result is waited for
                outcome.set_exception(error)

        self._jobs.put(job)
        return outcome.result()

    def close(self) -> None:
        """Let the thread finish what it was given, and end; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            if threading.current_thread() is not self._thread:
                self._thread.join()

    def _serve(self) -> None:
        job: Any
        while (job := self._jobs.get()) is not None:
            job()
            del job  # it holds what it was called with
