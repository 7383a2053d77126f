"""What llama.cpp's `llama-eval-callback` and `llama-debug --verbose` print: corners of every tensor.

`common/debug.cpp` of ggml-org/llama.cpp: a line `common_debug_cb_eval: NAME = (f32) OP(SOURCE{ne}, SOURCE{ne}}) = {ne}`
(`ggml_debug:` in older ones), then the numbers with four digits after the point: along each of the first three axes the
first and last three where there are more than six, and a `sum` for each of the fourth. Token ids stand below `number of
input tokens = N`, one a line. Which stage a tensor is follows as for `aprtui oracle llamacpp`, from the weight that its
op has, or from its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from aprtui.errors import UnreadableError, UsageError
from aprtui.importing.elements import Floats
from aprtui.importing.import_format import PartChoice
from aprtui.importing.samples import SampledStage, SampleFormat, Samples
from aprtui.model.model import Model
from aprtui.oracle.llamacpp_stages import StagePlace, StagePlaces
from aprtui.trace.graph.ops import BIASES
from aprtui.trace.graph.stage import Node

_HEAD = re.compile(
    r"(?:common_debug_cb_eval|ggml_debug):\s+(?P<name>\S.{0,63}?) = \(\w+\)\s+(?P<op>\w+)"
    r"\((?P<a>.{0,64}?)\{[\d, ]+\}, (?:(?P<b>.{0,64}?)\{[\d, ]+\})?\}\) = \{(?P<ne>\d+(?:, \d+){3})\}"
)
_COUNT = re.compile(r"number of input tokens = (\d+)")
_ID = re.compile(r"\s*(\d+)\s*")
_NUMBER = re.compile(r"-?(?:nan|inf|\d+\.\d+)")
_EDGE = 3
_MOST_BYTES = 1 << 30
_PRECISION = 0.51e-4
"""Half of the last digit, and a little for what is rounded on the way there."""


@dataclass(slots=True)
class _Printed:
    """A tensor as printed: its name, its op, the names of its sources, dimensions, numbers in order."""

    name: str
    op: str
    sources: tuple[str, ...]
    ne: tuple[int, ...]
    numbers: list[float] = field(default_factory=list)

    def corners(self) -> Floats | None:
        """`[i2, i1, i0]` of the corners; None where not all numbers are there, one is beyond float32, or the fourth
        axis has a meaning."""
        shape = [len(_edge(size)) for size in self.ne[2::-1]]
        if self.ne[3] != 1 or len(self.numbers) != int(np.prod(shape)):
            return None
        numbers = np.array(self.numbers, np.float64).reshape(shape)
        if (np.isfinite(numbers) & (np.abs(numbers) > np.finfo(np.float32).max)).any():
            return None
        return numbers.astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Pointer:
    """What `StagePlaces` follows from a tensor to its sources."""

    contents: _Named


@dataclass(frozen=True, slots=True)
class _Named:
    """A tensor of the graph by its name, as `StagePlaces` reads it."""

    name: bytes
    src: tuple[_Pointer, ...] = ()
    view_src: _Pointer | None = None


def _recognises(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            text = file.read(1 << 20).decode(errors="replace")
    except OSError:
        return False
    return _HEAD.search(text) is not None


def _read(path: Path, choice: PartChoice, model: Model | None) -> Samples:
    if model is None:
        raise UsageError(f"{path}: printed tensors: --model says which weights make which stages")
    if path.stat().st_size > _MOST_BYTES:
        raise UnreadableError(f"{path}: larger than {_MOST_BYTES >> 30} GB: print fewer tensors")
    text = path.read_text(errors="replace")
    tokens = _tokens(text)
    if tokens is None:
        raise UnreadableError(f"{path}: no token ids below 'number of input tokens': print all that the tool says")
    places, parts = StagePlaces.of_model(model), dict[Node, dict[int, SampledStage]]()
    for printed in _tensors(text):
        shim = _Named(printed.name.encode(), tuple(_Pointer(_Named(name.encode())) for name in printed.sources))
        for place in places.find(printed.op, shim):
            stage = None if place.takes_input else _sampled(printed, place, model, len(tokens))
            if stage is not None:
                parts.setdefault(place.node, {})[place.part] = stage
    stages = [_together(found) for node, found in parts.items() if len(found) == _parts_of(model, node)]
    return Samples(path, stages, tokens, _edge(len(tokens)), {"engine": "llama.cpp"})


def _tokens(text: str) -> tuple[int, ...] | None:
    match = _COUNT.search(text)
    if match is None:
        return None
    lines = text[match.end() :].lstrip("\r\n").splitlines()[: int(match[1][:9])]
    ids = [_ID.fullmatch(line[-20:]) for line in lines]
    return (
        tuple(int(found[1]) for found in ids if found is not None) if all(ids) and len(ids) == int(match[1]) else None
    )


def _tensors(text: str) -> Iterator[_Printed]:
    printed: _Printed | None = None
    for line in text.splitlines():
        head = _HEAD.search(line) if "_cb_eval:" in line or "ggml_debug:" in line else None
        if head is not None:
            if printed is not None:
                yield printed
            names = tuple(head[name] for name in ("a", "b") if head[name] is not None)
            printed = _Printed(head["name"], head["op"], names, tuple(int(n[:18]) for n in head["ne"].split(", ")))
        elif printed is not None and "sum" not in line and line.lstrip().startswith("["):
            printed.numbers += [float(number) for number in _NUMBER.findall(line)]
    if printed is not None:
        yield printed


def _edge(size: int) -> tuple[int, ...]:
    """The indices along an axis that are printed."""
    return tuple(range(size)) if size <= 2 * _EDGE else (*range(_EDGE), *range(size - _EDGE, size))


def _sampled(printed: _Printed, place: StagePlace, model: Model, count: int) -> SampledStage | None:
    """The corners as rows of tokens, and columns of a stage whose rows are heads, where those are an axis."""
    stage, corners = model.graph[place.node.stage], printed.corners()
    if corners is None or stage.is_attention_map or stage.holds_state:
        return None
    ne0, ne1, ne2, _ = printed.ne
    if ne2 == 1:
        tokens, width, values = ne1, ne0, corners[0]
        columns = np.array(_edge(ne0))
    else:
        tokens, width, values = ne2, ne0 * ne1, corners.reshape(len(corners), -1)
        columns = (np.array(_edge(ne1))[:, None] * ne0 + np.array(_edge(ne0))).reshape(-1)
    if tokens not in (1, count):
        return None
    first, whole = _place_in(model, place, width)
    if whole is None:
        return None
    rows = _edge(tokens) if tokens == count else (count - 1,)
    take = partial(_taken, rows, columns + first, whole, count)
    return SampledStage(place.node, values, np.full(values.shape, _PRECISION, np.float32), take)


def _place_in(model: Model, place: StagePlace, width: int) -> tuple[int, int | None]:
    """The first column of a part in its stage, and the width of that; None where the part is of another width."""
    stage = model.graph[place.node.stage]
    whole = stage.width
    if place.parts == 1:
        return 0, whole if width == whole else None
    widths = [weight.columns if stage.op in BIASES else weight.rows for weight in model.params(place.node)]
    return sum(widths[: place.part]), whole if widths[place.part] == width else None


def _taken(rows: Sequence[int], columns: Floats, whole: int, count: int, values: Floats) -> Floats | None:
    if values.shape[1] != whole:
        return None
    if values.shape[0] == 1:
        return values[:, columns] if tuple(rows) == (count - 1,) else None
    return values[list(rows)][:, columns] if values.shape[0] == count else None


def _parts_of(model: Model, node: Node) -> int:
    params = model.params(node)
    return len(params) if len(model.graph[node.stage].params) > 1 else 1


def _together(found: Mapping[int, SampledStage]) -> SampledStage:
    """The parts of a fused stage side by side."""
    ordered = [found[part] for part in sorted(found)]
    if len(ordered) == 1:
        return ordered[0]

    def take(values: Floats) -> Floats | None:
        taken = [part.take(values) for part in ordered]
        whole = [part for part in taken if part is not None]
        return np.concatenate(whole, 1) if len(whole) == len(taken) else None

    columns = [np.concatenate(arrays, 1) for arrays in zip(*((p.values, p.precision) for p in ordered), strict=True)]
    return SampledStage(ordered[0].node, columns[0], columns[1], take)


FORMAT = SampleFormat(
    "eval-callback", "what llama-eval-callback and llama-debug --verbose print: corners of tensors", _recognises, _read
)
