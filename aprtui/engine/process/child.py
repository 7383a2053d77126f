"""The inside of an engine process: the main thread listens to the pipe, one other thread owns the engine.

The main thread ends the process when the app goes away, even while the engine hangs in native code.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
import traceback
from collections.abc import Iterable
from multiprocessing.connection import Connection

from aprtui.engine.generation import Generation, generate
from aprtui.engine.process import messages
from aprtui.engine.process.command_state import CommandState
from aprtui.engine.process.loading import LoadedEngine, Opener
from aprtui.engine.process.records import Recorder
from aprtui.engine.process.side_tasks import SideTasks
from aprtui.engine.process.slots import CANDIDATES, Slots
from aprtui.errors import AprtuiError, DeviceError, ExitCode, UsageError


class EngineThread:
    """Owns the engine: opens it, runs generations, reports over `connection` and into the slots."""

    def __init__(
        self, opener: Opener, settings: messages.EngineSettings, connection: Connection, descriptor: int
    ) -> None:
        self.commands = CommandState()
        self._opener = opener
        self._settings = settings
        self._send = connection.send
        self._descriptor = descriptor
        self._tokens: list[int] = []
        self._prompt_tokens = 0

    def run(self) -> None:
        """Work until the process ends; an error that leaves no usable engine ends the process."""
        try:
            loaded = self._opener(self._progress, self._settings)
            graph = loaded.engine.graph
            slots = Slots(self._descriptor, len(graph.nodes), graph.layers, create=True)
            self._send(messages.Loaded(loaded.info))
            while True:
                loaded = self._serve(loaded, Recorder(loaded, slots, self._send_names))
        except AprtuiError as error:
            self._end(str(error), error.exit_code)
        except Exception as error:  # noqa: BLE001 - a bug: the app is told before the process ends
            traceback.print_exc()
            self._end(f"internal error in the engine: {type(error).__name__}: {error}", ExitCode.INTERNAL)

    def _progress(self, what: str, done: int, total: int) -> None:
        self._send(messages.StepProgress(what, done, total))

    def _send_names(self, names: Iterable[tuple[int, str]]) -> None:
        self._send(messages.TokenNames(tuple(names)))

    def _end(self, message: str, code: ExitCode) -> None:
        with contextlib.suppress(OSError):
            self._send(messages.Failed(" ".join(message.split()), fatal=True))
        os._exit(code)

    def _serve(self, loaded: LoadedEngine, recorder: Recorder) -> LoadedEngine:
        """Carry out commands with one engine until another takes its place; returns that one."""
        side_tasks = SideTasks(loaded, self.commands, self._send)
        while True:
            match self.commands.next():
                case messages.Generate() as job:
                    self._generate(loaded, recorder, side_tasks, job)
                case messages.Reopen(settings):
                    another = self._reopened(settings)
                    if another is not None:
                        recorder.close()
                        loaded.engine.close()
                        self._send(messages.Loaded(another.info))
                        return another
                case side_task:
                    side_tasks.run(side_task, self._tokens, self._prompt_tokens)

    def _reopened(self, settings: messages.EngineSettings) -> LoadedEngine | None:
        """Another engine, or None where it cannot be opened; the old one is kept until it is replaced."""
        self._send(messages.Reopening())
        try:
            return self._opener(self._progress, settings)
        except AprtuiError as error:
            self._send(messages.Failed(str(error), fatal=False))
            return None

    def _generate(
        self, loaded: LoadedEngine, recorder: Recorder, side_tasks: SideTasks, job: messages.Generate
    ) -> None:
        try:
            generation = self._start(loaded, recorder, job)
        except UsageError as error:
            self._send(messages.Failed(str(error), fatal=False))
            return
        index = -1
        try:
            while True:
                generation.taps = recorder.taps(self.commands.lens)
                token = next(generation, None)
                if token is None:
                    break
                index += 1
                self._tokens.append(token.id)
                recorder.write(job.run, index, token.choice, token.position, token.seconds, generation)
                choice = token.choice
                self._send(
                    messages.TokenText(
                        job.run, index, token.id, token.text, choice.logprob, choice.entropy, choice.margin
                    )
                )
                self.commands.keep_pace()
                self._rest(side_tasks, job.run)
        except AprtuiError as error:
            # The user wants to see the stages of the pass that failed.
            recorder.write_failed(job.run, index + 1, loaded.engine.position, generation)
            if isinstance(error, DeviceError):
                raise  # the device is lost to this process
            self._send(messages.Failed(str(error), fatal=False))
            return
        assert generation.stop_reason is not None
        self._send(messages.Finished(job.run, generation.stop_reason, generation.tail))

    def _rest(self, side_tasks: SideTasks, run: int) -> None:
        """Between two tokens: do the side tasks, and rest while paused. A pause is reported once."""
        reported = False

        def report_pause() -> None:
            nonlocal reported
            if not reported:
                reported = True
                self._send(messages.Paused(run))

        while self.commands.rest_while_paused(report_pause, lambda: self._send(messages.Resumed(run))):
            while (side_task := self.commands.next_side_task()) is not None:
                side_tasks.run(side_task, self._tokens, self._prompt_tokens)

    def _start(self, loaded: LoadedEngine, recorder: Recorder, job: messages.Generate) -> Generation:
        tokenizer = loaded.tokenizer
        ids = tokenizer.encode(job.prompt) if isinstance(job.prompt, str) else list(job.prompt)
        generation = generate(
            loaded.engine, tokenizer, ids,
            max_tokens=job.max_tokens, sampling=job.sampling, stop_ids=tokenizer.stop_ids,
            candidates=CANDIDATES, cancelled=self.commands.cancelled,
        )  # fmt: skip
        self._tokens, self._prompt_tokens = list(ids), len(ids)
        recorder.name(ids)
        self._send(messages.Started(job.run, tokenizer.decode(ids), tuple(ids), recorder.written))
        return generation


def main(pipe: int, memory: int) -> None:
    """Serve the app at the other end of the descriptor `pipe`; token records go to the descriptor `memory`."""
    faulthandler.enable()
    connection = Connection(pipe)
    try:
        opener, settings = connection.recv()
        thread = EngineThread(opener, settings, connection, memory)
        threading.Thread(target=thread.run, name="engine", daemon=True).start()
        while (command := connection.recv()) is not messages.Control.QUIT:
            thread.commands.take(command)
    except (EOFError, OSError):
        pass
    # Not sys.exit: that would wait for native code of the engine's thread.
    os._exit(0)
