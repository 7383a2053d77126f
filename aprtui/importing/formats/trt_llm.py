"""TensorRT-LLM's `debug_mode`: a `.pt` file for each tensor that a module takes or gives.

`tensorrt_llm/_torch/debug/debug_hook.py` of NVIDIA/TensorRT-LLM: `rank{N}/` holds files named by the chain of modules
from the first hooked one, each as the number of the call in its parent and its `name` or class, joined by `-`, and
`input.{argument}.pt` or `output.{argument}.pt`: `1.LlamaModel-2.LlamaDecoderLayer-1.RMSNorm-output.2.pt`. The hook
behind a module saves the positional arguments again and then what was given, all as `output`: what bears the name of
an `input` file is an argument, and what a module gave has the names of further arguments, then numbers.

Modules are told by their classes and their order: the layers of a model, two norms in a layer, the first and last
`Linear` of attention and feed-forward block, which are fused as in vLLM.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aprtui.errors import UnreadableError
from aprtui.importing.elements import SourceTensor
from aprtui.importing.formats.ranks import one_rank, ranks_in, unplaced
from aprtui.importing.import_format import ImportFormat, PartChoice
from aprtui.importing.mapping import TensorMapping
from aprtui.importing.passes import ForwardPass, joined
from aprtui.importing.source import Source
from aprtui.importing.torch_file import read_torch
from aprtui.trace.graph.stage_graph import StageGraph

_RANK = re.compile(r"rank(\d+)")
_FILE = re.compile(r"((?:\d+\.\w+)(?:-\d+\.\w+)*)-(input|output)\.(\w+)\.pt")
_STEP = re.compile(r"(\d+)\.(\w+)")

_Chain = tuple[tuple[int, str], ...]
"""Number and class of each module, from the first hooked one on."""


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    chain: _Chain
    is_input: bool
    argument: str


def _files(folder: Path) -> list[_File]:
    if not folder.is_dir():
        return []
    matched = ((_FILE.fullmatch(child.name), child) for child in sorted(folder.iterdir()))
    return [
        _File(child, tuple((int(n), name) for n, name in _STEP.findall(match[1])), match[2] == "input", match[3])
        for match, child in matched
        if match is not None
    ]


def _recognises(path: Path) -> bool:
    return bool(_files(path)) or any(_files(folder) for folder in ranks_in(path, _RANK).values())


def _read(path: Path, choice: PartChoice, graph: StageGraph | None) -> tuple[Source, TensorMapping]:
    files = _files(path) or _files(one_rank(path, _RANK, choice.rank))
    if not files:
        raise UnreadableError(f"{path}: no file is named as TensorRT-LLM names them")
    passes: dict[int, dict[str, SourceTensor]] = defaultdict(dict)
    chains = sorted({file.chain for file in files})
    loops = sorted({chain[0][0] for chain in chains if _is_model(chain[0][1])})
    for chain in chains:
        module = _module(chain, chains)
        loop = max((number for number in loops if number <= chain[0][0]), default=None)
        if module is not None and loop is not None:
            of_module = [file for file in files if file.chain == chain]
            passes[loops.index(loop)].update(_values(module, of_module))
    entries = [ForwardPass(number, values) for number, values in sorted(passes.items())]
    if not entries:
        raise UnreadableError(f"{path}: no modules of a decoder: their classes are not those that are known")
    return joined(path, entries, choice, graph, {"engine": "TensorRT-LLM"})


def _is_model(name: str) -> bool:
    return name.endswith("Model")


def _module(chain: _Chain, chains: Sequence[_Chain]) -> str | None:
    """The name that vLLM and transformers have for a module; None for one that they do not have."""
    names = [name for _, name in chain]
    if len(chain) == 1:
        return "lm_head" if names[0].endswith("LMHead") else None
    if not _is_model(names[0]):
        return None
    if len(chain) == 2 and not names[1].endswith("DecoderLayer"):
        return "model.embed_tokens" if names[1].endswith("Embedding") else "model.norm" if "Norm" in names[1] else None
    layers = _numbers(chains, chain[:1], "DecoderLayer")
    if chain[1][0] not in layers:
        return None
    block = f"model.layers.{layers.index(chain[1][0])}"
    if len(chain) == 2:
        return block
    if len(chain) == 3 and "Norm" in names[2]:
        norms = ("input_layernorm", "post_attention_layernorm")
        place = _numbers(chains, chain[:2], "Norm").index(chain[2][0])
        return f"{block}.{norms[place]}" if place < len(norms) else None
    if len(chain) == 4 and names[3].endswith("Linear"):
        linears = _numbers(chains, chain[:3], "Linear")
        ends = ("qkv_proj", "o_proj") if "Attention" in names[2] else ("gate_up_proj", "down_proj")
        part = "self_attn" if "Attention" in names[2] else "mlp" if "MLP" in names[2] else ""
        if part and len(linears) == len(ends):
            return f"{block}.{part}.{ends[linears.index(chain[3][0])]}"
    return None


def _numbers(chains: Sequence[_Chain], parent: _Chain, kind: str) -> list[int]:
    """The calls of modules of a kind in `parent`, in order."""
    depth = len(parent)
    return sorted({c[depth][0] for c in chains if len(c) > depth and c[:depth] == parent and kind in c[depth][1]})


def _values(module: str, files: Sequence[_File]) -> Iterator[tuple[str, SourceTensor]]:
    inputs = {file.argument: file for file in files if file.is_input}
    given = [file for file in files if not file.is_input and file.argument not in inputs]
    given.sort(key=lambda file: (file.argument.isdecimal(), int(file.argument) if file.argument.isdecimal() else 0))
    ordered = [("input", number, file) for number, file in enumerate(inputs.values())]
    ordered += [("output", number, file) for number, file in enumerate(given)]
    for kind, number, file in ordered:
        for tensor in read_torch(file.path).values():
            name = f"{module}.{kind}.{number if kind == 'output' else file.argument}"
            yield name, replace(tensor, name=name)


FORMAT = ImportFormat(
    "trt-llm",
    "TensorRT-LLM's debug_mode: rankN/1.LlamaModel-2.LlamaDecoderLayer-…-output.….pt",
    _recognises,
    _read,
    lambda path: unplaced(sorted(ranks_in(path, _RANK))),
)
