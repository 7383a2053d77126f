"""The commands of the app, as the two threads of an engine process share them: the pipe's thread takes them, the
engine's thread obeys them between two passes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aprtui.engine.process import messages

Job = messages.Generate | messages.Reopen
"""A command that ends the current generation."""

SideTask = messages.WriteCapture | messages.Control
"""A command that is carried out between two tokens."""


class CommandState:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._side_tasks: deque[SideTask] = deque()
        self._in_side_task = False
        self._paused = False
        self._steps = 0
        self._cancelled = False
        self._token_seconds = 0.0
        self._due = 0.0
        self.side_task_cancelled = False
        self._loading = False
        self.load_cancelled = False
        self.lens = False
        """Whether the logit lens is wanted."""

    def take(self, command: messages.Command) -> None:
        with self._changed:
            match command:
                case messages.Generate():
                    # A newer prompt replaces one that has not begun; earlier commands stay.
                    self._jobs = deque(job for job in self._jobs if not isinstance(job, messages.Generate))
                    self._begin(command)
                case messages.Reopen():
                    self._begin(command)
                case messages.WriteCapture() | messages.Control.MEASURE_NOISE:
                    self._side_tasks.append(command)
                case messages.SetPace(tokens_per_second):
                    self._token_seconds = 1 / tokens_per_second if tokens_per_second else 0.0
                    self._due = 0.0
                case messages.SetLens(on):
                    self.lens = on
                case messages.Control.CANCEL if self._loading:
                    self.load_cancelled = True
                case messages.Control.CANCEL if self._in_side_task:
                    self.side_task_cancelled = True
                case messages.Control.CANCEL:
                    self._cancelled = True
                case messages.Control.STEP:
                    self._steps += 1
                case _:
                    self._paused = command is messages.Control.PAUSE
            self._changed.notify()

    def _begin(self, job: Job) -> None:
        self._jobs.append(job)
        self._cancelled, self._paused = True, False

    def next(self) -> Job | SideTask:
        """Wait for a command while nothing is generated."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._side_tasks)
            if self._side_tasks:
                return self._side_tasks.popleft()
            self._steps, self._cancelled = 0, len(self._jobs) > 1
            return self._jobs.popleft()

    def next_side_task(self) -> SideTask | None:
        with self._changed:
            return self._side_tasks.popleft() if self._side_tasks else None

    def begin_side_task(self) -> None:
        """From now on a cancel ends the side task, not the generation."""
        with self._changed:
            self._in_side_task, self.side_task_cancelled = True, False

    def end_side_task(self) -> None:
        """From now on a cancel ends the generation."""
        with self._changed:
            self._in_side_task = False

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Until this is left, a cancel ends the load, not the generation."""
        with self._changed:
            self._loading, self.load_cancelled = True, False
        try:
            yield
        finally:
            with self._changed:
                self._loading = False

    def cancelled(self) -> bool:
        return self._cancelled

    def keep_pace(self) -> None:
        """Wait until the next token is due, or a command has come."""
        with self._changed:
            while not self._has_commands() and (rest := self._due - time.monotonic()) > 0:
                self._changed.wait(rest)
            self._due = time.monotonic() + self._token_seconds

    def _has_commands(self) -> bool:
        return bool(self._paused or self._cancelled or self._side_tasks)

    def rest_while_paused(self, paused: Callable[[], None], resumed: Callable[[], None]) -> bool:
        """Return at once, or, while paused, when there is a step to take or the pause is over.

        True where a side task comes first; the caller does it and calls this again.
        """
        with self._changed:
            if self._side_tasks:
                return True
            if not self._paused or self._cancelled:
                return False
            paused()
            self._changed.wait_for(lambda: not self._paused or self._cancelled or self._steps or self._side_tasks)
            if self._side_tasks:
                return True
            if self._steps:
                self._steps -= 1
            elif not self._cancelled:
                resumed()
            return False
