"""Captures of a model that llama.cpp runs: every stage that its graph has a tensor of, and none that it has not.

The scheduler hands out each tensor right after it is computed, and it is written at once. A first evaluation that
writes nothing shows which stages there are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.engine.kv_types import KV_FORMATS, require_fitting
from aprtui.engine.protocol import KvType
from aprtui.errors import EngineError, UsageError
from aprtui.machine import default_threads, processor_name
from aprtui.model.model import Model
from aprtui.oracle.ggml import Ggml, GgmlTensorPointer, float_parameter, load_ggml
from aprtui.oracle.llamacpp_stages import FUSED, StagePlace, StagePlaces
from aprtui.oracle.requests import Evaluation, Work, planned_manifest, require_evaluable
from aprtui.oracle.stage_parts import StageParts
from aprtui.oracle.written import write_provenance
from aprtui.progress import Progress
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import EngineInfo, Manifest
from aprtui.trace.writer import CaptureWriter

_GGML_TYPES = {KvType.F32: 0, KvType.F16: 1, KvType.Q4_0: 2, KvType.Q8_0: 8}
_ENOUGH = 2
"""Tokens that show the graph of any number of them."""


@dataclass(frozen=True, slots=True)
class LlamaCppOptions:
    """How llama.cpp computes. `kv` is the type of keys, and of values where `values_kv` is None; `repack`: weights may
    be laid out anew for faster kernels, as llama.cpp does by default."""

    kv: KvType = KvType.F16
    values_kv: KvType | None = None
    flash_attention: bool = False
    threads: int = field(default_factory=default_threads)
    gpu_layers: int = 0
    repack: bool = True

    @property
    def types(self) -> tuple[KvType, KvType]:
        """The types of keys and values."""
        return self.kv, self.values_kv or self.kv


def write_llamacpp_captures(
    model: Model, work: Work, options: LlamaCppOptions, progress: Progress, *, overwrite: bool = False
) -> dict[Path, Manifest]:
    """Run `model` by llama.cpp and write what it computes; the manifests as written.

    Raises `UsageError` before anything is loaded if the request or a directory cannot be used, `EngineError` where
    llama-cpp-python is missing or llama.cpp refuses the model.
    """
    require_evaluable(model.config.context, work, overwrite)
    for kv in set(options.types):
        require_fitting(kv, model.config.graph)
    if KV_FORMATS[options.types[1]].block_values > 1 and not options.flash_attention:
        raise UsageError(f"K/V cache type {options.types[1]}: llama.cpp has it with --flash-attention on only")
    progress("loading", 0, 1)
    ggml = load_ggml()
    if options.gpu_layers and not ggml.llama.llama_supports_gpu_offload():
        raise UsageError(f"--gpu-layers {options.gpu_layers}: {ggml.version} is built without a GPU: leave it out")
    tap = _Tap(ggml, model)
    with _context(tap, options, list(work.values())) as context:
        return {
            directory: _capture(context, evaluation, options, directory, progress, overwrite)
            for directory, evaluation in work.items()
        }


def _capture(
    context: _Context, evaluation: Evaluation, options: LlamaCppOptions, directory: Path, progress: Progress,
    overwrite: bool,
) -> Manifest:  # fmt: skip
    tap, tokens = context.tap, evaluation.tokens
    nodes = _rehearsed(context, evaluation)
    planned = planned_manifest(tap.model, evaluation, _engine(tap.ggml, options), nodes, FUSED)
    tap.writer = CaptureWriter(directory, planned, overwrite=overwrite)
    try:
        for step in evaluation.steps:
            context.evaluate(tokens[tap.position : tap.position + step])
            tap.position += step
            progress("evaluating", tap.position, len(tokens))
        manifest = tap.writer.finish(planned)
        write_provenance(directory, manifest)
        return manifest
    finally:
        tap.writer.close()
        context.forget()


def _engine(ggml: Ggml, options: LlamaCppOptions) -> EngineInfo:
    keys, values = options.types
    switch = "on" if options.flash_attention else "off"
    return EngineInfo(
        "llama.cpp", ggml.version, "gpu" if options.gpu_layers else "cpu", processor_name(),
        f"flash attention {switch}, K/V in {keys}" + (f" and {values}" if values != keys else ""),
        "weights repacked" if options.repack else "weights as in the file", {}, options.threads,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Context:
    handle: Any
    tap: _Tap

    def evaluate(self, tokens: Sequence[int]) -> None:
        """Evaluate `tokens` behind those that were. Raises what the callback met, or `EngineError`."""
        tap, llama, count = self.tap, self.tap.ggml.llama, len(tokens)
        tap.count = count
        batch = llama.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        for index, token in enumerate(tokens):
            batch.token[index], batch.pos[index], batch.logits[index] = token, tap.position + index, 1
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
        try:
            code = llama.llama_decode(self.handle, batch)
        finally:
            llama.llama_batch_free(batch)
        if tap.raised is not None:
            raise tap.raised
        if code:
            raise EngineError(f"llama.cpp: llama_decode returned {code} for {count} tokens{_logged(tap.ggml)}")

    def forget(self) -> None:
        """Empty the K/V cache and the states of recurrent layers."""
        llama = self.tap.ggml.llama
        llama.llama_memory_clear(llama.llama_get_memory(self.handle), True)
        self.tap.position = 0


@contextmanager
def _context(tap: _Tap, options: LlamaCppOptions, evaluations: Sequence[Evaluation]) -> Iterator[_Context]:
    """A context of llama.cpp with the model, large enough for each of `evaluations`; its tensors go to `tap`."""
    ggml, llama, path = tap.ggml, tap.ggml.llama, tap.model.path
    ggml.errors.clear()
    of_model = llama.llama_model_default_params()
    of_model.n_gpu_layers, of_model.use_extra_bufts = options.gpu_layers, options.repack
    loaded = llama.llama_model_load_from_file(str(path).encode(), of_model)
    if not loaded:
        raise EngineError(f"{path}: llama.cpp does not load it{_logged(ggml)}")
    try:
        handle = llama.llama_init_from_model(loaded, _parameters(tap, options, evaluations))
        if not handle:
            raise EngineError(f"{path}: llama.cpp cannot make a context{_logged(ggml)}")
        try:
            yield _Context(handle, tap)
        finally:
            llama.llama_free(handle)
    finally:
        llama.llama_model_free(loaded)


def _parameters(tap: _Tap, options: LlamaCppOptions, evaluations: Sequence[Evaluation]) -> Any:
    llama = tap.ggml.llama
    found = llama.llama_context_default_params()
    found.n_ctx = max(len(evaluation.tokens) for evaluation in evaluations)
    found.n_batch = found.n_ubatch = max(_ENOUGH, *(evaluation.prefill for evaluation in evaluations))
    found.n_threads = found.n_threads_batch = options.threads
    found.type_k, found.type_v = (_GGML_TYPES[kv] for kv in options.types)
    found.flash_attn_type = (
        llama.LLAMA_FLASH_ATTN_TYPE_ENABLED if options.flash_attention else llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    # Layers with a window keep all positions: a key's place in the cache is its position.
    found.swa_full = True
    found.cb_eval = tap.callback
    return found


def _logged(ggml: Ggml) -> str:
    """What went wrong first, as llama.cpp logged it."""
    return f": {ggml.errors[0]}" if ggml.errors else ""


def _rehearsed(context: _Context, evaluation: Evaluation) -> frozenset[Node]:
    """The nodes that the graphs of all steps have: one of several tokens may differ from that of one."""
    tap, found = context.tap, []
    for count in {min(step, _ENOUGH) for step in evaluation.steps}:
        tap.seen = set()
        context.evaluate(evaluation.tokens[:count])
        context.forget()
        found.append(tap.whole())
    tap.seen = None
    return frozenset.intersection(*found)


@dataclass(slots=True)
class _Tap:
    """What the scheduler calls for each tensor: first whether it is wanted, then with its values.

    An exception must not go through llama.cpp: it is kept, and no further tensor is asked for.
    """

    ggml: Ggml
    model: Model
    writer: CaptureWriter | None = None
    seen: set[StagePlace] | None = None
    """While it is a set, tensors are noted and not read."""
    position: int = 0
    """Positions before those that are evaluated, `count` of them."""
    count: int = 0
    raised: BaseException | None = None
    callback: Any = None
    _places: StagePlaces = field(init=False)
    _parts: StageParts = field(init=False)

    def __post_init__(self) -> None:
        self._places = StagePlaces.of_model(self.model)
        self._parts = StageParts(self.model.graph, self._put)
        self.callback = self.ggml.llama.ggml_backend_sched_eval_callback(self._called)

    def _called(self, address: int, ask: bool, _: Any) -> bool:
        if self.raised is not None:
            return False
        try:
            pointer = ctypes.cast(address, GgmlTensorPointer)
            places = self._places.find(self.ggml.op(pointer.contents), pointer.contents)
            if self.seen is not None:
                self.seen.update(places)
                return False
            for place in () if ask else places:
                self._take(place, pointer)
        except BaseException as error:  # noqa: BLE001 - raised again as soon as llama.cpp returns
            self.raised = error
            return False
        return bool(places)

    def whole(self) -> frozenset[Node]:
        """The nodes all of whose parts have been seen, and those that are such a one as it is."""
        assert self.seen is not None
        parts = {place.node: place.parts for place in self.seen}
        found = {node for node, count in parts.items() if sum(place.node == node for place in self.seen) == count}
        return frozenset(found.union(*map(self._parts.passed, found)))

    def _take(self, place: StagePlace, pointer: Any) -> None:
        values = self.ggml.values(pointer.contents.src[1] if place.takes_input else pointer)
        scale = partial(float_parameter, pointer.contents, 0)
        self._parts.take(place, values, self.count, self.position + self.count, scale)

    def _put(self, node: Node, values: NDArray[np.float32]) -> None:
        assert self.writer is not None
        self.writer.put(node, self.position, values, None)
