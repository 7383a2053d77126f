"""Token records: the results of a pass, put together and written to the slots."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.generation import Generation
from aprtui.engine.logit_lens import LogitLens, layer_outputs
from aprtui.engine.process.loading import LoadedEngine
from aprtui.engine.process.messages import Event, TokenNames
from aprtui.engine.process.slots import CANDIDATES, NO_CHOICE, StatsTable, TokenRecord, candidates
from aprtui.engine.protocol import MeteredEngine, Taps, TimedEngine
from aprtui.engine.sampling import NO_TOKEN, Candidate, Choice
from aprtui.progress import Progress


class RecordStore(Protocol):
    """Where records go: the slots of an engine process, or a file."""

    @property
    def written(self) -> int:
        """Records written so far."""

    def write(self, record: TokenRecord) -> None: ...


class Recorder:
    """Writes the records of one engine, and sends the names of the tokens that they mention."""

    def __init__(self, loaded: LoadedEngine, slots: RecordStore, send: Callable[[Event], None]) -> None:
        self._loaded = loaded
        self._slots = slots
        self._send = send
        self._named: set[int] = {NO_TOKEN}
        engine, graph = loaded.engine, loaded.engine.graph
        # Asked once: `isinstance` with a protocol takes 40 µs.
        self._timed = engine if isinstance(engine, TimedEngine) else None
        self._metered = engine if isinstance(engine, MeteredEngine) else None
        self._table = StatsTable(graph)
        self._outputs = layer_outputs(graph)
        self._lens_taps = self._table.taps_with(self._outputs)
        self._lens: LogitLens | None = None

    @property
    def written(self) -> int:
        return self._slots.written

    def close(self) -> None:
        """Release what the lens holds; a second call does nothing."""
        if self._lens is not None:
            self._lens.close()

    def taps(self, lens: bool) -> Taps:
        """The taps of the next pass, with or without what the lens needs."""
        return self._lens_taps if lens else self._table.taps

    def watch_prefill(self, tokens: int, progress: Progress) -> None:
        """Tell `progress` how many of the next `tokens` positions have been evaluated, after each layer.

        What it raises ends the pass.
        """
        layers, passed = self._loaded.engine.graph.layers, 0

        def count(_: int, positions: int) -> None:
            nonlocal passed
            passed += positions
            progress("evaluating the prompt, tokens", passed // layers, tokens)

        self._table.passed = count

    def end_watching(self) -> None:
        self._table.passed = None

    def begin(self) -> None:
        """Forget what was left by a pass that was cancelled, or failed, and how experts were chosen before."""
        self._table.take()
        self._table.take_last(())
        self._table.forget_experts()

    def name(self, ids: Iterable[int]) -> None:
        """Send the names of those ids that are mentioned for the first time."""
        new = [token for token in dict.fromkeys(ids) if token not in self._named]
        self._named.update(new)
        if new:
            tokenizer = self._loaded.tokenizer
            names = tuple((token, tokenizer.token_bytes(token).decode(errors="replace")) for token in new)
            self._send(TokenNames(names, frozenset(filter(tokenizer.is_special, new))))

    def write(
        self, run: int, index: int, choice: Choice, position: int, seconds: float, generation: Generation
    ) -> None:
        """Write the record of a token that was chosen; the names of its tokens are sent first."""
        looked = self._look()
        self.name([choice.id, *(token.id for token in choice.candidates), *(token.id for token in looked)])
        timing, evaluated = generation.timing, position - generation.kept if index == 0 else 1
        lens = candidates(looked, len(looked)) if looked else None
        self._slots.write(
            TokenRecord(
                run, index, choice.id, position, evaluated,
                choice.logprob, choice.probability, choice.entropy, choice.margin,
                seconds, timing.prefill_seconds, timing.prefill_tokens_per_second, timing.tokens_per_second,
                self._table.take(), self._stage_seconds(), candidates(choice.candidates, CANDIDATES), lens,
                *self._device_use(), self._table.experts(),
            )
        )  # fmt: skip

    def write_failed(self, run: int, index: int, position: int, generation: Generation) -> None:
        """Write the record of a pass that no token could be chosen from."""
        self.write(run, index, NO_CHOICE, position, 0.0, generation)

    def _stage_seconds(self) -> NDArray[np.float32]:
        if self._timed is None:
            return np.full(len(self._loaded.engine.graph.nodes), np.nan, np.float32)
        return self._timed.stage_seconds()

    def _device_use(self) -> tuple[float, float, float]:
        if self._metered is None:
            return math.nan, math.nan, math.nan
        use = self._metered.device_use()
        return float(use.memory_used), float(use.memory), use.load

    def _look(self) -> list[Candidate]:
        outputs = self._table.take_last(self._outputs)
        if outputs is None:
            return []
        if self._lens is None:
            self._lens = LogitLens(self._loaded.model, self._loaded.info.backend, self._loaded.settings.threads)
        return self._lens.look(outputs)
