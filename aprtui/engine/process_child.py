"""The inside of an engine process: the main thread listens to the pipe, one other thread owns the engine.

The main thread ends the process when the app goes away, even while the engine hangs in native code.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from aprtui.engine import process_messages as messages
from aprtui.engine.backends import Progress, open_engine
from aprtui.engine.generation import Generation, generate
from aprtui.engine.process_slots import NO_CHOICE, Slots, StatsTable, TokenRecord
from aprtui.engine.protocol import Engine, KvType, Mode
from aprtui.engine.sampling import Choice
from aprtui.errors import AprtuiError, UsageError
from aprtui.model.model import load_model
from aprtui.model.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """What an opener gives: an engine, its tokenizer, and what to call it."""

    engine: Engine
    tokenizer: Tokenizer
    info: messages.EngineInfo


Opener = Callable[[Progress], LoadedEngine]
"""Opens an engine, telling how far it is; must pickle."""


LARGEST_DEFAULT_CONTEXT = 4096
"""Models that could take 128,000 positions get this many unless more are asked for: the K/V cache takes memory."""


def open_model(
    progress: Progress, path: Path, backend: str, mode: Mode, kv: KvType, threads: int | None, context: int | None
) -> LoadedEngine:
    """Opens the model file `path`; the opener of the app, with all but `progress` bound."""
    model = load_model(path)
    context = context or min(model.config.context, LARGEST_DEFAULT_CONTEXT)
    engine = open_engine(model, backend=backend, mode=mode, kv=kv, threads=threads, context=context, progress=progress)
    _first_passes(engine, progress)
    info = messages.EngineInfo(
        model.name, model.quantization, model.config.graph,
        engine.backend, engine.code_path, mode, kv, engine.context, model.sampling_temperature,
    )  # fmt: skip
    return LoadedEngine(engine, model.tokenizer, info)


def _first_passes(engine: Engine, progress: Progress) -> None:
    """Prefill and decode once: what is compiled or read on first use delays the loading, not the first token."""
    taps, tokens = StatsTable(engine.graph).taps, min(2, engine.context)
    for done, count in enumerate((tokens, 1)):
        progress("compiling kernels, first passes", done, 2)
        engine.reset()
        engine.forward([0] * count, taps)
    engine.reset()


class _Orders:
    """What the app wants: filled by the pipe's thread, obeyed by the engine's thread between two passes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._job: messages.Generate | None = None
        self._paused = False
        self._steps = 0
        self._cancelled = False
        self._token_seconds = 0.0
        self._due = 0.0

    def take(self, command: messages.Command) -> None:
        """Note a command of the app."""
        with self._changed:
            if isinstance(command, messages.Generate):
                self._job, self._cancelled, self._paused = command, True, False
            elif isinstance(command, messages.SetPace):
                self._token_seconds = 1 / command.tokens_per_second if command.tokens_per_second else 0.0
                self._due = 0.0
            elif command is messages.Control.CANCEL:
                self._cancelled = True
            elif command is messages.Control.STEP:
                self._steps += 1
            else:
                self._paused = command is messages.Control.PAUSE
            self._changed.notify()

    def next_job(self) -> messages.Generate:
        """Wait for a generation to do."""
        with self._changed:
            while self._job is None:
                self._changed.wait()
            job, self._job = self._job, None
            self._cancelled, self._steps = False, 0
            return job

    def cancelled(self) -> bool:
        """Whether the generation at hand is to end."""
        return self._cancelled

    def keep_pace(self) -> None:
        """Wait until the next token is due, or something else is wanted."""
        with self._changed:
            while not (self._paused or self._cancelled) and (rest := self._due - time.monotonic()) > 0:
                self._changed.wait(rest)
            self._due = time.monotonic() + self._token_seconds

    def wait_while_paused(self, at_rest: Callable[[], None], going_on: Callable[[], None]) -> None:
        """Return at once, or, while paused, once there is a step to take or the pause is over."""
        with self._changed:
            if not self._paused or self._cancelled:
                return
            at_rest()
            self._changed.wait_for(lambda: not self._paused or self._cancelled or self._steps)
            if self._steps:
                self._steps -= 1
            elif not self._cancelled:
                going_on()


class EngineThread:
    """Owns the engine: opens it, runs generations, reports over `connection` and into the slots."""

    def __init__(self, opener: Opener, connection: Connection, descriptor: int) -> None:
        self.orders = _Orders()
        self._opener = opener
        self._send = connection.send
        self._descriptor = descriptor

    def run(self) -> None:
        """Work until the process ends; what cannot be gone on from ends the process."""
        try:
            loaded = self._opener(lambda what, done, total: self._send(messages.Progress(what, done, total)))
            slots = Slots(self._descriptor, len(loaded.engine.graph.nodes), create=True)
            self._send(messages.Loaded(loaded.info))
            while True:
                self._generate(loaded, slots, self.orders.next_job())
        except AprtuiError as error:
            self._end(str(error), int(error.exit_code))
        except Exception as error:
            traceback.print_exc()
            self._end(f"internal error in the engine: {type(error).__name__}: {error}", 70)

    def _end(self, message: str, code: int) -> None:
        with contextlib.suppress(OSError):
            self._send(messages.Failed(" ".join(message.split()), fatal=True))
        os._exit(code)

    def _generate(self, loaded: LoadedEngine, slots: Slots, job: messages.Generate) -> None:
        table = StatsTable(loaded.engine.graph)
        try:
            generation = self._start(loaded, job, table)
        except UsageError as error:
            self._send(messages.Failed(str(error), fatal=False))
            return
        index = -1
        try:
            for index, token in enumerate(generation):
                slots.write(_record(job.run, index, token.choice, token.position, token.seconds, generation, table))
                self._send(messages.TokenText(job.run, index, token.id, token.text))
                self.orders.keep_pace()
                self.orders.wait_while_paused(
                    lambda: self._send(messages.Paused(job.run)), lambda: self._send(messages.Resumed(job.run))
                )
        except AprtuiError as error:
            # The stages of the pass that failed are what its reader wants to see.
            slots.write(_record(job.run, index + 1, NO_CHOICE, loaded.engine.position, 0.0, generation, table))
            self._send(messages.Failed(str(error), fatal=False))
            return
        assert generation.stop_reason is not None
        self._send(messages.Finished(job.run, generation.stop_reason, generation.tail))

    def _start(self, loaded: LoadedEngine, job: messages.Generate, table: StatsTable) -> Generation:
        tokenizer = loaded.tokenizer
        if isinstance(job.prompt, str):
            text, ids = job.prompt, tokenizer.encode(job.prompt)
        else:
            ids = list(job.prompt)
            text = tokenizer.decode(ids)
        generation = generate(
            loaded.engine, tokenizer, ids,
            max_tokens=job.max_tokens, sampling=job.sampling, taps=table.taps,
            stop_ids=tokenizer.stop_ids, cancelled=self.orders.cancelled,
        )  # fmt: skip
        self._send(messages.Started(job.run, text, len(ids)))
        return generation


def _record(
    run: int, index: int, choice: Choice, position: int, seconds: float, generation: Generation, table: StatsTable
) -> TokenRecord:
    timing = generation.timing
    return TokenRecord(
        run, index, choice.id, position, position if index == 0 else 1,
        choice.logprob, choice.probability, choice.entropy, choice.margin,
        seconds, timing.time_to_first_token, timing.prefill_tokens_per_second, timing.tokens_per_second,
        table.take(),
    )  # fmt: skip


def main(pipe: int, memory: int) -> None:
    """Serve the app at the other end of the descriptor `pipe`; token records go to the descriptor `memory`."""
    faulthandler.enable()
    connection = Connection(pipe)
    try:
        thread = EngineThread(connection.recv(), connection, memory)
        threading.Thread(target=thread.run, name="engine", daemon=True).start()
        while (command := connection.recv()) is not messages.Control.QUIT:
            thread.orders.take(command)
    except (EOFError, OSError):
        pass
    # Not sys.exit: that would wait for native code of the engine's thread.
    os._exit(0)
