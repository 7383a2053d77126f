"""`capture`: what a PyTorch model computes inside a `with` block, as a capture."""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.capture.cache_argument import cache_in
from aprtui.capture.module_map import (
    PARTS,
    MappedModule,
    MappedStage,
    ModuleMap,
    map_graph,
    mapped_modules,
    stage_node,
)
from aprtui.capture.module_taps import fused_stages, module_taps
from aprtui.capture.torch_values import StageValues, attach, eager_maps
from aprtui.capture.transformers_graph import architecture_of_module, module_graph, named_architecture
from aprtui.errors import UsageError
from aprtui.trace.aprt import write_atomically
from aprtui.trace.capture import COMPLETE, PROVENANCE
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.growing import GrowingCapture
from aprtui.trace.manifest import EngineInfo, FileInfo, Manifest, ModelInfo, unavailable_stages, write_manifest

Array = NDArray[np.float32]
_CAPPED = Node(None, "logit_softcap")
_SHOWN = 8
_LOGITS = Node(None, "lm_head")


@dataclass(slots=True)
class ModuleCapture:
    """A capture that is being made, and made when the `with` block has ended."""

    path: Path
    complete: bool = False
    never_ran: tuple[str, ...] = ()
    """Modules of the map that were not called."""


@contextmanager
def capture(
    model: Any,
    directory: str | Path,
    map: str | ModuleMap | None = None,
    *,
    tokens: Sequence[int] | None = None,
    batch: int = 0,
    overwrite: bool = False,
) -> Iterator[ModuleCapture]:
    """Write what `model`, any `torch.nn.Module`, computes inside the block to `directory`, as a capture.

    `map` is an architecture as GGUF calls it (`llama`, `qwen2`, …; by default that of the class of transformers),
    or says for each module what it has: `{"blocks.{layer}.attn.wo": "attn_out"}` for what comes out, `"in:attention"`
    for what goes in, `"qkv_matmul.q"` for a part of a fused stage, a list of these, or a function of the inputs and the
    output that gives tensors by stages. Passes of one sequence, as of a generation with a K/V cache, are appended to
    one another. `batch` chooses a sequence of several. Token ids are those that the model is called with, or `tokens`.

    What is raised inside leaves a capture that says it is incomplete. Modules that never ran are named by a warning.
    Raises `UsageError` for a map that does not fit, a compiled module, and a second sequence.
    """
    _require_plain(model)
    session = _preset(model, map) if map is None or isinstance(map, str) else _mapped(model, map)
    growing = GrowingCapture(Path(directory), session.graph, overwrite=overwrite)
    made = ModuleCapture(growing.path)

    def take(node: Node, position: int, rows: Array) -> None:
        growing.put(node, position, values.tokens, rows)

    values = StageValues(session.graph, take, batch)
    run = _Run(session, values, batch, None if tokens is None else tuple(tokens))
    try:
        session.write_state(made.path, run, None)
        with ExitStack() as stack:
            for handle in (*run.hooks(), *session.attach(values)):
                stack.callback(handle.remove)
            if session.eager:
                stack.enter_context(eager_maps(model, values))
            yield made
        run.finish()
        session.write_state(made.path, run, growing.finish(values.position))
        made.complete, made.never_ran = True, tuple(name for name in session.modules if name not in run.ran)
    finally:
        growing.close()
    if made.never_ran:
        shown = ", ".join(made.never_ran[:_SHOWN]) + (", …" if len(made.never_ran) > _SHOWN else "")
        warnings.warn(f"{made.path}: not in the capture: modules that never ran: {shown}", stacklevel=3)


@dataclass(frozen=True, slots=True)
class _Session:
    """How a model is captured; `architecture` is empty for a map of the user, whose captures have no manifest."""

    model: Any
    graph: StageGraph
    architecture: str
    modules: tuple[str, ...]
    attach: Callable[[StageValues], Iterable[Any]]

    @property
    def eager(self) -> bool:
        """Whether attention maps can be seen: where transformers computes the attention step by step."""
        kind = getattr(getattr(self.model, "config", None), "_attn_implementation", None)
        return bool(self.architecture) and kind == "eager"

    def write_state(self, path: Path, run: _Run, files: Mapping[str, FileInfo] | None) -> None:
        """Say what the capture is; `files` is None until it is complete."""
        if self.architecture:
            write_manifest(path, self._manifest(run, files))
            return
        state = {
            "model": type(self.model).__name__,
            "engine": f"torch {_torch().__version__}",
            "dtype": _data_type(self.model),
            "tokens": list(run.ids),
            COMPLETE: str(files is not None).lower(),
        }
        write_atomically(path / PROVENANCE, "".join(f"{key}: {value}\n" for key, value in state.items()).encode())

    def _manifest(self, run: _Run, files: Mapping[str, FileInfo] | None) -> Manifest:
        config = self.graph.config
        assert config is not None
        device = next((parameter.device for parameter in self.model.parameters()), "cpu")
        transformers = importlib.import_module("transformers")
        logits = None if files is None else files.get(f"{_LOGITS}.bin")
        name = getattr(self.model.config, "_name_or_path", "") or type(self.model).__name__
        return Manifest(
            model=ModelInfo(Path(name).name, None, self.architecture, None),
            graph=config,
            engine=EngineInfo(
                "transformers", f"{transformers.__version__} (torch {_torch().__version__})",
                str(device).partition(":")[0], str(device), str(self.model.config._attn_implementation),  # noqa: SLF001
                _data_type(self.model), {}, _torch().get_num_threads(),
            ),
            tokens=run.ids,
            positions=tuple(range(len(run.ids))),
            text=None,
            prompt_tokens=run.prefilled,
            prefill_tokens=run.prefilled,
            logits="last" if logits is not None and logits.shape[0] < len(run.ids) else "all",
            files=files or {},
            unavailable={} if files is None else self._unavailable(files),
            complete=files is not None,
            wall_seconds=None if files is None else time.perf_counter() - run.started,
        )  # fmt: skip

    def _unavailable(self, files: Mapping[str, FileInfo]) -> dict[str, str]:
        fused = fused_stages(has_maps=self.eager)
        return unavailable_stages(self.graph, [info.node for info in files.values()], fused)


def _preset(model: Any, name: str | None) -> _Session:
    architecture = architecture_of_module(model) if name is None else named_architecture(name)
    graph = module_graph(model, architecture)
    taps = tuple(module_taps(graph, architecture.transformers_modules))
    modules = tuple(dict.fromkeys(name for tap in taps for name in tap.modules))
    return _Session(model, graph, architecture.name, modules, lambda values: attach(taps, model, values))


def _mapped(model: Any, entries: ModuleMap) -> _Session:
    modules = dict(model.named_modules(remove_duplicate=False))
    found = mapped_modules(entries, modules)
    names = tuple(dict.fromkeys(module.name for module in found))

    def attach_all(values: StageValues) -> Iterator[Any]:
        for module in found:
            yield from _mapped_hooks(modules[module.name], module, values)

    return _Session(model, map_graph(found), "", names, attach_all)


def _mapped_hooks(module: Any, mapped: MappedModule, values: StageValues) -> Iterator[Any]:
    def put(stage: MappedStage, tensor: Any) -> None:
        if stage.part is None:
            values.put(stage.node, tensor)
        else:
            values.put_part(stage.node, tensor, stage.part, len(PARTS))

    def before(_module: Any, args: Any, kwargs: Any) -> None:
        for stage in mapped.stages:
            if stage.takes_input:
                put(stage, _first_tensor((*args, *kwargs.values()), f"{stage.node}: {mapped.name}"))

    def after(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
        for stage in mapped.stages:
            if not stage.takes_input:
                found = output if isinstance(output, tuple | list) else (output,)
                put(stage, _first_tensor(found, f"{stage.node}: {mapped.name}"))
        if mapped.function is not None:
            for name, tensor in mapped.function((*args, *kwargs.values()), output).items():
                values.put(stage_node(name, mapped.layer), tensor)

    yield module.register_forward_pre_hook(before, with_kwargs=True)
    yield module.register_forward_hook(after, with_kwargs=True)


def _first_tensor(values: Iterable[Any], where: str) -> Any:
    found = next((value for value in values if isinstance(value, _torch().Tensor)), None)
    if found is None:
        raise UsageError(f"{where}: there is no tensor: map a function that finds it")
    return found


@dataclass(slots=True)
class _Run:
    """What the model is called with, pass by pass."""

    session: _Session
    values: StageValues
    batch: int
    given: tuple[int, ...] | None
    """Token ids that the user says."""
    seen: list[int] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    ran: set[str] = field(default_factory=set)
    started: float = field(default_factory=time.perf_counter)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(self.seen) if self.given is None else self.given[: sum(self.passes)]

    @property
    def prefilled(self) -> int:
        """Tokens before the passes of one token each that come last; the first pass is none of these."""
        single = sum(1 for _ in takewhile(lambda count: count == 1, reversed(self.passes[1:])))
        return sum(self.passes) - single

    def hooks(self) -> Iterator[Any]:
        model = self.session.model
        yield model.register_forward_pre_hook(self._begin, with_kwargs=True)
        for name in self.session.modules:
            yield model.get_submodule(name).register_forward_hook(partial(self._note, name))
        yield model.register_forward_hook(self._end)

    def _note(self, name: str, *_: Any) -> None:
        self.ran.add(name)

    def _begin(self, _module: Any, args: Any, kwargs: Any) -> None:
        ids, batches, count = self._sequences([*kwargs.items(), *(("", value) for value in args)])
        _require_unpadded(kwargs.get("attention_mask"), self.batch)
        self._require_next(kwargs)
        self.values.begin(batches, count)
        self.passes.append(count)
        if ids is not None:
            self.seen += [int(token) for token in ids[self.batch].tolist()]

    def _sequences(self, arguments: Sequence[tuple[str, Any]]) -> tuple[Any, int, int]:
        """The ids `[batch, tokens]` that the model is called with, if any, and how many sequences and tokens."""
        torch = _torch()
        tensors = [(name, value) for name, value in arguments if isinstance(value, torch.Tensor)]
        whole = [(name, value) for name, value in tensors if value.dtype in (torch.int64, torch.int32)]
        for name, value in sorted(whole, key=lambda pair: pair[0] != "input_ids"):
            if name in ("", "input_ids") and value.ndim in (1, 2):
                ids = value.reshape(-1, value.shape[-1])
                return ids, *ids.shape
        for _, value in tensors:
            if value.ndim == 3 and value.is_floating_point():
                if self.given is None:
                    raise UsageError("the model was called with no token ids: say them with tokens=[…]")
                return None, value.shape[0], value.shape[1]
        raise UsageError("the model was called with neither token ids [batch, tokens] nor embeddings")

    def _require_next(self, kwargs: Mapping[str, Any]) -> None:
        """A model of transformers keeps what came before in a cache that it is called with, `cache` since 5.24."""
        if not self.session.architecture:
            return
        past = cache_in(kwargs)
        before = 0 if past is None else int(past.get_seq_length())
        if before != self.values.position:
            raise UsageError(
                f"the model was called behind {before} tokens, the capture has {self.values.position}: one sequence a "
                "capture, all of it with a K/V cache"
            )

    def _end(self, _module: Any, _inputs: Any, output: Any) -> None:
        if self.session.architecture and _CAPPED in self.session.graph.order:
            self.values.put(_CAPPED, output.logits)
        self.values.end()

    def finish(self) -> None:
        """Raise `UsageError` unless there was a pass, with an id for each token."""
        count = self.values.position
        if not count:
            raise UsageError("the model was not called inside the block: there is nothing to capture")
        if len(self.ids) != count:
            raise UsageError(f"tokens: {len(self.ids)} ids, the model was called with {count} tokens")


def _require_plain(model: Any) -> None:
    """Raise `UsageError` for a model whose modules are not called one by one."""
    torch = _torch()
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"{type(model).__name__}: expected a torch.nn.Module")
    for name, module in model.named_modules():
        compiled = (
            type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None
        )
        if compiled or isinstance(module, torch.jit.ScriptModule):
            how = "torch.compile" if compiled else "torch.jit"
            raise UsageError(
                f"{name or type(model).__name__}: is made by {how}, where no module runs: capture it without"
            )


def _require_unpadded(mask: Any, batch: int) -> None:
    if mask is not None and mask.ndim == 2 and batch < len(mask) and not bool(mask[batch].bool().all()):
        raise UsageError(f"batch={batch}: attention_mask leaves tokens out: capture a sequence without padding")


def _torch() -> Any:
    return importlib.import_module("torch")


def _data_type(model: Any) -> str:
    kind = next((parameter.dtype for parameter in model.parameters()), "")
    return str(kind).removeprefix("torch.")
