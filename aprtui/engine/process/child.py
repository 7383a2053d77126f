"""The inside of an engine process: the main thread listens to the pipe, one other thread owns the engine.

The main thread ends the process when the app goes away, even while the engine hangs in native code.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from aprtui.collector import collect_rarely
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.generation import Generation, PassCancelled, generate
from aprtui.engine.logit_noise import measure_logit_noise
from aprtui.engine.process import messages
from aprtui.engine.process.command_state import CommandState, SideTask
from aprtui.engine.process.loading import LoadedEngine, Opener, engine_for
from aprtui.engine.process.records import Recorder
from aprtui.engine.process.slots import CANDIDATES, Slots
from aprtui.engine.protocol import Logits
from aprtui.errors import AprtuiError, DeviceError, EngineError, ExitCode, UsageError
from aprtui.model.prompt import ChatPrompt, chat_stop_ids, encode_chat
from aprtui.progress import Progress
from aprtui.trace.experts import counted_experts

REPORT_SECONDS = 0.1
"""Progress is reported no more often than this: a pipe that fills up would hold the engine back."""


class Report:
    """Sends progress, but not too often; nothing is sent shortly after `begun`, in seconds of the monotonic clock."""

    def __init__(self, send: Callable[[messages.Event], None], begun: float = -REPORT_SECONDS) -> None:
        self._send = send
        self._sent = begun

    def __call__(self, what: str, done: int, total: int) -> None:
        if time.monotonic() - self._sent > REPORT_SECONDS:
            self._sent = time.monotonic()
            self._send(messages.StepProgress(what, done, total))


class SideTasks:
    """Does the tasks between two tokens: writes the run as a capture, measures the noise at the logits.

    Both use engines of their own, so that the generation goes on as if nothing had happened. A failure is reported and
    ends the task only.
    """

    def __init__(self, loaded: LoadedEngine, commands: CommandState, send: Callable[[messages.Event], None]) -> None:
        self._loaded = loaded
        self._commands = commands
        self._send = send
        self._report = Report(send)

    def run(self, side_task: SideTask, tokens: Sequence[int], prompt_tokens: int) -> None:
        """Do one side task on the `tokens` of the run so far, the first `prompt_tokens` of which are the prompt."""
        self._commands.begin_side_task()
        try:
            if isinstance(side_task, messages.WriteCapture):
                self._send(self._capture(side_task.directory, tokens, prompt_tokens))
            else:
                info, threads = self._loaded.info, self._loaded.settings.threads
                noise = measure_logit_noise(self._loaded.model, tokens, info.backend, threads, self._progress)
                self._send(messages.NoiseMeasured(noise))
        except AprtuiError as error:
            self._send(messages.Declined(str(error)))
        finally:
            self._commands.end_side_task()

    def _progress(self, what: str, done: int, total: int) -> None:
        if self._commands.side_task_cancelled:
            raise EngineError(f"{what}: cancelled")
        self._report(what, done, total)

    def _capture(self, directory: Path, tokens: Sequence[int], prompt_tokens: int) -> messages.Captured:
        """Evaluate the tokens as the run did, the prompt at once and the rest one by one, with every tap."""
        if not tokens:
            raise UsageError("there is no run to capture: enter a prompt first")
        if directory.exists():
            raise UsageError(f"{directory}: exists: choose another directory")
        loaded = self._loaded
        request = CaptureRequest(
            tuple(tokens), loaded.tokenizer.decode(tokens), frozenset(loaded.engine.graph.nodes), Logits.ALL,
            prefill=prompt_tokens,
        )  # fmt: skip
        engine = engine_for(loaded.model, replace(loaded.settings, context=len(tokens)), loaded.faults)
        try:
            manifest = write_capture(
                engine, loaded.model, request, directory,
                faults=loaded.faults, progress=self._progress,
            )  # fmt: skip
        except AprtuiError:
            # An incomplete capture is useless here, and may have filled the disk.
            shutil.rmtree(directory, ignore_errors=True)
            raise
        finally:
            engine.close()
        size = sum(info.bytes or 0 for info in manifest.files.values())
        return messages.Captured(directory, len(tokens), len(manifest.files), size)


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
            slots = Slots(self._descriptor, len(graph.nodes), graph.layers, True, counted_experts(graph))
            self._send(messages.Loaded(loaded.info))
            while True:
                loaded = self._serve(loaded, Recorder(loaded, slots, self._send))
        except AprtuiError as error:
            self._end(str(error), error.exit_code)
        except Exception as error:  # noqa: BLE001 - a bug: the app is told before the process ends
            traceback.print_exc()
            self._end(f"internal error in the engine: {type(error).__name__}: {error}", ExitCode.INTERNAL)

    def _progress(self, what: str, done: int, total: int) -> None:
        self._send(messages.StepProgress(what, done, total))

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
        recorder.watch_prefill(len(self._tokens) - generation.kept, self._prefill_progress())
        try:
            while True:
                generation.taps = recorder.taps(self.commands.lens)
                token = next(generation, None)
                recorder.end_watching()
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
            recorder.end_watching()
            # The user wants to see the stages of the pass that failed.
            recorder.write_failed(job.run, index + 1, loaded.engine.position, generation)
            if isinstance(error, DeviceError):
                raise  # the device is lost to this process
            self._send(messages.Failed(str(error), fatal=False))
            return
        assert generation.stop_reason is not None
        self._send(messages.Finished(job.run, generation.stop_reason, generation.tail))

    def _prefill_progress(self) -> Progress:
        report = Report(self._send, time.monotonic())

        def progress(what: str, done: int, total: int) -> None:
            if self.commands.cancelled():
                raise PassCancelled
            report(what, done, total)

        return progress

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
        tokenizer, stop_ids, held = loaded.tokenizer, loaded.tokenizer.stop_ids, list[int]()
        match job.prompt:
            case ChatPrompt() as chat:
                ids, stop_ids = encode_chat(loaded.model, chat), chat_stop_ids(loaded.model)
                # Asked for again, a turn evaluates the same tokens as the first time, when the last one before it may
                # not have been evaluated: its first pass looks as it did.
                held = self._tokens[: min(loaded.engine.position, max(len(chat.tokens) - 1, 0))]
            case str() as text:
                ids = tokenizer.encode(text)
            case tokens:
                ids = list(tokens)
        generation = generate(
            loaded.engine, tokenizer, ids,
            max_tokens=job.max_tokens, sampling=job.sampling, stop_ids=stop_ids,
            candidates=CANDIDATES, cancelled=self.commands.cancelled, held=held,
        )  # fmt: skip
        self._tokens, self._prompt_tokens = list(ids), len(ids)
        recorder.begin()
        recorder.name(ids)
        started = messages.Started(job.run, tokenizer.decode(ids), tuple(ids), recorder.written, generation.kept)
        self._send(started)
        return generation


def main(pipe: int, memory: int) -> None:
    """Serve the app at the other end of the descriptor `pipe`; token records go to the descriptor `memory`."""
    faulthandler.enable()
    collect_rarely()
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
