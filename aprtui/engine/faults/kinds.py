"""The kinds of faults: what real bug each imitates, where it applies, which parameters it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from aprtui.engine.faults import operations, values
from aprtui.engine.faults.setting import Array, FaultSetting
from aprtui.engine.protocol import NodeCall
from aprtui.model.model import Model
from aprtui.model.weight_types import WeightType
from aprtui.trace.graph import Node, Op, Stage

Compute = Callable[[FaultSetting, NodeCall], Array]
Applies = Callable[[Model, Node, Stage], bool]


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A kind of fault. `parameters` are the names it takes beside layer, stage and kind.

    `scales` says that its `magnitude` is the change at the stage, in relative L2.
    """

    imitates: str
    compute: Compute
    applies: Applies
    parameters: tuple[str, ...] = ()
    scales: bool = False
    recomputes: bool = False
    """Whether the op is computed again, so that what another fault made of its result is lost."""


def _everywhere(model: Model, node: Node, stage: Stage) -> bool:
    return True


def _rows(model: Model, node: Node, stage: Stage) -> bool:
    return not stage.is_attention_map


def _layer_rows(model: Model, node: Node, stage: Stage) -> bool:
    """Stages that are computed for every token, also where few logits are wanted."""
    return not stage.is_attention_map and node.layer is not None


def _ops(*ops: Op) -> Applies:
    return lambda model, node, stage: stage.op in ops


def _heads(model: Model, node: Node, stage: Stage) -> bool:
    """Stages whose channels, or maps, are cut into at least two heads."""
    by_head = stage.op in (Op.ROPE, Op.HEAD_RMS_NORM, Op.ATTEND)
    heads = stage.width // model.config.graph.head_dim if by_head else stage.width
    return (by_head or stage.is_attention_map) and heads > 1


def _kv_heads(model: Model, node: Node, stage: Stage) -> bool:
    return stage.op in (Op.SCORES, Op.ATTEND) and model.config.graph.kv_heads > 1


def _q4_k(model: Model, node: Node, stage: Stage) -> bool:
    return stage.op is Op.MATMUL and any(weight.type is WeightType.Q4_K for weight in model.params(node))


def _with_sibling(model: Model, node: Node, stage: Stage) -> bool:
    return operations.sibling_of(model.graph, node) is not None


def _block(model: Model, node: Node, stage: Stage) -> bool:
    return stage.op is Op.MATMUL and min(model.params(node)[0].rows, model.params(node)[0].columns) >= operations.BLOCK


def _recomputing(imitates: str, compute: Compute, applies: Applies, parameters: tuple[str, ...] = ()) -> FaultKind:
    return FaultKind(imitates, compute, applies, parameters, recomputes=True)


KINDS: Mapping[str, FaultKind] = MappingProxyType(
    {
        "scale": FaultKind("a missing or doubled factor", values.scale, _everywhere, ("magnitude",), scales=True),
        "noise": FaultKind(
            "a race, or memory that is not there", values.noise, _everywhere, ("magnitude", "seed"), scales=True
        ),
        "nan": FaultKind("a division by zero", values.nan, _everywhere, ("token", "channel", "head")),
        "inf": FaultKind("an overflow", values.inf, _everywhere, ("token", "channel", "head")),
        "zero-channel": FaultKind("a loop that ends one channel early", values.zero_channel, _rows, ("channel",)),
        "stale-token": FaultKind("a buffer that is read before it is written", values.stale_token, _layer_rows),
        "fp16-overflow": FaultKind("float16 where float32 is needed", values.fp16_overflow, _rows, ("limit",)),
        "head-swap": FaultKind("heads in another order", values.head_swap, _heads),
        "bias-dropped": _recomputing("a bias that is not added", operations.first_input, _ops(Op.BIAS)),
        "residual-dropped": _recomputing("a residual that is not added", operations.second_input, _ops(Op.ADD)),
        "eps": _recomputing("another epsilon", operations.eps, _ops(Op.RMS_NORM, Op.HEAD_RMS_NORM), ("epsilon",)),
        "rope-interleaved": _recomputing("the other RoPE layout", operations.rope_interleaved, _ops(Op.ROPE)),
        "rope-theta": _recomputing("another RoPE base", operations.rope_theta, _ops(Op.ROPE), ("factor",)),
        "position-off-by-one": _recomputing("positions that start at 1", operations.position_off_by_one, _ops(Op.ROPE)),
        "kv-head-map": _recomputing(
            "query heads that meet another group's K/V head", operations.kv_head_map, _kv_heads
        ),
        "mask-off-by-one": _recomputing("keys < query instead of ≤", operations.mask_off_by_one, _ops(Op.SOFTMAX)),
        "transpose-block": _recomputing(
            "a tile of a weight read along the wrong axis", operations.transpose_block, _block
        ),
        "block-scale": _recomputing("one scale of a Q4_K block unpacked wrongly", operations.block_scale, _q4_k),
        "gate-up-swap": _recomputing("the weights of two products exchanged", operations.gate_up_swap, _with_sibling),
    }
)


def applies(kind: str, model: Model, node: Node) -> bool:
    return KINDS[kind].applies(model, node, model.graph[node.stage])
