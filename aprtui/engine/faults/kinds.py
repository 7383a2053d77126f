"""The kinds of faults: what real bug each imitates, where it applies, which parameters it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from aprtui.engine.faults import operations, values
from aprtui.engine.faults.setting import Array, FaultSetting
from aprtui.engine.protocol import NodeCall
from aprtui.model.model import Model
from aprtui.model.weight_types import WeightType
from aprtui.trace.graph.ops import BIASES, RECURRENT_OPS, Op
from aprtui.trace.graph.stage import Node, Stage, TokenMixer

Compute = Callable[[FaultSetting, NodeCall], Array]
Applies = Callable[[Model, Node, Stage], bool]


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A kind of fault: what it `does` to the values of a stage, and the real bug that it `imitates`.

    `parameters` are what it takes beside layer, stage and kind, each with what it is unless it is given; None for one
    that the model decides. `scales` says that its `magnitude` is the change at the stage, in relative L2.
    """

    does: str
    imitates: str
    compute: Compute
    applies: Applies
    parameters: Mapping[str, float | None] = field(default_factory=dict)
    scales: bool = False
    recomputes: bool = False
    """Whether the op is computed again, so that what another fault made of its result is lost."""

    @property
    def sentence(self) -> str:
        """What it does and what it stands for."""
        return f"{self.does}, as with {self.imitates}."

    def filled(self, parameters: Mapping[str, float]) -> Mapping[str, float]:
        """`parameters`, and the defaults of those that are not given."""
        return {name: value for name, value in self.parameters.items() if value is not None} | dict(parameters)


def _everywhere(model: Model, node: Node, stage: Stage) -> bool:
    return not stage.holds_indices


def _rows(model: Model, node: Node, stage: Stage) -> bool:
    return not stage.is_attention_map and not stage.holds_indices


def _layer_rows(model: Model, node: Node, stage: Stage) -> bool:
    """Stages that are computed for every token, also where few logits are wanted."""
    return not stage.is_attention_map and not stage.holds_indices and node.layer is not None


def _ops(*ops: Op) -> Applies:
    return lambda model, node, stage: stage.op in ops


def _turned(model: Model, node: Node, stage: Stage) -> bool:
    return stage.op is Op.ROPE and model.config.graph.has_rope(node.layer)


def _not_turned(model: Model, node: Node, stage: Stage) -> bool:
    return stage.op is Op.ROPE and not model.config.graph.has_rope(node.layer)


def _heads(model: Model, node: Node, stage: Stage) -> bool:
    """Stages whose channels, or maps, are cut into at least two heads."""
    heads = stage.width if stage.is_attention_map else stage.width // (stage.head_size or stage.width)
    return heads > 1


def _carries_state(model: Model, node: Node, stage: Stage) -> bool:
    return stage.op in RECURRENT_OPS


def _chooses_some(model: Model, node: Node, stage: Stage) -> bool:
    """Choices that leave some experts out."""
    return stage.op is Op.CHOOSE_EXPERTS and model.config.graph.experts_used < model.config.graph.experts


def _chooses_groups(model: Model, node: Node, stage: Stage) -> bool:
    return stage.op is Op.CHOOSE_EXPERTS and model.config.graph.expert_groups is not None


def _kv_heads(model: Model, node: Node, stage: Stage) -> bool:
    return stage.op in (Op.SCORES, Op.ATTEND) and model.config.graph.kv_heads > 1


def _q4_k(model: Model, node: Node, stage: Stage) -> bool:
    return stage.op is Op.MATMUL and any(weight.type is WeightType.Q4_K for weight in model.params(node))


def _windowed(model: Model, node: Node, stage: Stage) -> bool:
    return stage.op is Op.SOFTMAX and model.config.graph.window(node.layer) > 0


def _scaled_rope(model: Model, node: Node, stage: Stage) -> bool:
    rope = model.config.rope_of(node.layer)
    return _turned(model, node, stage) and (rope.scale != 1 or rope.factors is not None)


def _magnified(model: Model, node: Node, stage: Stage) -> bool:
    return _turned(model, node, stage) and model.config.rope_of(node.layer).magnitude != 1


def _with_sinks(model: Model, node: Node, stage: Stage) -> bool:
    return stage.op is Op.SOFTMAX and model.config.graph.sinks


def _offset_norm(model: Model, node: Node, stage: Stage) -> bool:
    """Norms trained with 1 + weight: the one behind a recurrence is not."""
    norms = stage.op in (Op.RMS_NORM, Op.HEAD_RMS_NORM) and stage.mixer is not TokenMixer.RECURRENCE
    return norms and model.config.norm_offset


def _with_sibling(model: Model, node: Node, stage: Stage) -> bool:
    return operations.sibling_of(model.graph, node) is not None


def _block(model: Model, node: Node, stage: Stage) -> bool:
    return stage.op is Op.MATMUL and min(model.params(node)[0].rows, model.params(node)[0].columns) >= operations.BLOCK


def _recomputing(does: str, imitates: str, compute: Compute, applies: Applies, **parameters: float | None) -> FaultKind:
    return FaultKind(does, imitates, compute, applies, parameters, recomputes=True)


KINDS: Mapping[str, FaultKind] = MappingProxyType(
    {
        "scale": FaultKind(
            "All values times 1 + magnitude", "a missing or doubled factor",
            values.scale, _everywhere, {"magnitude": 1.0}, scales=True,
        ),
        "noise": FaultKind(
            "Random numbers are added", "a race, or memory that is not there",
            values.noise, _everywhere, {"magnitude": 0.1, "seed": 0}, scales=True,
        ),
        "nan": FaultKind(
            "One value becomes NaN", "a division by zero",
            values.nan, _everywhere, {"token": None, "channel": 0, "head": 0},
        ),
        "inf": FaultKind(
            "One value becomes Inf", "an overflow", values.inf, _everywhere, {"token": None, "channel": 0, "head": 0}
        ),
        "zero-channel": FaultKind(
            "One channel is 0 for all tokens", "a loop that ends one channel early",
            values.zero_channel, _rows, {"channel": 0},
        ),
        "zero-tail": FaultKind(
            "The last channels are 0", "a loop over tiles that ends before the last one",
            values.zero_tail, _rows, {"count": 8},
        ),
        "stale-row": FaultKind(
            "One token gets the values of the one before", "a row of a batch that is not written",
            values.stale_row, _layer_rows, {"token": 1},
        ),
        "stale-token": FaultKind(
            "Each token gets the values of the one before", "a buffer that is read before it is written",
            values.stale_token, _layer_rows,
        ),
        "fp16-overflow": FaultKind(
            "Values go through float16 and are Inf beyond the limit", "float16 where float32 is needed",
            values.fp16_overflow, _rows, {"limit": 65504},
        ),
        "head-swap": FaultKind(
            "The first two heads are in each other's place", "heads in another order", values.head_swap, _heads
        ),
        "bias-dropped": _recomputing(
            "The bias is not added", "a tensor that is not loaded", operations.first_input, _ops(*BIASES)
        ),
        "residual-dropped": _recomputing(
            "The residual is not added", "a forgotten skip connection", operations.second_input, _ops(Op.ADD)
        ),
        "eps": _recomputing(
            "Normalised with a larger epsilon", "an epsilon that is not read from the file",
            operations.eps, _ops(Op.RMS_NORM, Op.HEAD_RMS_NORM), epsilon=None,
        ),
        "rope-interleaved": _recomputing(
            "RoPE pairs other channels", "the RoPE layout of another family of models",
            operations.rope_interleaved, _turned,
        ),
        "rope-theta": _recomputing(
            "RoPE with its base times factor", "a RoPE base that is not read from the file",
            operations.rope_theta, _turned, factor=2,
        ),
        "rope-unscaled": _recomputing(
            "RoPE with all frequencies as they are", "a scaling of RoPE that is not read from the file",
            operations.rope_unscaled, _scaled_rope,
        ),
        "rope-magnitude-dropped": _recomputing(
            "RoPE turns without making larger", "YaRN without its magnitude",
            operations.rope_magnitude_dropped, _magnified,
        ),
        "position-off-by-one": _recomputing(
            "RoPE turns as one position later", "positions that start at 1",
            operations.position_off_by_one, _turned,
        ),
        "rope-everywhere": _recomputing(
            "RoPE in a layer that has none", "a period of such layers that is not known or off by one",
            operations.rope_everywhere, _not_turned,
        ),
        "kv-head-map": _recomputing(
            "Query heads meet the K/V head of the next group", "a wrong map of heads to groups",
            operations.kv_head_map, _kv_heads,
        ),
        "mask-off-by-one": _recomputing(
            "A query does not see its own key", "a mask of keys < query instead of ≤",
            operations.mask_off_by_one, _ops(Op.SOFTMAX),
        ),
        "temperature-dropped": _recomputing(
            "Queries are not scaled by their position", "a temperature of the attention that is not read from the file",
            operations.first_input, _ops(Op.POSITION_SCALE),
        ),
        "window-off-by-one": _recomputing(
            "A query sees one key more than its window has", "a window of query − key ≤ n instead of <",
            operations.window_off_by_one, _windowed,
        ),
        "sink-dropped": _recomputing(
            "The sinks are left out of the softmax", "a tensor that is not loaded, or attention without sinks",
            operations.sink_dropped, _with_sinks,
        ),
        "softcap-dropped": _recomputing(
            "The softcap is left out", "a softcap that is not read from the file",
            operations.first_input, _ops(Op.SOFTCAP),
        ),
        "clamp-dropped": _recomputing(
            "The SwiGLU of gpt-oss does not clamp gate and up", "a SwiGLU of other models",
            operations.clamp_dropped, _ops(Op.SWIGLU_OAI),
        ),
        "up-offset-dropped": _recomputing(
            "The SwiGLU of gpt-oss multiplies by up, not by up + 1", "a SwiGLU of other models",
            operations.up_offset_dropped, _ops(Op.SWIGLU_OAI),
        ),
        "norm-offset-dropped": _recomputing(
            "The norm multiplies by its weight less 1", "a converter that does not add the 1 of 1 + weight",
            operations.norm_offset_dropped, _offset_norm,
        ),
        "transpose-block": _recomputing(
            "The first 32 × 32 block of a weight is transposed", "a tile read along the wrong axis",
            operations.transpose_block, _block,
        ),
        "block-scale": _recomputing(
            "One scale of a Q4_K block is another", "6-bit scales that are unpacked wrongly",
            operations.block_scale, _q4_k,
        ),
        "block-sign": _recomputing(
            "32 weights of one row have the other sign", "a sign bit that is lost while unpacking",
            operations.block_sign, _block,
        ),
        "k-tail": FaultKind(
            "The last inputs of a matrix product are left out", "a loop over K that ends before the remainder",
            operations.k_tail, _ops(Op.MATMUL), {"count": 32},
        ),
        "wrong-expert": FaultKind(
            "The last chosen expert is the next one in the list", "an index that is off by one",
            operations.wrong_expert, _chooses_some,
        ),
        "groups-ignored": _recomputing(
            "Experts are chosen from all groups", "a key of the router that is not read from the file",
            operations.groups_ignored, _chooses_groups,
        ),
        "router-unnormalised": _recomputing(
            "The weights of the experts do not add up to 1", "a key of the router that is not read from the file",
            operations.first_input, _ops(Op.NORMALISE_CHOSEN, Op.SOFTMAX_CHOSEN),
        ),
        "experts-unscaled": _recomputing(
            "The weights of the experts are not scaled", "a scale that is not read from the file",
            operations.first_input, _ops(Op.SCALE_CHOSEN),
        ),
        "state-not-reset": _recomputing(
            "The recurrence begins with what the first token leaves", "a state that is not cleared for a new sequence",
            operations.state_not_reset, _carries_state,
        ),
        "gate-up-swap": _recomputing(
            "Computed with the weights of the product beside it", "two weights that are exchanged",
            operations.gate_up_swap, _with_sibling,
        ),
    }
)  # fmt: skip

PARAMETERS: Mapping[str, str] = MappingProxyType(
    {
        "magnitude": "the change at the stage in relative L2: 1 doubles the values, or adds as much noise",
        "seed": "of the random numbers",
        "token": "the position; without it the first one, of stages of the whole model all",
        "channel": "counted from 0",
        "head": "of attention maps, counted from 0",
        "count": "how many of them, from the end",
        "limit": "the largest value that is kept: 65504 is float16's",
        "epsilon": "without it 1000 times the model's",
        "factor": "what the base is multiplied by",
    }
)
"""What the parameters mean."""


def kinds_at(model: Model, node: Node) -> tuple[str, ...]:
    """The kinds of faults that `node` of this model can have."""
    return tuple(kind for kind in KINDS if applies(kind, model, node))


def applies(kind: str, model: Model, node: Node) -> bool:
    return KINDS[kind].applies(model, node, model.graph[node.stage])
