"""Recording what llama.cpp executes, through the eval callback of its scheduler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aprtui.errors import EngineError, UsageError
from aprtui.model.digest import file_digest
from aprtui.model.gguf_file import GgufFile
from aprtui.oracle.ggml import Ggml, load_ggml
from aprtui.progress import Progress
from aprtui.recordings.format import OpSet, RecordedEngine, RecordedModel, RecordingHeader
from aprtui.recordings.recorders.graphs import GraphTaker
from aprtui.recordings.writing import RecordingWriter, require_free

KV_TYPES: Mapping[str, int] = MappingProxyType(
    {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2, "q4_1": 3, "iq4_nl": 20, "q5_0": 6, "q5_1": 7}
)
"""Element types of the K/V cache by their numbers in ggml."""
_FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
_PADDING = 256
"""llama.cpp rounds the cells of its cache up to a multiple of this."""


@dataclass(frozen=True, slots=True)
class LlamaRequest:
    """Tokens that are evaluated, or a text of which llama.cpp makes them: the first `prefill` at once (all where it is
    None), the rest one by one. `stages` are those that the recording is to state."""

    tokens: Sequence[int] | None
    text: str | None
    prefill: int | None = None
    kv: str = "f16"
    flash_attention: str = "off"
    threads: int = 2
    repack: bool = True
    gpu_layers: int = 0
    stages: Mapping[str, str] = field(default_factory=dict)


def record_llamacpp(
    path: Path, request: LlamaRequest, directory: Path, progress: Progress, *, overwrite: bool = False
) -> RecordingHeader:
    """Run the model at `path` by llama.cpp and write every op that it executes to `directory`.

    Raises `UsageError` for a request that cannot be met, `EngineError` where llama.cpp is missing or fails.
    """
    file = GgufFile(path)
    require_free(directory, overwrite)
    ggml = load_ggml()
    with ExitStack() as stack:
        run = stack.enter_context(_opened(ggml, file, request, progress))
        tokens = list(request.tokens) if request.tokens is not None else run.tokenize(request.text or "")
        prefill = _prefill(len(tokens), request.prefill)
        run.require_tokens(tokens)
        header = RecordingHeader(
            RecordedEngine("llama.cpp", ggml.version, "ggml", run.settings()),
            OpSet.GGML, tuple(tokens), RecordedModel(str(path.resolve()), file_digest(*file.paths)), request.text,
            stages=request.stages,
        )  # fmt: skip
        writer = RecordingWriter(directory, header, overwrite=overwrite)
        stack.callback(writer.close)
        run.evaluate(writer, frozenset(file.tensors), tokens, prefill)
        return writer.finish()


def _prefill(count: int, asked: int | None) -> int:
    if not count:
        raise UsageError("the prompt has no tokens: give a longer one")
    if asked is not None and not 1 <= asked <= count:
        raise UsageError(f"--decode-from {asked}: the prompt has {count} tokens: use 1 … {count}")
    return count if asked is None else asked


@dataclass(slots=True)
class _Run:
    """A model and a context of llama.cpp, and the graph that is being taken down."""

    ggml: Ggml
    request: LlamaRequest
    progress: Progress
    model: Any = None
    context: Any = None
    taker: GraphTaker | None = None
    failure: BaseException | None = None

    def callback(self, pointer: int, ask: bool, _data: int | None) -> bool:
        """For each tensor: asked before it is computed, told after. Nothing may be raised through frames of C."""
        if self.taker is None:
            return not ask
        try:
            if ask:
                return self.taker.before(pointer)
            self.taker.after(pointer)
        except BaseException as error:  # noqa: BLE001 - reported by `evaluate`
            self.failure = self.failure or error
            return False
        return True

    @property
    def llama(self) -> Any:
        return self.ggml.llama

    def settings(self) -> dict[str, str]:
        asked = self.request
        return {
            "flash_attention": asked.flash_attention, "kv_cache": asked.kv, "threads": str(asked.threads),
            "repack": "on" if asked.repack else "off", "gpu_layers": str(asked.gpu_layers),
        }  # fmt: skip

    def vocabulary(self) -> Any:
        return self.llama.llama_model_get_vocab(self.model)

    def tokenize(self, text: str) -> list[int]:
        data = text.encode()
        room = (self.llama.llama_token * (len(data) + 16))()
        count = self.llama.llama_tokenize(self.vocabulary(), data, len(data), room, len(room), True, True)
        if count < 0:
            raise EngineError("llama.cpp cannot tokenise the prompt: give ids with --tokens")
        return list(room[:count])

    def require_tokens(self, tokens: Sequence[int]) -> None:
        size = self.llama.llama_vocab_n_tokens(self.vocabulary())
        beyond = [token for token in tokens if not 0 <= token < size]
        if beyond and size:
            raise UsageError(f"--tokens: {beyond[0]} is not in the vocabulary: ids are 0 … {size - 1}")
        cells = self.llama.llama_n_ctx(self.context)
        if len(tokens) > cells:
            raise UsageError(f"{len(tokens)} tokens, the context has room for {cells}: shorten the prompt")

    def evaluate(self, writer: RecordingWriter, weights: frozenset[str], tokens: Sequence[int], prefill: int) -> None:
        """The first `prefill` tokens at once, the rest one by one, each pass a graph."""
        position, carried = 0, dict[tuple[str, int], int]()
        for count in (prefill, *[1] * (len(tokens) - prefill)):
            self.progress("recording", position, len(tokens))
            taker = self.taker = GraphTaker(self.ggml, writer, weights, carried)
            code = self._decode(tokens[position : position + count], position)
            self.taker = None
            if self.failure is not None:
                raise self.failure
            if code:
                raise EngineError(f"llama.cpp could not evaluate the tokens from position {position} on (code {code})")
            writer.add(taker.graph("prefill" if position == 0 else "decode", position, count))
            carried, position = taker.states, position + count

    def _decode(self, tokens: Sequence[int], position: int) -> int:
        batch = self.llama.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for index, token in enumerate(tokens):
                batch.token[index], batch.pos[index] = token, position + index
                batch.n_seq_id[index], batch.seq_id[index][0], batch.logits[index] = 1, 0, 1
            return int(self.llama.llama_decode(self.context, batch))
        finally:
            self.llama.llama_batch_free(batch)


@contextmanager
def _opened(ggml: Ggml, file: GgufFile, request: LlamaRequest, progress: Progress) -> Iterator[_Run]:
    """The model in llama.cpp, with a context for the request."""
    llama, run = ggml.llama, _Run(ggml, request, progress)
    progress("loading", 0, 1)
    options = llama.llama_model_default_params()
    options.n_gpu_layers, options.use_extra_bufts = request.gpu_layers, request.repack
    run.model = llama.llama_model_load_from_file(str(file.path).encode(), options)
    if not run.model:
        raise EngineError(f"{file.path}: llama.cpp cannot load it: {_said(ggml)}")
    try:
        called = llama.ggml_backend_sched_eval_callback(run.callback)
        run.context = llama.llama_init_from_model(run.model, _context(llama, request, called))
        if not run.context:
            raise EngineError(f"{file.path}: llama.cpp made no context: {_said(ggml)}")
        yield run
    finally:
        if run.context:
            llama.llama_free(run.context)
        llama.llama_model_free(run.model)


def _said(ggml: Ggml) -> str:
    """What llama.cpp last logged as an error."""
    return ggml.errors[-1] if ggml.errors else "it does not say why"


def _context(llama: Any, request: LlamaRequest, called: Any) -> Any:
    options = llama.llama_context_default_params()
    # A text has at most as many tokens as bytes, and special ones around.
    most = len(request.tokens) if request.tokens is not None else len((request.text or "").encode()) + 16
    cells = -(-most // _PADDING) * _PADDING
    options.n_ctx = options.n_batch = options.n_ubatch = cells
    options.n_threads = options.n_threads_batch = request.threads
    options.flash_attn_type = _FLASH_ATTENTION[request.flash_attention]
    options.type_k = options.type_v = KV_TYPES[request.kv]
    options.cb_eval = called
    return options
