"""The engines that benchmarks measure: ours, ours with taps, ours writing a capture, and llama.cpp."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.backends.cpu import CPU
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import NO_TAPS, KvType, Logits, Mode, Taps
from aprtui.errors import EngineError
from aprtui.model.model import load_model
from aprtui.trace.graph import Node
from aprtui.trace.stats import Accumulator


class Discard:
    """A tap sink that takes everything and keeps nothing."""

    def put(self, node: Node, position: int, values: NDArray[np.float32] | None, stats: Accumulator | None) -> None:
        """Take one stage tensor."""


class OurContestant:
    """This project's CPU engine; with `stats` the statistics of every stage are tapped."""

    def __init__(self, model: Path, mode: Mode, threads: int, context: int, *, stats: bool = False) -> None:
        self._model = load_model(model)
        self._engine = open_engine(
            self._model, backend=CPU.name, mode=mode, kv=KvType.F32, threads=threads, context=context
        )
        nodes = frozenset(self._model.graph.nodes)
        self._taps = Taps(Discard(), stats=nodes) if stats else NO_TAPS

    def prefill(self, tokens: Sequence[int]) -> None:
        self._engine.reset()
        self._engine.forward(tokens, self._taps)

    def decode(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self._engine.forward([token], self._taps)


class CapturingContestant(OurContestant):
    """The same engine, whose `prefill` also writes every stage of every layer to `directory`."""

    def __init__(self, model: Path, mode: Mode, threads: int, context: int, directory: Path) -> None:
        super().__init__(model, mode, threads, context)
        self._directory = directory
        self._model.sha256()

    def prefill(self, tokens: Sequence[int]) -> None:
        request = CaptureRequest(tokens, None, frozenset(self._model.graph.nodes), Logits.LAST)
        write_capture(self._engine, self._model, request, self._directory, overwrite=True)


class PageCacheContestant:
    """The limit of a capture: `prefill` writes files of the given sizes, and does nothing else."""

    def __init__(self, sizes: Sequence[int], directory: Path) -> None:
        self._sizes, self._directory = sizes, directory
        self._data = np.random.default_rng(0).bytes(max(sizes))

    def prefill(self, tokens: Sequence[int]) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        view = memoryview(self._data)
        for index, size in enumerate(self._sizes):
            with open(self._directory / str(index), "wb", buffering=0) as file:
                written = 0
                while written < size:
                    written += file.write(view[written:size])

    def decode(self, tokens: Sequence[int]) -> None:
        raise EngineError("the page cache decodes nothing")


class LlamaCppContestant:
    """llama.cpp on the CPU through llama-cpp-python, with its own defaults (repacking, flash attention)."""

    def __init__(self, model: Path, threads: int, context: int) -> None:
        try:
            import llama_cpp
        except ImportError as error:
            raise EngineError("llama-cpp-python is not installed: pip install 'aprtui[oracle]'") from error
        self._llama: Any = llama_cpp
        self._silence = llama_cpp.llama_log_callback(lambda *_: None)  # kept: a collected callback crashes
        llama_cpp.llama_log_set(self._silence, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        loaded = llama_cpp.llama_model_load_from_file(str(model).encode(), parameters)
        if not loaded:
            raise EngineError(f"{model}: llama.cpp does not load it")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = context, 2048, 512
        options.n_threads = options.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(loaded, options)
        if not self._context:
            raise EngineError(f"{model}: llama.cpp cannot make a context of {context}")
        self._position = 0

    def prefill(self, tokens: Sequence[int]) -> None:
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)
        self._position = 0
        self._evaluate(tokens)

    def decode(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self._evaluate([token])

    def _evaluate(self, tokens: Sequence[int]) -> None:
        batch = self._llama.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = self._position + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = index == len(tokens) - 1
        status = self._llama.llama_decode(self._context, batch)
        self._llama.llama_batch_free(batch)
        if status:
            raise EngineError(f"llama.cpp: llama_decode answers {status}")
        self._position += len(tokens)
