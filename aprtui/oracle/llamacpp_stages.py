"""Which tensor of llama.cpp's graph is which stage.

An op with a weight of the model is told by that weight: the product with `blk.3.ffn_up.weight` is `ffn_up` of layer 3,
whatever the architecture. Others are told by the names that llama.cpp's builders give them (`cb(cur, "ffn_inp", il)`
becomes `ffn_inp-3`), which differ little between architectures. What has neither has the name of what it reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from aprtui.model.model import Model
from aprtui.oracle.ggml import sources, viewed
from aprtui.trace.graph import ENTRY, LAYER_OUTPUT, ROUTER, ROUTER_CHOICE, Node, Op

_WITH_WEIGHTS: Mapping[Op, str] = MappingProxyType(
    {
        Op.EMBED: "GET_ROWS", Op.RMS_NORM: "MUL", Op.HEAD_RMS_NORM: "MUL", Op.MATMUL: "MUL_MAT",
        Op.EXPERT_MATMUL: "MUL_MAT_ID", Op.BIAS: "ADD", Op.EXPERT_BIAS: "ADD_ID", Op.CONVOLUTION: "SSM_CONV",
        Op.DECAY: "MUL",
    }
)  # fmt: skip
"""The op of ggml whose result is the stage, and one of whose sources is the weight."""

_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        ENTRY: ("inp_scaled",),
        "q_post_rope": ("Qcur",),
        "k_post_rope": ("Kcur",),
        "q_temp_scaled": ("Qcur_attn_temp_scaled",),
        "attn_scores": ("kq",),
        "attn_softcap": ("kq_scaled_2",),
        "attn_softmax": ("kq_soft_max",),
        "attention": ("attn_pregate",),
        "attn_gate_sigmoid": ("gate_sigmoid",),
        "attn_gated": ("attn_gated",),
        "post_attn_residual": ("ffn_inp", "sa_out", "attn_residual"),
        "ffn_swigl": ("ffn_swiglu",),
        "ffn_geglu": ("ffn_geglu",),
        "ffn_shexp_swiglu": ("ffn_swiglu",),
        "shared_expert_gate_sigmoid": ("shared_expert_gate_sigmoid",),
        "ffn_shexp_gated": ("ffn_shexp_gated",),
        "ffn_out": ("ffn_out",),
        LAYER_OUTPUT: ("l_out",),
        ROUTER: ("ffn_moe_probs",),
        ROUTER_CHOICE: ("ffn_moe_topk",),
        "ffn_moe_weights": ("ffn_moe_weights",),
        "ffn_moe_weights_norm": ("ffn_moe_weights_norm",),
        "ffn_moe_weights_softmax": ("ffn_moe_weights_softmax",),
        "ffn_moe_swiglu": ("ffn_moe_swiglu",),
        "ffn_moe_geglu": ("ffn_moe_geglu",),
        "ffn_moe_swiglu_oai": ("ffn_moe_swiglu_oai",),
        "moe_ffn_out": ("ffn_moe_out",),
        "conv_output_silu": ("conv_output_silu",),
        "q_conv_predelta": ("q_conv_predelta",),
        "k_conv_predelta": ("k_conv_predelta",),
        "beta_sigmoid": ("beta_sigmoid",),
        "a_softplus": ("a_softplus",),
        "linear_attn_state": ("new_state",),
        "linear_attn_output": ("attn_output",),
        "linear_attn_gated": ("final_output",),
        "logit_softcap": ("result_output",),
    }
)
"""The names of stages in llama.cpp's builders; a stage that a layer lacks has no part in it."""

_OPS: Mapping[str, str] = MappingProxyType({"q_post_rope": "ROPE", "k_post_rope": "ROPE", LAYER_OUTPUT: "ADD"})
"""What must make a tensor of that name, where one name has several."""

_READ_BY: Mapping[str, str] = MappingProxyType({"attention": "attn_output"})
"""Stages that are what a product takes in. A name of theirs is that of a tensor which may still be turned."""

_MADE_FROM: Mapping[str, tuple[str, str]] = MappingProxyType({"linear_attn_z_silu": ("UNARY", "z")})
"""Stages without a name: the op, and the name of what it is made from."""

FUSED: Mapping[str, str] = MappingProxyType(
    {
        "ffn_silu": "ffn_swigl", "ffn_gelu": "ffn_geglu", "ffn_moe_silu": "ffn_moe_swiglu",
        "ffn_moe_gelu": "ffn_moe_geglu", "ffn_shexp_silu": "ffn_shexp_swiglu",
        "attn_scores": "attention", "attn_softcap": "attention", "attn_softmax": "attention",
    }
)  # fmt: skip
"""Stages that are fused into another one, of attention with flash attention only."""


@dataclass(frozen=True, slots=True)
class StagePlace:
    """What a tensor of the graph is: a node, or one of its `parts`; `takes_input`: what its op takes in is."""

    node: Node
    part: int = 0
    parts: int = 1
    takes_input: bool = False


class StagePlaces:
    """Recognises the tensors of a graph that are stages of `model`."""

    def __init__(self, model: Model) -> None:
        self._by_weight: dict[tuple[str, str], list[StagePlace]] = {}
        for (op, name), place in _by_weight(model):
            self._by_weight.setdefault((op, name), []).append(place)
        self._by_name = dict(_by_name(model))
        self._by_source = {
            (op, f"{source}-{node.layer}"): [StagePlace(node)]
            for node in model.graph.nodes if node.stage in _MADE_FROM
            for op, source in (_MADE_FROM[node.stage],)
        }  # fmt: skip

    def find(self, op: str, tensor: Any) -> list[StagePlace]:
        """What `tensor` is, which `op` makes; nothing where it is no stage."""
        named = self._by_name.get(tensor.name.decode())
        if named is not None and _OPS.get(named.node.stage, op) == op:
            return [named]
        for source in sources(tensor):
            key, behind = (op, source.name.decode()), (op, viewed(source).name.decode())
            if found := self._by_weight.get(key) or self._by_source.get(behind):
                return found
        return []


def _by_weight(model: Model) -> Iterator[tuple[tuple[str, str], StagePlace]]:
    """For the op with a weight, what it is; a product may be one part of a stage, and what it takes in another one."""
    graph = model.graph
    for node in graph.nodes:
        stage, weights = graph[node.stage], model.params(node)
        if stage.op not in _WITH_WEIGHTS or (node.stage == ENTRY and model.config.embedding_scale != 1):
            continue
        op = _WITH_WEIGHTS[stage.op]
        for part, weight in enumerate(weights):
            yield (op, weight.name), StagePlace(node, part, len(weights))
        source = Node(node.layer, stage.inputs[0].stage) if stage.inputs else None
        if source is not None and stage.params[0] == _READ_BY.get(source.stage):
            yield (op, weights[0].name), StagePlace(source, takes_input=True)


def _by_name(model: Model) -> Iterator[tuple[str, StagePlace]]:
    for node in model.graph.nodes:
        if node.stage != ENTRY or model.config.embedding_scale != 1:
            for name in _NAMES.get(node.stage, ()):
                yield name if node.layer is None or node.stage == ENTRY else f"{name}-{node.layer}", StagePlace(node)
