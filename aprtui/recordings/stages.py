"""What a node is in a model: its layer and stage, as far as the names that the engine gives can tell.

The weight that a node consumes says most: GGUF has one name for it in all architectures. Else the node's own name does,
as llama.cpp's graphs give them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from aprtui.recordings.format import OpGraph, OpNode, RootKind

_WEIGHT = re.compile(r"(?:[a-z]+\.)?blk\.(\d{1,6})\.([a-z0-9_]+)\.(weight|bias)")
_NAMED = re.compile(r"(.*?)-(\d{1,6})(?: .*)?")
_MODULE = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.(\d{1,6})(?:\.(.*))?")
_GLOBAL = re.compile(r"([a-z0-9_]+)\.(weight|bias)")

WEIGHTS: Mapping[str, str] = MappingProxyType(
    {
        "token_embd": "embedding", "output": "lm_head", "output_norm": "final_norm", "attn_q": "q_proj",
        "attn_k": "k_proj", "attn_v": "v_proj", "attn_qkv": "qkv_matmul", "attn_output": "attn_out",
        "attn_q_norm": "q_norm", "attn_k_norm": "k_norm", "ffn_down": "ffn_out", "ffn_gate_inp": "ffn_moe_logits",
        "ffn_gate_exps": "ffn_moe_gate", "ffn_up_exps": "ffn_moe_up", "ffn_down_exps": "ffn_moe_down",
        "post_attention_norm": "attn_post_norm", "post_ffw_norm": "ffn_post_norm",
    }
)  # fmt: skip
"""Stages by names of weights, where the two differ."""

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "Qcur": "q_proj", "Kcur": "k_proj", "Vcur": "v_proj", "Qcur_normed": "q_norm", "Kcur_normed": "k_norm",
        "kq": "attn_scores", "kq_soft_max": "attn_softmax", "kqv": "attention", "kqv_out": "attention",
        "ffn_inp": "post_attn_residual", "l_out": "post_ffn_residual", "ffn_swiglu": "ffn_swigl",
        "ffn_geglu": "ffn_geglu", "ffn_moe_topk": "moe_router_indices", "result_norm": "final_norm",
        "result_output": "lm_head", "embd": "embedding", "inp_embd": "embedding",
    }
)  # fmt: skip
"""Stages by llama.cpp's names of nodes, where the two differ."""

MODULES: Mapping[str, str] = MappingProxyType(
    {
        "embed_tokens": "embedding", "norm": "final_norm", "lm_head": "lm_head", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm", "o_proj": "attn_out", "gate_proj": "ffn_gate", "up_proj": "ffn_up",
        "down_proj": "ffn_out", "act_fn": "ffn_silu", "self_attn": "attention",
    }
)  # fmt: skip
"""Stages by the last name of a module's path in transformers, where the two differ."""

_BY_OP: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("q_proj", "ROPE"): "q_post_rope", ("k_proj", "ROPE"): "k_post_rope", ("q_norm", "ROPE"): "q_post_rope",
        ("k_norm", "ROPE"): "k_post_rope",
    }
)  # fmt: skip
"""Nodes of one name that are told apart by their op."""


@dataclass(frozen=True, slots=True)
class NodeName:
    """`layer` and `stage` are None where the names do not tell; `text` is how the engine calls the node."""

    layer: int | None
    stage: str | None
    text: str

    def __str__(self) -> str:
        if self.stage is None:
            return self.text
        place = self.stage if self.layer is None else f"layer {self.layer} {self.stage}"
        return f"{place} ({self.text})" if self.text else place


def node_name(graph: OpGraph, node: OpNode) -> NodeName:
    """Where a node stands in its model."""
    for weight in weights_of(graph, node):
        if found := _WEIGHT.fullmatch(weight):
            return NodeName(int(found[1]), _of_weight(found[2], found[3]), node.name)
        if found := _GLOBAL.fullmatch(weight):
            tied = found[1] == "token_embd" and "MUL_MAT" in node.op
            return NodeName(None, "lm_head" if tied else _of_weight(found[1], found[2]), node.name)
    if module := _MODULE.fullmatch(node.name):
        last = (module[2] or "").rpartition(".")[2]
        return NodeName(int(module[1]), MODULES.get(last, last) or None, node.name)
    found = _NAMED.fullmatch(node.name)
    name, layer = (found[1], int(found[2])) if found else (node.name.partition(" ")[0], None)
    # `norm-3` of llama.cpp is any norm of layer 3, before its weight.
    named = NAMES if found else {**MODULES, **NAMES}
    stage = named.get(name) or named.get(name.rpartition(".")[2], name or None)
    if stage is None or name.startswith("node_"):
        return NodeName(None, None, node.name)
    return NodeName(layer, _BY_OP.get((stage, node.op), stage), node.name)


def _of_weight(name: str, part: str) -> str:
    stage = WEIGHTS.get(name, name)
    return f"{stage}_bias" if part == "bias" else stage


def weights_of(graph: OpGraph, node: OpNode) -> list[str]:
    """The names of the weights that a node reads."""
    roots = [graph.roots[graph.tensors[source].root] for source in node.sources if source is not None]
    return [root.name for root in roots if root.kind is RootKind.WEIGHT and root.name]
