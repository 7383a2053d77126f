"""Recording what PyTorch executes: every aten op that its dispatcher runs for a model of transformers."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aprtui.capture.cache_argument import cache_in, called_behind
from aprtui.errors import UsageError
from aprtui.oracle.transformers_model import AttentionKind, DataType, libraries
from aprtui.progress import Progress
from aprtui.recordings.format import (
    OpGraph,
    OpNode,
    OpSet,
    RecordedEngine,
    RecordedModel,
    RecordingHeader,
    Root,
    RootKind,
    TensorView,
)
from aprtui.recordings.memory import state_digest
from aprtui.recordings.ops.aten import SOURCE, type_name
from aprtui.recordings.reading import extent
from aprtui.recordings.recorders.modules import LoadedModule, load_module
from aprtui.recordings.writing import RecordingWriter, require_free


@dataclass(frozen=True, slots=True)
class TorchRequest:
    """Tokens that are evaluated: the first `prefill` at once (all where it is None), the rest one by one. `stages` are
    those that the recording is to state."""

    tokens: Sequence[int]
    text: str | None
    prefill: int | None = None
    kind: DataType = DataType.FLOAT32
    attention: AttentionKind = AttentionKind.EAGER
    threads: int | None = None
    stages: Mapping[str, str] = field(default_factory=dict)


def record_torch(
    path: Path, request: TorchRequest, directory: Path, progress: Progress, *, overwrite: bool = False
) -> RecordingHeader:
    """Run the model at `path` by transformers and write every aten op that is executed to `directory`.

    Raises `UsageError` for a request that cannot be met, `UnreadableError` for a model that cannot be loaded,
    `EngineError` where torch or transformers is missing.
    """
    count = len(request.tokens)
    if not count:
        raise UsageError("the prompt has no tokens: give a longer one")
    prefill = count if request.prefill is None else request.prefill
    if not 1 <= prefill <= count:
        raise UsageError(f"--decode-from {prefill}: the prompt has {count} tokens: use 1 … {count}")
    require_free(directory, overwrite)
    progress("loading", 0, 1)
    loaded = load_module(path, request.kind, request.attention, request.threads)
    _require_tokens(loaded.module, request.tokens)
    settings = {"dtype": str(request.kind), "attention": str(request.attention)}
    header = RecordingHeader(
        RecordedEngine("transformers", loaded.version, "torch", settings), OpSet.ATEN, tuple(request.tokens),
        RecordedModel(str(path.resolve()), loaded.sha256), request.text, stages=request.stages,
    )  # fmt: skip
    writer = RecordingWriter(directory, header, overwrite=overwrite)
    try:
        _evaluate(loaded, writer, request.tokens, prefill, progress)
        return writer.finish()
    finally:
        writer.close()


def named_storages(module: Any) -> dict[str, Any]:
    """The storages of parameters and buffers by the first name that each has, as recordings name weights."""
    found: dict[int, tuple[str, Any]] = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        storage = tensor.untyped_storage()
        found.setdefault(storage.data_ptr(), (name, storage))
    return dict(found.values())


def _evaluate(
    loaded: LoadedModule, writer: RecordingWriter, tokens: Sequence[int], prefill: int, progress: Progress
) -> None:
    torch, past = libraries()[0], loaded.cache
    position, reference = 0, importlib.import_module("torch.multiprocessing.reductions").StorageWeakRef
    weights = {storage.data_ptr(): name for name, storage in named_storages(loaded.module).items()}
    taker: _AtenTaker | None = None
    kept: list[Any] = []
    with torch.no_grad():
        for count in (prefill, *[1] * (len(tokens) - prefill)):
            progress("recording", position, len(tokens))
            ids = torch.tensor([list(tokens[position : position + count])])
            taker = _AtenTaker(torch, reference, writer, weights, taker.root_ids if taker else {}, kept)
            with taker.recording(loaded.module):
                past = cache_in(called_behind(loaded.module, ids, past))
            writer.add(taker.graph("prefill" if position == 0 else "decode", position, count))
            position += count


def _require_tokens(module: Any, tokens: Sequence[int]) -> None:
    size = int(module.get_input_embeddings().weight.shape[0])
    beyond = [token for token in tokens if not 0 <= token < size]
    if beyond:
        raise UsageError(f"--tokens: {beyond[0]} is not in the vocabulary: ids are 0 … {size - 1}")


@dataclass(slots=True)
class _AtenTaker:
    """The graph of one pass. `weights` are names by where their storages lie."""

    torch: Any
    reference: Any
    """`StorageWeakRef` of torch."""
    writer: RecordingWriter
    weights: dict[int, str]
    earlier: dict[int, int]
    """The roots of the graph before."""
    kept: list[Any]
    """Weak references to storages: an address is not used again while there is one."""
    root_ids: dict[int, int] = field(default_factory=dict)
    _module: str = ""
    _roots: list[Root] = field(default_factory=list)
    _tensors: list[TensorView] = field(default_factory=list)
    _nodes: list[OpNode] = field(default_factory=list)

    def graph(self, label: str, position: int, count: int) -> OpGraph:
        return OpGraph(label, position, count, tuple(self._roots), tuple(self._tensors), tuple(self._nodes))

    @contextmanager
    def recording(self, module: Any) -> Iterator[None]:
        """Take down what is executed meanwhile; nodes get the path of the module that they run in."""
        dispatch = importlib.import_module("torch.utils._python_dispatch")
        taker, handles, within = self, [], list[str]()

        class Mode(dispatch.TorchDispatchMode):  # type: ignore[name-defined, misc]
            def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                return taker.executed(function, args, kwargs or {})

        def enter(name: str) -> Any:
            def hook(*_: Any) -> None:
                within.append(name)
                taker._module = name

            return hook

        def leave(*_: Any) -> None:
            within.pop()
            taker._module = within[-1] if within else ""

        for name, part in module.named_modules():
            handles += [part.register_forward_pre_hook(enter(name)), part.register_forward_hook(leave)]
        try:
            with Mode():
                yield
        finally:
            for handle in handles:
                handle.remove()

    def executed(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Run an op, and take it down where it computes something."""
        sources: list[int | None] = []
        params = {"args": self._encoded(list(args), sources), "kwargs": self._encoded(dict(kwargs), sources)}
        given = {self._tensors[index].root for index in sources if index is not None}
        result = function(*args, **kwargs)
        outputs = [value for value in _leaves(result) if isinstance(value, self.torch.Tensor)]
        mutable = function._schema.is_mutable  # noqa: SLF001 - torch has no other way to tell
        if not outputs or "empty" in str(function):
            return result
        roots = [self._root(output, computed=True) for output in outputs]
        if not mutable and all(root in given for root in roots):
            return result  # a view
        views = [self._view(output, root) for output, root in zip(outputs, roots, strict=True)]
        blobs = tuple(self.writer.blob(self._bytes(output, view)) for output, view in zip(outputs, views, strict=True))
        self._nodes.append(
            OpNode(str(function), tuple(sources), tuple(views), blobs, self._module, params, str(outputs[0].device))
        )
        return result

    def _encoded(self, value: Any, sources: list[int | None]) -> Any:
        """An argument as JSON has it: a tensor as the number of the source that it is, a type or device as text."""
        if isinstance(value, self.torch.Tensor):
            sources.append(self._view(value, self._root(value)))
            return {SOURCE: len(sources) - 1}
        if isinstance(value, list | tuple):
            return [self._encoded(entry, sources) for entry in value]
        if isinstance(value, dict):
            return {key: self._encoded(entry, sources) for key, entry in value.items()}
        return value if isinstance(value, bool | int | float | str) or value is None else {"constant": str(value)}

    def _view(self, tensor: Any, root: int) -> int:
        kind = type_name(tensor.dtype)
        size = tensor.element_size()
        strides = tuple(size * step for step in tensor.stride())
        self._tensors.append(TensorView(root, size * tensor.storage_offset(), tuple(tensor.shape), strides, kind))
        return len(self._tensors) - 1

    def _root(self, tensor: Any, computed: bool = False) -> int:
        """The storage of a tensor. One that no op has computed is a weight, or taken down as it is."""
        storage = tensor.untyped_storage()
        reference = self.reference(storage)
        if reference.cdata in self.root_ids:
            return self.root_ids[reference.cdata]
        self.kept.append(reference)
        number = self.root_ids[reference.cdata] = len(self._roots)
        weight = self.weights.get(storage.data_ptr())
        root = Root(RootKind.SCRATCH, storage.nbytes())
        if weight is not None:
            root = Root(RootKind.WEIGHT, storage.nbytes(), weight)
        elif not computed:
            data = self._storage_bytes(tensor, 0, storage.nbytes())
            if reference.cdata in self.earlier:
                carried = self.earlier[reference.cdata]
                root = Root(RootKind.STATE, storage.nbytes(), carried=carried, digest=state_digest(data))
            else:
                root = Root(RootKind.INPUT, storage.nbytes(), blob=self.writer.blob(data))
        self._roots.append(root)
        return number

    def _bytes(self, tensor: Any, view: int) -> bytes:
        found = self._tensors[view]
        return self._storage_bytes(tensor, found.offset, extent(found))

    def _storage_bytes(self, tensor: Any, offset: int, size: int) -> bytes:
        torch = self.torch
        data = torch.empty(0, dtype=torch.uint8, device=tensor.device)
        data.set_(tensor.untyped_storage(), offset, (size,), (1,))
        return np.ascontiguousarray(data.cpu().numpy()).tobytes()


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _leaves(entry)
    else:
        yield value
