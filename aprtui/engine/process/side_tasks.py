"""Tasks that an engine process does between two tokens: write the run as a capture, measure the noise at the logits.

Both use engines of their own, so that the generation goes on as if nothing had happened. A failure is reported and ends
the task only.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.logit_noise import measure_logit_noise
from aprtui.engine.process.command_state import CommandState, SideTask
from aprtui.engine.process.loading import LoadedEngine, engine_for
from aprtui.engine.process.messages import Captured, Declined, Event, NoiseMeasured, StepProgress, WriteCapture
from aprtui.engine.protocol import Logits
from aprtui.errors import AprtuiError, EngineError, UsageError

REPORT_SECONDS = 0.1
"""Progress is reported no more often than this: a pipe that fills up would hold the engine back."""


class SideTasks:
    """Runs the side tasks of one engine."""

    def __init__(self, loaded: LoadedEngine, commands: CommandState, send: Callable[[Event], None]) -> None:
        self._loaded = loaded
        self._commands = commands
        self._send = send
        self._reported = 0.0

    def run(self, side_task: SideTask, tokens: Sequence[int], prompt_tokens: int) -> None:
        """Do one side task on the `tokens` of the run so far, the first `prompt_tokens` of which are the prompt."""
        self._commands.begin_side_task()
        try:
            if isinstance(side_task, WriteCapture):
                self._send(self._capture(side_task.directory, tokens, prompt_tokens))
            else:
                info, threads = self._loaded.info, self._loaded.settings.threads
                noise = measure_logit_noise(self._loaded.model, tokens, info.backend, threads, self._progress)
                self._send(NoiseMeasured(noise))
        except AprtuiError as error:
            self._send(Declined(str(error)))
        finally:
            self._commands.end_side_task()

    def _progress(self, what: str, done: int, total: int) -> None:
        if self._commands.side_task_cancelled():
            raise EngineError(f"{what}: cancelled")
        if time.monotonic() - self._reported > REPORT_SECONDS:
            self._reported = time.monotonic()
            self._send(StepProgress(what, done, total))

    def _capture(self, directory: Path, tokens: Sequence[int], prompt_tokens: int) -> Captured:
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
        return Captured(directory, len(tokens), len(manifest.files), size)
