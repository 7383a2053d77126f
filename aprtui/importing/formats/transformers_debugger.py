"""The model debugger of transformers: `model_addition_debugger_context(model, debug_path=…, use_repr=False)`.

`src/transformers/model_debugging_utils.py` writes `CLASS_debug_tree_FULL_TENSORS.json`, and with `use_repr=False` a
file for each tensor: `CLASS.MODULE_inputs_args_0.safetensors`, `…_inputs_kwargs_NAME…`, `…_outputs…`, with the number
of the element behind it where there are several, key `data`. The files of all layers are there, whatever
`do_prune_layers` takes out of the JSON, so the JSON is not read. With `use_repr=True`, which is usual, the JSON has
printed numbers of five digits: too few to be judged by, and refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from aprtui.errors import UnreadableError
from aprtui.importing.elements import SourceTensor
from aprtui.importing.import_format import ImportFormat, PartChoice
from aprtui.importing.mapping import TensorMapping
from aprtui.importing.passes import ForwardPass, joined
from aprtui.importing.safetensors_file import read_safetensors
from aprtui.importing.source import Source
from aprtui.trace.graph.stage_graph import StageGraph

_TREE = "_debug_tree_FULL_TENSORS.json"
_FILE = re.compile(r"([A-Za-z0-9]+)(?:\.(.+?))?_(inputs_args|inputs_kwargs|outputs)(?:_(\w+))?\.safetensors")


def _recognises(path: Path) -> bool:
    return path.is_dir() and any(child.name.endswith(_TREE) for child in path.iterdir())


def _read(path: Path, choice: PartChoice, graph: StageGraph | None) -> tuple[Source, TensorMapping]:
    values = dict(_values(path))
    if not values:
        raise UnreadableError(
            f"{path}: only printed numbers of five digits, too few to judge by: dump again with use_repr=False"
        )
    ids = next((values[name] for name in (".input.input_ids", ".input.0") if name in values), None)
    numbers = None if ids is None else ids.integers()
    known = None if numbers is None else tuple(int(number) for number in numbers.reshape(-1))
    sequences = 1 if numbers is None or numbers.ndim < 2 else numbers.shape[0]
    names = [child.name for child in path.iterdir() if child.name.endswith(_TREE)]
    facts = {"engine": "transformers", "class": min(names).removesuffix(_TREE)}
    return joined(path, [ForwardPass(0, values, known, None, sequences)], choice, graph, facts)


def _values(path: Path) -> Iterator[tuple[str, SourceTensor]]:
    for file in sorted(path.iterdir()):
        match = _FILE.fullmatch(file.name)
        if match is None:
            continue
        tensor = read_safetensors(file).get("data")
        if tensor is None:
            raise UnreadableError(f"{file}: has no tensor named data: not a file of transformers' debugger")
        kind = "output" if match[3] == "outputs" else "input"
        name = f"{match[2] or ''}.{kind}" + (f".{match[4]}" if match[4] else "")
        yield name, replace(tensor, name=name)


FORMAT = ImportFormat(
    "transformers-debugger", "transformers' model_addition_debugger_context(…, use_repr=False)", _recognises, _read
)
