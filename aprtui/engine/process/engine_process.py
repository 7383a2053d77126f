"""An engine in a process of its own, seen from the app: a crash, a hang or a busy engine never reaches the screen.

Nothing here blocks or calls back: the app polls. Commands and events go over a pipe, token records come through
shared memory that has no name, so nothing is left behind however either side ends.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from enum import StrEnum
from multiprocessing.connection import Connection
from pathlib import Path

from aprtui.engine.process import messages
from aprtui.engine.process.loading import Opener
from aprtui.engine.process.slots import RING, Slots, TokenRecord
from aprtui.engine.sampling import Sampling
from aprtui.model.prompt import ChatPrompt
from aprtui.trace.experts import counted_experts
from aprtui.trace.graph.stage_graph import graph_for

QUIT_SECONDS = 1.0
"""How long an engine may take to end by itself."""


class EngineState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    RUNNING = "running"
    PAUSED = "paused"
    CRASHED = "crashed"
    CLOSED = "closed"


class EngineProcess:
    """Client side of an engine process. `opener` runs inside it with `settings`; its output goes to `log`, or nowhere.

    `settings` are those of the engine that was loaded last, with which it is started again.
    """

    def __init__(
        self, opener: Opener, settings: messages.EngineSettings | None = None, log: Path | None = None
    ) -> None:
        self.settings = self._requested = settings or messages.EngineSettings()
        self.recording: None = None
        """The session that is played, of which there is none where an engine runs."""
        self._opener = opener
        self._log = log
        self._run = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._memory = -1
        self._slots: Slots | None = None
        self._own_events: list[messages.Event] = []
        self.info: messages.EngineDescription | None = None
        self.state = EngineState.CLOSED

    def start(self, settings: messages.EngineSettings | None = None) -> None:
        """Start the process, with other `settings` if given; the engine is there when `poll` gives `Loaded`.

        A process that runs already is ended.
        """
        self.close()
        self.settings = settings or self.settings
        ours, theirs = socket.socketpair()
        self._memory = os.memfd_create("aprtui-token-records")
        with ExitStack() as stack:
            stack.enter_context(theirs)
            output = stack.enter_context(open(self._log or os.devnull, "wb"))
            # The path list goes with the call, so that the child finds what this process finds. A session of its own
            # keeps Ctrl-C in the terminal away from the engine.
            code = f"import sys; sys.path[:] = {sys.path!r}; from aprtui.engine.process.child import main; main(%d, %d)"
            self._process = subprocess.Popen(
                [sys.executable, "-c", code % (theirs.fileno(), self._memory)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                pass_fds=(theirs.fileno(), self._memory), start_new_session=True,
            )  # fmt: skip
        self._connection = Connection(ours.detach())
        self.state = EngineState.LOADING
        self._requested = self.settings
        self._connection.send((self._opener, self.settings))

    def restart(self) -> None:
        """End the process at once, if it still lives, and start a new one."""
        self._kill()
        self.start()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
        self.close()

    def close(self) -> None:
        """End the process: politely, and after a second by force. A second call does nothing."""
        if self._connection is not None:
            self._send(messages.Control.QUIT)
            self._connection.close()
        if self._process is not None:
            try:
                self._process.wait(QUIT_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._memory >= 0:
            os.close(self._memory)
        self._process, self._connection, self._memory, self._slots = None, None, -1, None
        self.info, self.state = None, EngineState.CLOSED

    def poll(self) -> list[messages.Event]:
        """The events since the last call; returns at once. A process that has died gives a fatal `Failed`."""
        events, self._own_events = self._own_events, []
        while self._connection is not None and self.state is not EngineState.CRASHED:
            try:
                if not self._connection.poll():
                    break
                event = self._connection.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                event = messages.Failed(self._cause_of_death(), fatal=True)
            self._follow(event)
            events.append(event)
        return events

    def generate(self, prompt: str | Sequence[int] | ChatPrompt, sampling: Sampling, max_tokens: int) -> int:
        """Ask for a generation, in place of one that is going on; returns its run number."""
        self._run += 1
        given = prompt if isinstance(prompt, str | ChatPrompt) else tuple(prompt)
        self._send(messages.Generate(self._run, given, max_tokens, sampling))
        return self._run

    def reopen(self, settings: messages.EngineSettings) -> None:
        """Open the model again with other settings; `Loaded` comes again, or `Failed` and the engine stays as it is.

        A process that has died is started again with them.
        """
        if self.state is EngineState.CRASHED:
            self.settings = settings
            self.restart()
        else:
            self._requested = settings
            self._send(messages.Reopen(settings))

    def set_lens(self, on: bool) -> None:
        """Compute the logit lens of every token from now on, or no longer. Lasts until the next `start`."""
        self._send(messages.SetLens(on))

    def measure_noise(self) -> None:
        """Ask how far apart `q8` and `exact` are at the logits: answered by `NoiseMeasured` or `Declined`."""
        self._send(messages.Control.MEASURE_NOISE)

    def write_capture(self, directory: Path) -> None:
        """Write the run so far as a capture, between two tokens: answered by `Captured` or `Declined`."""
        self._send(messages.WriteCapture(directory.absolute()))

    def pause(self) -> None:
        """Let the engine rest after the current token."""
        self._send(messages.Control.PAUSE)

    def resume(self) -> None:
        self._send(messages.Control.RESUME)

    def set_pace(self, tokens_per_second: float | None) -> None:
        """Make no more tokens a second than this, so that an eye can follow; the engine's own tokens/s do not change.

        None lifts the limit. Lasts until the next `start`.
        """
        self._send(messages.SetPace(tokens_per_second))

    def step(self) -> None:
        """Make one more token while paused."""
        self._send(messages.Control.STEP)

    def cancel(self) -> None:
        """End the capture or measurement that is going on, else the generation: after the token, or layer of a prompt.

        A loading is ended at once, with its process, because a compiler looks at nothing; `LoadingCancelled` says so.
        """
        if self.state is EngineState.LOADING:
            self._kill()
            self._own_events.append(messages.LoadingCancelled())
        else:
            self._send(messages.Control.CANCEL)

    @property
    def written(self) -> int:
        """Token records written since the engine was loaded."""
        return 0 if self._slots is None else self._slots.written

    @property
    def first_kept(self) -> int:
        """The number of the oldest record that is kept."""
        return max(self.written - RING, 0)

    def record(self, number: int) -> TokenRecord | None:
        """Token record `number`, 0 being the first of this process; None where it is not kept."""
        return None if self._slots is None else self._slots.read(number)

    def latest(self) -> TokenRecord | None:
        return None if self._slots is None else self._slots.latest()

    def _send(self, command: messages.Command) -> None:
        if self._connection is None:
            return
        try:
            self._connection.send(command)
        except OSError:
            # The process is gone: the next poll reports it, with the reason.
            return

    def _follow(self, event: messages.Event) -> None:
        match event:
            case messages.Loaded(info):
                self.info, self.settings = info, self._requested
                graph = graph_for(info.graph)
                self._slots = Slots(self._memory, len(graph.nodes), graph.layers, False, counted_experts(graph))
                self.state = EngineState.READY
            case messages.Reopening():
                self.state = EngineState.LOADING
            case messages.Started() | messages.Resumed():
                self.state = EngineState.RUNNING
            case messages.Paused():
                self.state = EngineState.PAUSED
            case messages.Finished() | messages.Failed(fatal=False):
                self.state = EngineState.READY
            case messages.Failed(fatal=True):
                self.state = EngineState.CRASHED

    def _cause_of_death(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(QUIT_SECONDS / 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if code >= 0:
            cause = f"the engine process ended unexpectedly with exit code {code}"
        else:
            cause = f"the engine process was ended by signal {-code} ({_signal_name(-code)})"
        return f"{cause}; see {self._log}" if self._log else cause


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
