"""From the dims of a stage to the axes of what its ranks hold, held against the widths that the model has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from aprtui.errors import UsageError
from aprtui.importing.dims import ONE, Dim, Dims, Sharing
from aprtui.importing.ranks.gather import SharedAxis, part_widths, shared_axis
from aprtui.trace.graph.ops import Part
from aprtui.trace.graph.stage import Node, Stage
from aprtui.trace.graph.stage_graph import StageGraph

TOKENS = ("t", "s")
"""The axes that count tokens."""
_BATCH = "b"
_FUSED = {
    **dict.fromkeys(("qkv_matmul", "qkv_bias"), (Part.Q, Part.K, Part.V)),
    **dict.fromkeys(
        ("linear_attn_qkv_mixed", "conv_output_raw", "conv_output_silu"), (Part.LINEAR_Q, Part.LINEAR_K, Part.LINEAR_V)
    ),
}
"""The parts of stages that are several matrices side by side."""


def fused_parts(stage: Stage) -> tuple[Part, ...]:
    """The matrices that lie side by side in a stage; none where it is one."""
    return _FUSED.get(stage.name, ())


def stage_axes(
    node: Node, dims: Dims, graph: StageGraph, sizes: Mapping[str, int], shape: Sequence[int], where: str
) -> list[SharedAxis]:
    """The shared axes of arrays of `shape` that ranks hold. Raises `UsageError` where dims and widths do not agree."""
    stage = graph[node.stage]
    named = [dim for dim in dims.dims if dim.names not in ((ONE,), (_BATCH,))]
    if any(dim.groups for dim in dims.dims if dim.names == (_BATCH,)):
        raise UsageError(f"{where}: dims {dims.text!r}: the batch is shared: choose one sequence with --sequence")
    if stage.is_attention_map:
        if len(named) != 3 or any(dim.side_by_side for dim in named):
            raise UsageError(f"{where}: dims {dims.text!r}: a map has three axes: as h[tp] q k")
        axes = [shared_axis(dim, place, sizes) for place, dim in enumerate(named)]
        return [_fitted(node, axes[0], stage.width, shape[0], graph, sizes, where), *axes[1:]]
    tokens = [dim for dim in named if dim.names[0] in TOKENS]
    channels = [dim for dim in named if dim.names[0] not in TOKENS]
    if len(tokens) > 1 or not channels:
        raise UsageError(f"{where}: dims {dims.text!r}: expected tokens (t or s) and channels: as t h[tp]")
    rows = [shared_axis(tokens[0], 0, sizes)] if tokens else []
    return [*rows, _channels(node, dims, channels, graph, sizes, shape[-1], where)]


def _channels(
    node: Node, dims: Dims, channels: Sequence[Dim], graph: StageGraph, sizes: Mapping[str, int], own: int, where: str
) -> SharedAxis:
    """The axis of channels, which several dims may make together."""
    stage = graph[node.stage]
    groups = tuple(group for dim in channels for group in shared_axis(dim, 1, sizes).groups)
    shared = [place for place, dim in enumerate(channels) if set(dim.parts) & set(groups)]
    if len(shared) > 1:
        raise UsageError(f"{where}: dims {dims.text!r}: two axes of the channels are shared: that is not supported")
    axis = SharedAxis(1, groups)
    if not shared:
        return axis
    dim = channels[shared[0]]
    if dim.side_by_side:
        return _side_by_side(node, axis, dim, dims, graph, sizes, own, where)
    if fused_parts(stage):
        raise UsageError(
            f'{where}: dims {dims.text!r}: {node.stage} is Q, K and V side by side: write "t (q+k+v)[tp]" where each '
            "rank has its heads of all three, as in vLLM, SGLang and Megatron"
        )
    if shared[0]:
        inner = _inner(stage, graph, shared[0])
        if inner is None or own % inner:
            raise UsageError(f"{where}: dims {dims.text!r}: what is before the shared axis is not known: give --model")
        return replace(axis, inner=inner)
    return _fitted(node, axis, stage.width, own, graph, sizes, where)


def _inner(stage: Stage, graph: StageGraph, place: int) -> int | None:
    """How many entries the axes before the shared one have: the experts of a row, or its heads."""
    if place != 1:
        return None
    if stage.chosen > 1:
        return stage.chosen
    return stage.width // stage.head_size if stage.head_size and graph.config is not None else None


def _count(axis: SharedAxis, sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[group.name] for group in axis.groups if group.sharing is not Sharing.PARTIAL)


def _side_by_side(
    node: Node, axis: SharedAxis, dim: Dim, dims: Dims, graph: StageGraph, sizes: Mapping[str, int], own: int,
    where: str,
) -> SharedAxis:  # fmt: skip
    parts, config, count = fused_parts(graph[node.stage]), graph.config, _count(axis, sizes)
    if len(parts) != len(dim.names):
        raise UsageError(f"{where}: dims {dims.text!r}: {node.stage} is not {len(dim.names)} matrices side by side")
    if config is None:
        raise UsageError(f"{where}: how wide Q, K and V are is not known: give --model")
    ends = [config.part(part).indices(graph[node.stage].width) for part in parts]
    widths = tuple(end - first for first, end, _ in ends)
    if len(dim.parts) > 1 or part_widths(own, widths, count) is None:
        raise UsageError(
            f"{where}: dims {dims.text!r}: a rank has {own} channels, "
            f"the matrices {' + '.join(map(str, widths))}, {count} ranks: not their parts"
        )
    return replace(axis, parts=widths)


def _fitted(
    node: Node, axis: SharedAxis, width: int, own: int, graph: StageGraph, sizes: Mapping[str, int], where: str
) -> SharedAxis:
    """The axis, as one matrix of which neighbours hold the same where its parts are more than it has in all."""
    count = _count(axis, sizes)
    if (
        graph.config is None
        or own * count == width
        or ((own * count) % width == 0 and _by_expert(graph, node, own * count))
    ):
        return axis
    found = part_widths(own, (width,), count)
    if found is None or sum(group.sharing is not Sharing.PARTIAL for group in axis.groups) > 1:
        raise UsageError(
            f"{where}: {count} ranks have {own} each, {node.stage} of the model has {width}: not its parts"
        )
    return replace(axis, parts=(width,))


def _by_expert(graph: StageGraph, node: Node, whole: int) -> bool:
    """Whether `whole` channels are those of all experts, where the stage has those of the chosen ones."""
    stage, config = graph[node.stage], graph.config
    return stage.chosen > 1 and config is not None and whole == stage.width // stage.chosen * config.experts
