"""msProbe's dumps of modules: `stepN/rankN/dump.json` and `dump_tensor_data/*.pt`.

`docs/source/developer_guide/performance_and_debug/msprobe_guide.md` of vllm-project/vllm-ascend has the layout. Files
are named `Module.{module}.{class}.forward.{call}.{input|output}.{argument}.pt`, or `….kwargs.{name}.pt`; lists number
on, as `input.1.0`. A list of models puts its index first (`Module.0.…`), MindSpore writes `Cell.….npy`. `rank` without
a number is the only process there is; outside torch.distributed a process is `proc` and its id (msProbe 26.2).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from aprtui.errors import UnreadableError
from aprtui.importing.elements import SourceTensor
from aprtui.importing.formats.ranks import one_rank, ranks_in, unplaced
from aprtui.importing.import_format import ImportFormat, PartChoice, RankNumbers
from aprtui.importing.mapping import TensorMapping
from aprtui.importing.passes import ForwardPass, joined
from aprtui.importing.source import READERS, Source
from aprtui.trace.graph.stage_graph import StageGraph

_STEP = re.compile(r"step(\d+)")
_RANK = re.compile(r"(?:rank|proc)(\d*)")
_FILE = re.compile(
    r"(?:Module|Cell)\.(?:\d+\.)?(?:network\.)?(.+)\.[^.]+\.forward\.(\d+)\.(input|output|kwargs)\.([\w.]+)\.(?:pt|npy)"
)
_DATA = "dump_tensor_data"


def _recognises(path: Path) -> bool:
    return any(_is_rank(folder) for folder in _candidates(path))


def _is_rank(folder: Path) -> bool:
    return (folder / "dump.json").is_file() and (folder / _DATA).is_dir()


def _candidates(path: Path) -> Iterator[Path]:
    yield path
    yield from ranks_in(path, _RANK).values()
    for step in ranks_in(path, _STEP).values():
        yield from ranks_in(step, _RANK).values()


def _read(path: Path, choice: PartChoice, graph: StageGraph | None) -> tuple[Source, TensorMapping]:
    steps = ranks_in(path, _STEP) or {0: path}
    passes = [
        entry
        for number, folder in sorted(steps.items())
        for entry in _passes(folder if _is_rank(folder) else one_rank(folder, _RANK, choice.rank), number)
    ]
    if not passes:
        raise UnreadableError(f"{path}: no module was dumped: level L0 or mix of msProbe does, with task tensor")
    return joined(path, passes, choice, graph, {"engine": "msProbe"})


def _ranks(path: Path) -> RankNumbers:
    folders = (path, *ranks_in(path, _STEP).values())
    return unplaced(sorted({rank for folder in folders for rank in ranks_in(folder, _RANK)}))


def _passes(folder: Path, step: int) -> Iterator[ForwardPass]:
    """The passes of a step: a module that was called again is one of the next."""
    calls: dict[int, dict[str, SourceTensor]] = defaultdict(dict)
    for file in sorted((folder / _DATA).iterdir()):
        match = _FILE.fullmatch(file.name)
        if match is None or file.suffix not in READERS:
            continue
        kind = "input" if match[3] == "kwargs" else match[3]
        for name, tensor in READERS[file.suffix](file).items():
            full = ".".join(part for part in (match[1], kind, match[4], name) if part)
            calls[int(match[2])][full] = replace(tensor, name=full)
    for call, values in sorted(calls.items()):
        ids = _ids(values)
        yield ForwardPass(step + call if len(calls) > 1 else step, values, *(ids or (None,)))


def _ids(values: dict[str, SourceTensor]) -> tuple[tuple[int, ...], None, int] | None:
    """Ids of the tokens, that their positions are not known, and of how many sequences they are."""
    tensor = values.get("model.embed_tokens.input.0")
    numbers = None if tensor is None else tensor.integers()
    if numbers is None:
        return None
    return tuple(int(number) for number in numbers.reshape(-1)), None, numbers.shape[0] if numbers.ndim == 2 else 1


FORMAT = ImportFormat(
    "msprobe", "msProbe (Ascend): stepN/rankN/dump.json with dump_tensor_data/*.pt", _recognises, _read, _ranks
)
