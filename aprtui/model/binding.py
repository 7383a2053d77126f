"""Tensors of a file bound to the nodes of the stage graph: none missing, none left over, every shape as expected."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from aprtui.errors import UnreadableError
from aprtui.model.gguf_file import TensorEntry
from aprtui.model.header_reader import ROPE_FACTORS
from aprtui.model.model_file import ModelFile
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight, stored_tensor, type_name
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.ops import BIASES, Op, Part, Scope
from aprtui.trace.graph.stage import Node, Stage
from aprtui.trace.graph.stage_graph import StageGraph


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a node: the tensor's name and the shape that the graph expects, `[rows, columns]`.

    Of experts, and of heads that have a matrix each, `rows` counts those of all, as `Weight` does.
    """

    name: str
    rows: int
    columns: int
    experts: int = 1


def parameters(graph: StageGraph, node: Node) -> tuple[Parameter, ...]:
    """The parameters of `node` in the order of its stage's `params`, before any tying."""
    shapes = _shapes(graph, graph[node.stage])
    return tuple(Parameter(name, *shape) for name, shape in zip(parameter_names(graph, node), shapes, strict=True))


def parameter_names(graph: StageGraph, node: Node) -> tuple[str, ...]:
    """The names of the tensors that `node` uses, in the order of its stage's `params`, before any tying."""
    stage = graph[node.stage]
    prefix = f"blk.{node.layer}." if stage.scope is Scope.LAYER else ""
    suffix = ".bias" if stage.op in BIASES else _SUFFIXES.get(stage.op, ".weight")
    return tuple(f"{prefix}{name}{suffix}" for name in stage.params)


_SUFFIXES: Mapping[Op, str] = MappingProxyType({Op.SOFTPLUS: ".bias", Op.DECAY: ""})
"""What stands behind the name of a parameter, where it is no weight."""


def _shapes(graph: StageGraph, stage: Stage) -> Iterator[tuple[int, ...]]:
    config = graph.config
    assert config is not None, "a graph from file names has no parameters"
    for row_count in _row_counts(config, stage):
        match stage.op:
            case Op.EMBED:
                yield config.vocabulary, stage.width
            case Op.MATMUL:
                yield row_count, graph[stage.inputs[0].stage].width
            case Op.EXPERT_MATMUL:
                source = graph[stage.inputs[0].stage]
                yield config.experts * row_count // stage.chosen, source.width // source.chosen, config.experts
            case Op.HEAD_MATMUL:
                yield row_count, graph[stage.inputs[0].stage].head_size, stage.heads
            case Op.EXPERT_BIAS:
                yield config.experts, row_count // stage.chosen
            case Op.HEAD_RMS_NORM:
                yield 1, stage.head_size
            case Op.CONVOLUTION:
                yield row_count, config.conv_kernel
            case _:
                yield 1, row_count


def _row_counts(config: GraphConfig, stage: Stage) -> tuple[int, ...]:
    """Output channels of each parameter; Q, K and V share the channels of a fused stage."""
    if len(stage.params) <= 1:
        return (stage.width,) * len(stage.params)
    fused = (config.part(part) for part in (Part.Q, Part.K, Part.V))
    return tuple(columns.stop - columns.start for columns in fused)


def bind(
    file: ModelFile, graph: StageGraph, tied: Mapping[str, str], drafting: Collection[int] = ()
) -> tuple[dict[str, Weight], dict[Node, tuple[Weight, ...]]]:
    """All weights by tensor name, and the weights of each node that has any.

    `tied` maps tensors that the file may leave out to those that are used in their place. `drafting` are layers of the
    file that only draft tokens: no pass of the model uses them.
    Raises `UnreadableError` for a tensor that is missing, has another shape, an unsupported type or lies outside the
    file, and for a tensor of the file that no node uses.
    """
    assert graph.config is not None, "a graph from file names has no parameters"
    # A hostile layer count must not make a list of that length.
    if graph.layers > len(file.tensors):
        raise UnreadableError(
            f"{file.path}: the metadata say {graph.layers} layers, but the file has {len(file.tensors)} tensors in all"
        )
    drafted = tuple(f"blk.{layer}." for layer in drafting)
    weights: dict[str, Weight] = {}
    bound: dict[Node, tuple[Weight, ...]] = {}
    for node in graph.nodes:
        found = tuple(_weight(file, parameter, tied, weights) for parameter in parameters(graph, node))
        if found:
            bound[node] = found
    for name in file.tensors:
        if name not in weights and name != ROPE_FACTORS and not name.startswith(drafted):
            raise UnreadableError(
                f"{file.path}: tensor {name} has no place in the {graph.config.architecture} graph, "
                "and ignoring it would change the results"
            )
    return weights, bound


def stored_name(file: ModelFile, parameter: Parameter, tied: Mapping[str, str]) -> str:
    return parameter.name if parameter.name in file.tensors else tied.get(parameter.name, parameter.name)


def _weight(file: ModelFile, parameter: Parameter, tied: Mapping[str, str], weights: dict[str, Weight]) -> Weight:
    """The weight of `parameter`, read once and then taken from `weights`, where it has the name of its tensor."""
    name = stored_name(file, parameter, tied)
    if name not in weights:
        if name not in file.tensors:
            raise UnreadableError(
                f"{file.path}: tensor {name} is missing, expected with shape {_text(parameter)}; "
                "convert the model again"
            )
        weights[name] = read_weight(file, file.tensors[name])
    weight = weights[name]
    if (weight.rows, weight.columns, weight.experts) != (parameter.rows, parameter.columns, parameter.experts):
        raise UnreadableError(
            f"{file.path}: tensor {name} has shape {_text(weight)}, expected {_text(parameter)} from the metadata"
        )
    return weight


def read_weight(file: ModelFile, entry: TensorEntry) -> Weight:
    """One tensor of the file as a weight; raises `UnreadableError` for its type, rank or extent."""
    kind = WeightType.numbered(entry.type)
    if kind is None:
        supported = ", ".join(kind.name for kind in WeightType)
        raise UnreadableError(
            f"{file.path}: tensor {entry.name} has the type {type_name(entry.type)}, supported are {supported}"
        )
    experts, *more = entry.dimensions[2:] or (1,)
    if any(extent != 1 for extent in more):
        raise UnreadableError(
            f"{file.path}: tensor {entry.name} has {len(entry.dimensions)} dimensions, expected at most 3"
        )
    stored = stored_tensor(file, entry)
    assert stored is not None, "gguf knows the types that engines compute with"
    return Weight(entry.name, kind, stored.rows, stored.columns, stored.data, experts)


def _text(shape: Parameter | Weight) -> str:
    if shape.experts > 1:
        return f"[{shape.experts}, {shape.rows // shape.experts}, {shape.columns}]"
    return f"[{shape.rows}, {shape.columns}]" if shape.rows > 1 else f"[{shape.columns}]"


def rope_factors(file: ModelFile) -> tuple[float, ...] | None:
    """The values of `rope_freqs.weight`, one for each channel pair of a head, or None where the file has none."""
    entry = file.tensors.get(ROPE_FACTORS)
    if entry is None:
        return None
    weight = read_weight(file, entry)
    if weight.type is not WeightType.F32 or weight.rows != 1:
        raise UnreadableError(f"{file.path}: tensor {ROPE_FACTORS} has shape {_text(weight)}, expected an F32 vector")
    values = weight.dequantize()[0]
    if not np.isfinite(values).all() or (values <= 0).any():
        raise UnreadableError(f"{file.path}: tensor {ROPE_FACTORS} holds values ≤ 0 or not finite")
    return tuple(float(value) for value in values)
