"""SGLang's dumper: a `.pt` file for each value, whose name has the tags of the value.

`python/sglang/srt/debug_utils/dumper.py` of sgl-project/sglang (`_dump_single`): `DIR/EXP/step=0___rank=0___
dump_index=1___name=NAME___recompute_status=…___layer_id=3.pt`, a dictionary of `value` and `meta`, which repeats the
tags, says what was dumped with it as `dims`, and where the rank stands in its groups (`sglang_parallel_info`,
`megatron_parallel_info`: `tp_rank`, `tp_size`, …). With `non_intrusive_mode="all"` names are
`non_intrusive__MODULE.inputs.0`, `….output`, `….output.1`, and `input_ids`, `positions` and `seq_lens` are values of
their own. A module that layers share has the name that it has in the first one, and the `layer_id` of the one that
called it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from aprtui.errors import UnreadableError
from aprtui.importing.dims import AXES
from aprtui.importing.elements import SourceTensor
from aprtui.importing.formats.ranks import chosen_rank
from aprtui.importing.import_format import ImportFormat, PartChoice, RankNumbers
from aprtui.importing.mapping import TensorMapping
from aprtui.importing.passes import ForwardPass, joined
from aprtui.importing.source import Source
from aprtui.importing.torch_file import load_torch
from aprtui.trace.graph.stage_graph import StageGraph

_FILE = re.compile(r"(?:step|forward_pass_id)=(\d+)___rank=(\d+)___dump_index=(\d+)___name=(.*)\.pt", re.DOTALL)
_LAYER_TAG = re.compile(r"___layer_id=(\d+)(?=___|$)")
_MODULE = re.compile(r"non_intrusive__(.*)\.(inputs|output)(?:\.(\w+))?")
_PLACES = ("sglang_parallel_info", "megatron_parallel_info")
_LAYER = re.compile(r"(?<=layers\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class _Dumped:
    """A file by its name: pass, rank, order, name and layer of the value."""

    path: Path
    step: int
    rank: int
    index: int
    name: str
    layer: int | None


def _dumped(folder: Path) -> list[_Dumped]:
    if not folder.is_dir():
        return []
    found = [entry for child in folder.iterdir() if (entry := _parsed(child)) is not None]
    return sorted(found, key=lambda entry: entry.index)


def _parsed(path: Path) -> _Dumped | None:
    match = _FILE.fullmatch(path.name)
    if match is None:
        return None
    layer = _LAYER_TAG.search(match[4])
    name = match[4].partition("___")[0]
    return _Dumped(path, int(match[1]), int(match[2]), int(match[3]), name, None if layer is None else int(layer[1]))


def _experiment(path: Path) -> Path:
    """The folder of an experiment: `path`, or the only one in it."""
    if _dumped(path):
        return path
    found = [child for child in sorted(path.iterdir()) if child.is_dir() and _dumped(child)]
    if len(found) != 1:
        names = ", ".join(child.name for child in found[:4])
        raise UnreadableError(f"{path}: {len(found)} experiments of SGLang's dumper in it: name one: {names}")
    return found[0]


def _recognises(path: Path) -> bool:
    if not path.is_dir():
        return False
    return bool(_dumped(path)) or any(_dumped(child) for child in path.iterdir() if child.is_dir())


def _read(path: Path, choice: PartChoice, graph: StageGraph | None) -> tuple[Source, TensorMapping]:
    files = _dumped(_experiment(path))
    rank = chosen_rank(path, {entry.rank for entry in files}, choice.rank)
    of_rank = [entry for entry in files if entry.rank == rank]
    named = {name: tensor for entry in of_rank for name, tensor in _as_named(entry)}
    passes, facts = list(_passes(of_rank)), {"engine": "SGLang"}
    if not passes:
        return Source(path, named, facts=facts), TensorMapping(())
    source, mapping = joined(path, passes, choice, graph, facts)
    return replace(source, tensors={**source.tensors, **named}), mapping


def _passes(files: list[_Dumped]) -> Iterator[ForwardPass]:
    for step in sorted({entry.step for entry in files}):
        values: dict[str, SourceTensor] = {}
        ids: dict[str, tuple[int, ...]] = {}
        for entry in (entry for entry in files if entry.step == step):
            tensor = _value(entry)
            if tensor is None:
                continue
            numbers = tensor.integers() if entry.name in ("input_ids", "positions", "seq_lens") else None
            if numbers is not None:
                ids[entry.name] = tuple(int(number) for number in numbers.reshape(-1))
            elif (name := _module_value(entry)) is not None:
                values[name] = tensor
        if values:
            sequences = max(len(ids.get("seq_lens", ())), 1)
            yield ForwardPass(step, values, ids.get("input_ids"), ids.get("positions"), sequences)


def _module_value(entry: _Dumped) -> str | None:
    """The name of what a module took or gave, in the layer that it was called from."""
    match = _MODULE.fullmatch(entry.name)
    if match is None:
        return None
    module = match[1] if entry.layer is None else _LAYER.sub(str(entry.layer), match[1], count=1)
    return f"{module}.{'input' if match[2] == 'inputs' else 'output'}" + (f".{match[3]}" if match[3] else "")


def _as_named(entry: _Dumped) -> Iterator[tuple[str, SourceTensor]]:
    """A value that somebody named, for mappings: `NAME/layer=3/step=0`."""
    tensor = _value(entry) if _MODULE.fullmatch(entry.name) is None else None
    if tensor is not None:
        layer = "" if entry.layer is None else f"/layer={entry.layer}"
        name = f"{entry.name}{layer}/step={entry.step}"
        yield name, replace(tensor, name=name)


def _value(entry: _Dumped) -> SourceTensor | None:
    content = load_torch(entry.path)
    value = content.get("value") if isinstance(content, dict) else None
    if not isinstance(value, SourceTensor):
        return None
    dims = _meta(content).get("dims")
    return replace(value, dims=dims) if isinstance(dims, str) else value


def _meta(content: object) -> Mapping[str, object]:
    meta = content.get("meta") if isinstance(content, dict) else None
    return meta if isinstance(meta, dict) else {}


def _ranks(path: Path) -> RankNumbers:
    """Where each rank stands, by the first file of each."""
    first: dict[int, _Dumped] = {}
    for entry in _dumped(_experiment(path)):
        first.setdefault(entry.rank, entry)
    return {rank: _numbers(_meta(load_torch(entry.path))) for rank, entry in sorted(first.items())}


def _numbers(meta: Mapping[str, object]) -> dict[str, int]:
    found = {}
    for key in _PLACES:
        info = meta.get(key)
        for name, number in info.items() if isinstance(info, dict) else ():
            group = str(name).removesuffix("_rank")
            if group in AXES and group != name and type(number) is int:
                found[group] = number
    return found


FORMAT = ImportFormat(
    "sglang-dumper", "SGLang's dumper: EXP/step=0___rank=0___dump_index=1___name=….pt", _recognises, _read, _ranks
)
