"""SGLang's `--debug-tensor-dump-output-folder`: a `.pt` file for each forward pass.

`python/sglang/srt/debug_utils/tensor_dump_forward_hook.py` of sgl-project/sglang: `TP{t}_PP{p}_Rank{r}_pid{n}/` holds
`Pass00000.pt`, …, each a dictionary from modules that have no modules in them to what they gave: a tensor, or a list of
those that are not None. The hook of the model writes the file before it adds what the whole model gave, so logits of a
pass lie in the next file; it adds `….forward_batch_info.input_ids`, `positions` and `seq_lens`. A module that several
layers share (`rotary_emb`) is hooked under each of its names, and each call writes all of them: they hold what it gave
in the last layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from aprtui.errors import UnreadableError
from aprtui.importing.elements import SourceTensor
from aprtui.importing.formats.ranks import one_rank, ranks_in
from aprtui.importing.import_format import ImportFormat, PartChoice, RankNumbers
from aprtui.importing.mapping import TensorMapping
from aprtui.importing.passes import ForwardPass, joined
from aprtui.importing.source import Source
from aprtui.importing.torch_file import flattened, load_torch
from aprtui.trace.graph.stage_graph import StageGraph

_RANK = re.compile(r"TP\d+_PP\d+_Rank(\d+)_pid\d+")
_PLACE = re.compile(r"TP(\d+)_PP(\d+)_Rank\d+_pid\d+")
_PASS = re.compile(r"Pass(\d{5,})\.pt")
_BATCH = re.compile(r"(?:.*\.)?forward_batch_info\.(input_ids|positions|seq_lens)")
_ROTARY = re.compile(r"model\.layers\.(\d+)\.self_attn\.rotary_emb(\..*)?")
_LATE = ("logits_processor", "lm_head")


def _files(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    matched = ((_PASS.fullmatch(child.name), child) for child in sorted(folder.iterdir()))
    return {int(match[1]): child for match, child in matched if match is not None}


def _recognises(path: Path) -> bool:
    return bool(_files(path)) or any(_files(folder) for folder in ranks_in(path, _RANK).values())


def _read(path: Path, choice: PartChoice, graph: StageGraph | None) -> tuple[Source, TensorMapping]:
    folder = path if _files(path) else one_rank(path, _RANK, choice.rank)
    files = _files(folder)
    if not files:
        raise UnreadableError(f"{folder}: no file is named Pass00000.pt or alike")
    return joined(path, list(_passes(files)), choice, graph, {"engine": "SGLang"})


def _ranks(path: Path) -> RankNumbers:
    found = {}
    for rank, folder in ({} if _files(path) else ranks_in(path, _RANK)).items():
        place = _PLACE.fullmatch(folder.name)
        found[rank] = {} if place is None else {"tp": int(place[1]), "pp": int(place[2])}
    return found


def _passes(files: Mapping[int, Path]) -> Iterator[ForwardPass]:
    loaded = {number: load_torch(file) for number, file in files.items()}
    for number, content in loaded.items():
        if not isinstance(content, dict):
            raise UnreadableError(f"{files[number]}: not a dictionary of modules")
        batch: dict[str, tuple[int, ...]] = {}
        values: dict[str, SourceTensor] = {}
        for module, value in content.items():
            found = _BATCH.fullmatch(str(module))
            if found is not None:
                batch[found[1]] = _whole_numbers(value)
            elif not str(module).startswith(_LATE):
                values |= _outputs(str(module), value)
        after = loaded.get(number + 1)
        for module, value in after.items() if isinstance(after, dict) else ():
            if str(module).startswith(_LATE):
                values |= _outputs(str(module), value)
        yield ForwardPass(
            number, _without_shared(values), batch.get("input_ids"), batch.get("positions"),
            max(len(batch.get("seq_lens", ())), 1),
        )  # fmt: skip


def _outputs(module: str, value: object) -> dict[str, SourceTensor]:
    return dict(flattened(value, f"{module}.output"))


def _whole_numbers(value: object) -> tuple[int, ...]:
    numbers = value.integers() if isinstance(value, SourceTensor) else None
    return () if numbers is None else tuple(int(number) for number in numbers.reshape(-1))


def _without_shared(values: dict[str, SourceTensor]) -> dict[str, SourceTensor]:
    """The values without those of rotary modules of all layers but the last."""
    layers = [int(match[1]) for name in values if (match := _ROTARY.match(name))]
    return {
        name: tensor
        for name, tensor in values.items()
        if (match := _ROTARY.match(name)) is None or int(match[1]) == max(layers)
    }


FORMAT = ImportFormat(
    "sglang-passes",
    "SGLang's --debug-tensor-dump-output-folder: TP0_PP0_Rank0_pid…/Pass00000.pt",
    _recognises,
    _read,
    _ranks,
)
