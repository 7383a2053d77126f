"""Alternatives of what a matrix is made of: rows of its neighbours, rows that begin elsewhere, a type of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui.compare.wording import counted
from aprtui.engine.alternatives.alternative import MOST_VALUES, Alternative, Attempt, distance
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.alternatives.nearest_channels import nearest_channels
from aprtui.engine.rounding import ROUND
from aprtui.engine.weight_rounding import WEIGHT_ROUNDINGS, round_rows
from aprtui.model.model import Model
from aprtui.model.weights import Weight
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node

Wide = NDArray[np.float64]
Places = NDArray[np.intp]

_NEAR = 1e-3
_SAMPLED = 24
_STEP = 32
_ROWS = 512
_FLOAT32 = 4e-6
"""What sums of some thousand terms err by in float32, of a token's root mean square."""
_LEAST_TOKENS = 3
"""Tokens from which the order of rows can be read from their values."""
_FOUR_BITS = "int4_32"
_NAMES: Mapping[str, str] = MappingProxyType(
    {name: way.words for name, way in WEIGHT_ROUNDINGS.items()} | {_FOUR_BITS: "weights in int4, a scale a block of 32"}
)
_INPUTS: Mapping[str, str] = MappingProxyType({"f16": "float16", "bf16": "bfloat16"})


def _siblings(call: StageCall) -> list[Node]:
    """Other matrix products of this layer that read the same, as gate and up do."""
    graph = call.model.graph
    return [
        node for node in graph.nodes
        if node != call.node and node.layer == call.node.layer and graph[node.stage].op is Op.MATMUL
        and graph.inputs(node) == graph.inputs(call.node)
    ]  # fmt: skip


def _products(call: StageCall) -> tuple[list[Node], Wide]:
    """The node and its siblings in execution order, and what all of them make of the input, side by side."""
    order = call.model.graph.order
    nodes = sorted([call.node, *_siblings(call)], key=lambda node: order[node])
    x = call.x.astype(np.float64)
    parts = [_product(x, weight) for node in nodes for weight in call.model.params(node)]
    return nodes, np.concatenate(parts, 1)


def _product(x: Wide, weight: Weight, kept: str = "") -> Wide:
    """In pieces: the head of a large vocabulary is a gigabyte as a whole."""
    parts = []
    for start in range(0, weight.rows, _ROWS):
        rows = _kept(weight, slice(start, min(start + _ROWS, weight.rows)), kept)
        parts.append(x @ rows.astype(np.float64).T)
    return np.concatenate(parts, 1)


def _kept(weight: Weight, rows: slice | list[int], kept: str) -> Array:
    """Some rows of a weight as an engine keeps it."""
    values = weight.dequantize(rows)
    if kept == _FOUR_BITS:
        return _four_bits(values)
    return round_rows(values, weight, kept) if kept else values


def _four_bits(values: Array) -> Array:
    blocks = values.reshape(-1, _STEP)
    scale = np.abs(blocks).max(1, keepdims=True) / np.float32(7)
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.where(scale == 0, np.float32(0), np.rint(blocks / scale))
    return np.asarray(levels * scale, np.float32).reshape(values.shape)


def _rows_of_siblings(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Rows that belong to a product of the same input: gate and up fused, and split in another way."""
    if found is None or len(call.x) < _LEAST_TOKENS or not _siblings(call):
        return
    nodes, own = _products(call)
    chosen = nearest_channels(own, found.astype(np.float64))
    first = next(at for at, node in zip(_starts(call, nodes), nodes, strict=True) if node == call.node)
    if chosen is None or (chosen == first + np.arange(found.shape[1])).all():
        return
    names = " and ".join(node.stage for node in nodes)
    step = np.unique(np.diff(chosen))
    if step.size == 1 and step[0] > 1:
        words = f"rows of {names}, one behind the other, are taken in steps of {step[0]}, from row {chosen[0]} on"
    elif step.size == 1 and step[0] == 1:
        words = f"rows of {names}, one behind the other, are taken from row {chosen[0]} on, not {first}"
    else:
        inside = (chosen >= first) & (chosen < first + found.shape[1])
        words = f"{counted(int((~inside).sum()), 'row')} of {found.shape[1]} are rows of another of {names}"
    yield Attempt(words, partial(_with_rows, chosen), 1 if step.size == 1 else len(chosen) // 4)


def _starts(call: StageCall, nodes: list[Node]) -> list[int]:
    widths = [sum(weight.rows for weight in call.model.params(node)) for node in nodes]
    return [0, *np.cumsum(widths).tolist()][: len(nodes)]


def _with_rows(chosen: Places, call: StageCall) -> Array:
    return np.asarray(_products(call)[1][:, chosen], np.float32)


def _rolled(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Rows that begin some columns late or early, as an offset of some blocks makes them."""
    weights = call.model.params(call.node)
    if found is None or len(weights) != 1 or weights[0].columns % _STEP:
        return
    (weight,) = weights
    rows = np.linspace(1, weight.rows - 2, _SAMPLED).astype(np.intp)
    before, here, behind = (weight.dequantize((rows + step).tolist()).astype(np.float64) for step in (-1, 0, 1))
    x, seen, columns = call.x.astype(np.float64), found[:, rows], weight.columns
    steps = [step for step in range(_STEP - columns, columns, _STEP) if step]

    def error(step: int) -> float:
        joined = np.concatenate([here, behind] if step > 0 else [before, here], 1)
        start = step if step > 0 else columns + step
        return distance(x @ joined[:, start : start + columns].T, seen)

    step = min(steps, key=error)
    if error(step) < _NEAR:
        yield Attempt(
            f"rows are read {abs(step)} columns {'late' if step > 0 else 'early'}: the offset of the matrix is off by "
            f"{counted(abs(step) // _STEP, 'block')} of 32",
            partial(_from_column, step), 1,
        )  # fmt: skip


def _from_column(step: int, call: StageCall) -> Array:
    (matrix,) = call.matrices()
    return call.product([np.roll(matrix.reshape(-1), -step).reshape(matrix.shape)])


def _types(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """Weights that are rounded to a type of their own: that which is nearest on some rows."""
    weights = call.model.params(call.node)
    if found is None or any(weight.columns % _STEP for weight in weights):
        return
    weight, x = weights[0], call.x.astype(np.float64)
    rows = np.linspace(0, weight.rows - 1, _SAMPLED).astype(np.intp).tolist()
    errors = {kept: distance(x @ _kept(weight, rows, kept).astype(np.float64).T, found[:, rows]) for kept in _NAMES}
    kept = min(errors, key=lambda name: errors[name])
    yield Attempt(_NAMES[kept], partial(_in_type, kept))
    for kind, name in _INPUTS.items():
        yield Attempt(f"weights and inputs are {name}", partial(_in_type, kind, inputs=kind))
        exact = _in_type(kind, call, inputs=kind)
        flips = _flips(exact, found, kind)
        yield Attempt(
            f"weights, inputs and results are {name}", partial(_with_flips, kind, flips, found[flips]), int(flips.sum())
        )


def _flips(exact: Array, found: Array, kind: str) -> NDArray[np.bool_]:
    """Results that are so near the middle of two numbers of a type that float32's own error decides between them."""
    rounded = ROUND[kind](exact)
    middle = (rounded.astype(np.float64) + found) / 2
    size = np.sqrt((exact.astype(np.float64) ** 2).mean(1, keepdims=True))
    return np.asarray((rounded != found) & (np.abs(exact - middle) <= _FLOAT32 * size))


def _with_flips(kind: str, flips: NDArray[np.bool_], values: Array, call: StageCall) -> Array:
    out = ROUND[kind](_in_type(kind, call, inputs=kind))
    out[flips] = values
    return out


def _in_type(kept: str, call: StageCall, *, inputs: str = "") -> Array:
    x = ROUND[inputs](call.x) if inputs else call.x
    parts = [_product(x.astype(np.float64), weight, kept) for weight in call.model.params(call.node)]
    return np.concatenate(parts, 1).astype(np.float32)


def _tied(call: StageCall, found: Array | None) -> Iterator[Attempt]:
    """The head is the table of the embedding, or the other way round."""
    entry = next(node for node in call.model.graph.nodes if call.model.graph[node.stage].op is Op.EMBED)
    (own,), (table,) = call.model.params(call.node), call.model.params(entry)
    if table.name != own.name and (table.rows, table.columns) == (own.rows, own.columns):
        yield Attempt(
            "computed with the table of the embedding (token_embd), the model has a head of its own",
            lambda c: _product(c.x.astype(np.float64), table).astype(np.float32),
        )


def _small(model: Model, node: Node) -> bool:
    return all(weight.rows * weight.columns <= MOST_VALUES for weight in model.params(node))


WEIGHT_ALTERNATIVES: tuple[Alternative, ...] = (
    Alternative("tied head", frozenset({"lm_head"}), _tied, "multiply by output.weight where the file has one"),
    Alternative("rows of neighbours", frozenset({Op.MATMUL}), _rows_of_siblings,
                "split a fused matrix where it was joined: halves, not rows in turn", _small),
    Alternative("offset of a matrix", frozenset({Op.MATMUL}), _rolled,
                "begin at the tensor's offset: rows · columns / block size · bytes a block", _small),
    Alternative("type of weights", frozenset({Op.MATMUL}), _types, "state it: --rounding weights=…", _small,
                may_be_meant=True),
)  # fmt: skip
