"""What an app wants of its engine: filled by the pipe's thread, obeyed by the engine's thread between two passes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from aprtui.engine.process import messages as messages

Job = messages.Generate | messages.Reopen
"""What ends the generation that is going on."""

Errand = messages.WriteCapture | messages.Control
"""What is done between two tokens."""


class Orders:
    """The commands of the app as a state that two threads share."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._errands: deque[Errand] = deque()
        self._on_errand = False
        self._errand_cancelled = False
        self._paused = False
        self._steps = 0
        self._cancelled = False
        self._token_seconds = 0.0
        self._due = 0.0
        self.lens = False
        """Whether the logit lens is wanted."""

    def take(self, command: messages.Command) -> None:
        """Note a command of the app."""
        with self._changed:
            match command:
                case messages.Generate():
                    # A newer prompt replaces one that has not begun; what was asked before both stays.
                    self._jobs = deque(job for job in self._jobs if not isinstance(job, messages.Generate))
                    self._begin(command)
                case messages.Reopen():
                    self._begin(command)
                case messages.WriteCapture() | messages.Control.MEASURE_NOISE:
                    self._errands.append(command)
                case messages.SetPace(tokens_per_second):
                    self._token_seconds = 1 / tokens_per_second if tokens_per_second else 0.0
                    self._due = 0.0
                case messages.SetLens(on):
                    self.lens = on
                case messages.Control.CANCEL if self._on_errand:
                    self._errand_cancelled = True
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

    def next(self) -> Job | Errand:
        """Wait for something to do while nothing is generated."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._errands)
            if self._errands:
                return self._errands.popleft()
            self._steps, self._cancelled = 0, len(self._jobs) > 1
            return self._jobs.popleft()

    def next_errand(self) -> Errand | None:
        """What is to be done between these two tokens, if anything."""
        with self._changed:
            return self._errands.popleft() if self._errands else None

    def begin_errand(self) -> None:
        """A cancel ends the errand from now on, not the generation."""
        with self._changed:
            self._on_errand, self._errand_cancelled = True, False

    def end_errand(self) -> None:
        """A cancel ends the generation again."""
        with self._changed:
            self._on_errand = False

    def cancelled(self) -> bool:
        """Whether the generation at hand is to end."""
        return self._cancelled

    def errand_cancelled(self) -> bool:
        """Whether the errand at hand is to end."""
        return self._errand_cancelled

    def keep_pace(self) -> None:
        """Wait until the next token is due, or something else is wanted."""
        with self._changed:
            while not self._wanted() and (rest := self._due - time.monotonic()) > 0:
                self._changed.wait(rest)
            self._due = time.monotonic() + self._token_seconds

    def _wanted(self) -> bool:
        return bool(self._paused or self._cancelled or self._errands)

    def rest_while_paused(self, at_rest: Callable[[], None], going_on: Callable[[], None]) -> bool:
        """Return at once, or, while paused, when there is a step to take or the pause is over.

        True where an errand is to be done first, after which this is to be called again.
        """
        with self._changed:
            if self._errands:
                return True
            if not self._paused or self._cancelled:
                return False
            at_rest()
            self._changed.wait_for(lambda: not self._paused or self._cancelled or self._steps or self._errands)
            if self._errands:
                return True
            if self._steps:
                self._steps -= 1
            elif not self._cancelled:
                going_on()
            return False
