"""Which tensor of llama.cpp's graph is which stage: the one place where the names that it gives are listed.

An op with a weight of the model is told by that weight: the product with `blk.3.ffn_up.weight` is `ffn_up` of layer 3,
whatever the architecture. Others are told by the names that llama.cpp's builders give them (`cb(cur, "ffn_inp", il)`
becomes `ffn_inp-3`), which differ little between architectures. What has neither has the name of what it reads.

Of an architecture that is not known here, the names of its tensors tell which stages it may have.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from aprtui.model.binding import parameter_names
from aprtui.model.model import Model
from aprtui.oracle.ggml import sources, viewed
from aprtui.trace.graph.config import Activation
from aprtui.trace.graph.ops import BIASES, Op
from aprtui.trace.graph.stage import ENTRY, LAYER_OUTPUT, ROUTER, ROUTER_CHOICE, Node
from aprtui.trace.graph.stage_graph import StageGraph
from aprtui.trace.graph.tensors import graph_from_tensors

_WITH_WEIGHTS: Mapping[Op, str] = MappingProxyType(
    {
        Op.EMBED: "GET_ROWS", Op.RMS_NORM: "MUL", Op.HEAD_RMS_NORM: "MUL", Op.MATMUL: "MUL_MAT",
        Op.EXPERT_MATMUL: "MUL_MAT_ID", Op.BIAS: "ADD", Op.EXPERT_BIAS: "ADD_ID", Op.CONVOLUTION: "SSM_CONV",
        Op.DECAY: "MUL", Op.HEAD_MATMUL: "MUL_MAT",
    }
)  # fmt: skip
"""The op of ggml whose result is the stage, and one of whose sources is the weight."""

_ADDS, _SCALES = "ADD", "MUL"
"""The ops that end a product or a norm whose bias or scale is no stage of its own."""

_ENDING = frozenset({Op.MATMUL, Op.RMS_NORM, Op.HEAD_RMS_NORM})
"""Ops that a bias or a scale may follow."""

_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        ENTRY: ("inp_scaled", "inp_embd_scaled"),
        "q_post_rope": ("Qcur",),
        "k_post_rope": ("Kcur",),
        "q_temp_scaled": ("Qcur_attn_temp_scaled",),
        "attn_scores": ("kq",),
        "attn_softcap": ("kq_scaled_2",),
        "attn_softmax": ("kq_soft_max",),
        "attention": ("attn_pregate",),
        "q_nope": ("q_nope",),
        "q_pe": ("q_pe",),
        "k_pe": ("k_pe",),
        "k_nope": ("k_nope_view",),
        "v_heads": ("Vcur_cont",),
        "q_latent": ("Qcur",),
        "k_latent": ("Kcur",),
        "attn_gate_sigmoid": ("gate_sigmoid",),
        "attn_gated": ("attn_gated",),
        "post_attn_residual": ("ffn_inp", "sa_out", "attn_residual"),
        "ffn_swigl": ("ffn_swiglu",),
        "ffn_geglu": ("ffn_geglu",),
        "ffn_shexp_swiglu": ("ffn_swiglu",),
        "shared_expert_gate_sigmoid": ("shared_expert_gate_sigmoid",),
        "ffn_shexp_gated": ("ffn_shexp_gated",),
        "ffn_out": ("ffn_out",),
        "ffn_shexp_sum": ("ffn_out",),
        LAYER_OUTPUT: ("l_out",),
        ROUTER: ("ffn_moe_probs",),
        ROUTER_CHOICE: ("ffn_moe_topk",),
        "ffn_moe_weights": ("ffn_moe_weights",),
        "ffn_moe_weights_norm": ("ffn_moe_weights_norm",),
        "ffn_moe_weights_softmax": ("ffn_moe_weights_softmax",),
        "ffn_moe_weights_scaled": ("ffn_moe_weights_scaled",),
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

_ALL_NAMES = frozenset(name for names in _NAMES.values() for name in names)

_OPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "q_post_rope": ("ROPE",), "k_post_rope": ("ROPE", "CONCAT"), "q_pe": ("ROPE",), "k_pe": ("ROPE",),
        LAYER_OUTPUT: ("ADD",),
    }
)  # fmt: skip
"""What must make a tensor of that name, where one name has several."""

_READ_BY: Mapping[str, str] = MappingProxyType({"attention": "attn_output", "attn_latent": "attn_v_b"})
"""Stages that are what a product takes in. A name of theirs is that of a tensor which may still be turned."""

_MADE_FROM: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "linear_attn_z_silu": ("UNARY", "z"),
        "linear_attn_beta": ("CONT", "b"),
        "linear_attn_alpha": ("CONT", "a"),
        "beta_sigmoid": ("UNARY", "b"),
    }
)
"""Stages without a name: the op, and the name of what it is made from, or of what that is a copy of."""

_COPIED = " (cont)"
"""What ggml appends to the name of what it copies."""

ON_THE_WAY: Mapping[str, str] = MappingProxyType({"kqv": "attention", "kqv_out": "attention", "__fattn__": "attention"})
"""Names of tensors that a stage is made of, and that are not yet the stage itself."""

_FUSED_WEIGHTS: Mapping[str, str] = MappingProxyType({"attn_q": "attn_qkv"})
"""Weights of several parts in one, by that of the first part."""

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
    """What a tensor of the graph is: a node, or one of its `parts`; `takes_input`: what its op takes in is.

    `heads_first`: it is `[heads, tokens, channels]`.
    """

    node: Node
    part: int = 0
    parts: int = 1
    takes_input: bool = False
    heads_first: bool = False


class StagePlaces:
    """Recognises the tensors of a graph that are stages.

    `bound` has for each node of the `graph` the names of the weights that it uses; `has_scaled_entry`: what enters the
    first layer is not the rows of the table, but those times a number. `fused` are nodes whose product has more in it;
    `ends` has the op and the weight that a product or a norm ends with, by its own weight, where that is another one.
    """

    def __init__(
        self, graph: StageGraph, bound: Mapping[Node, tuple[str, ...]], *, has_scaled_entry: bool,
        fused: Collection[Node] = (), ends: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.graph = graph
        self._by_weight: dict[tuple[str, str], list[StagePlace]] = {}
        for (op, name), place in _by_weight(graph, bound, has_scaled_entry, ends):
            if place.node not in fused:
                self._by_weight.setdefault((op, name), []).append(place)
        self._by_name = dict(_by_name(graph, bound, has_scaled_entry))
        self._by_source = {
            (op, f"{source}-{node.layer}"): [StagePlace(node)]
            for node in graph.nodes if node.stage in _MADE_FROM
            for op, source in (_MADE_FROM[node.stage],)
        }  # fmt: skip

    @classmethod
    def of_model(cls, model: Model) -> StagePlaces:
        """Of a model that is known."""
        graph = model.graph
        bound = {node: tuple(weight.name for weight in model.params(node)) for node in graph.nodes}
        return cls(graph, bound, has_scaled_entry=model.config.embedding_scale != 1)

    @classmethod
    def of_names(cls, weights: Collection[str], tensors: Collection[str]) -> StagePlaces:
        """Of a graph of which nothing is known but what its `weights` and its other `tensors` are called."""
        numbers: dict[str, int] = {}
        for name, _, layer in (tensor.rpartition("-") for tensor in tensors):
            numbers[name or layer] = max(
                numbers.get(name, 0), int(layer) if name and layer.isdecimal() and len(layer) < 6 else 0
            )
        named = (number for name, number in numbers.items() if name in _ALL_NAMES and number < len(tensors))
        graph = graph_from_tensors(
            weights, _activation(numbers), gated_attention="attn_gated" in numbers,
            at_least=1 + max(named, default=-1),
        )  # fmt: skip
        known = set(weights)
        bound = {node: _stored(parameter_names(graph, node), known) for node in graph.nodes}
        # Without a matrix of its own, what the gate multiplies is the other half of the same product.
        is_gated = not numbers.keys().isdisjoint(_NAMES["ffn_swigl"] + _NAMES["ffn_geglu"])
        fused = {
            node for node, names in bound.items()
            if (node.stage == "ffn_up" and names and is_gated and not bound.get(Node(node.layer, "ffn_gate")))
            or (graph[node.stage].op is Op.EXPERT_MATMUL and any(_other(name, "scale") in known for name in names))
        }  # fmt: skip
        of_biases = {name for node in graph.nodes if graph[node.stage].op in BIASES for name in bound[node]}
        ends = {name: end for name in known if (end := _end(name, known, known - of_biases))}
        return cls(graph, bound, has_scaled_entry=not numbers.keys().isdisjoint(_NAMES[ENTRY]), fused=fused, ends=ends)

    def find(self, op: str, tensor: Any) -> list[StagePlace]:
        """What `tensor` of ggml is, which `op` makes; nothing where it is no stage."""
        made_from = ((source.name.decode(), viewed(source).name.decode()) for source in sources(tensor))
        return self.find_named(op, tensor.name.decode(), made_from)

    def find_named(self, op: str, name: str, made_from: Iterable[tuple[str, str]]) -> list[StagePlace]:
        """What a tensor of that name is; `made_from` are the names of its sources, and of those that they are views
        of."""
        named = self._by_name.get(name)
        if named is not None and op in _OPS.get(named.node.stage, (op,)):
            return [named]
        for source, behind in made_from:
            copied = source.removesuffix(_COPIED)
            if found := self._by_weight.get((op, source)) or self._by_source.get((op, behind)):
                return found
            if found := self._by_source.get((op, copied)):
                return found
        return []


def _activation(called: Collection[str]) -> Activation:
    """What the gates of a graph go through whose tensors are `called` so."""
    for activation, stages in _OF_ACTIVATIONS.items():
        if any(name in called for stage in stages for name in _NAMES[stage]):
            return activation
    return Activation.SILU


_OF_ACTIVATIONS: Mapping[Activation, tuple[str, ...]] = MappingProxyType(
    {Activation.GELU_TANH: ("ffn_geglu", "ffn_moe_geglu"), Activation.SWIGLU_OAI: ("ffn_moe_swiglu_oai",)}
)
"""Stages that only models with that activation have."""


def _stored(names: tuple[str, ...], weights: Collection[str]) -> tuple[str, ...]:
    """The weights that `names` of parameters stand for, where several are one, or one stands in for another; nothing
    where there is none of them."""
    for first, whole in _FUSED_WEIGHTS.items():
        fused = names[0].replace(f".{first}.", f".{whole}.") if len(names) > 1 else ""
        if fused in weights:
            return (fused,)
    if names == ("output.weight",) and names[0] not in weights:
        return ("token_embd.weight",)
    return names if any(name in weights for name in names) else ()


def _other(weight: str, kind: str) -> str:
    """The name of the bias or the scale that goes with a weight."""
    return weight.removesuffix("weight") + kind


def _end(weight: str, weights: Collection[str], free_biases: Collection[str]) -> tuple[str, str] | None:
    """The op that a product or a norm with `weight` ends with, and the weight of that; None where it ends with its own.

    `free_biases` are those that are no stage of their own.
    """
    bias, scale = _other(weight, "bias"), _other(weight, "scale")
    found = [(_SCALES, scale)] if scale != weight and scale in weights else []
    found += [(_ADDS, bias)] if bias != weight and bias in free_biases else []
    # The builder of feed-forward blocks scales what the bias was added to, that of attention what it is added to.
    return None if not found else found[0 if ".ffn_" in weight else -1]


def _by_weight(
    graph: StageGraph, bound: Mapping[Node, tuple[str, ...]], has_scaled_entry: bool,
    ends: Mapping[str, tuple[str, str]],
) -> Iterator[tuple[tuple[str, str], StagePlace]]:  # fmt: skip
    """For the op with a weight, what it is; a product may be one part of a stage, and what it takes in another one."""
    for node in graph.nodes:
        stage, weights = graph[node.stage], bound[node]
        if not weights or stage.op not in _WITH_WEIGHTS or (node.stage == ENTRY and has_scaled_entry):
            continue
        op, heads_first = _WITH_WEIGHTS[stage.op], stage.op is Op.HEAD_MATMUL
        for part, weight in enumerate(weights) if node.stage not in _READ_BY else ():
            key = ends.get(weight, (op, weight)) if stage.op in _ENDING else (op, weight)
            yield key, StagePlace(node, part, len(weights), heads_first=heads_first)
        source = Node(node.layer, stage.inputs[0].stage) if stage.inputs else None
        if source is not None and stage.params[0] == _READ_BY.get(source.stage):
            yield (op, weights[0]), StagePlace(source, takes_input=True, heads_first=heads_first)


def _by_name(
    graph: StageGraph, bound: Mapping[Node, tuple[str, ...]], has_scaled_entry: bool
) -> Iterator[tuple[str, StagePlace]]:
    told = {node.layer for node, weights in bound.items() if weights}
    for node in graph.nodes:
        has_weights = node.layer not in told or _has_weights(graph, bound, node)
        if (node.stage != ENTRY or has_scaled_entry) and has_weights:
            for name in _NAMES.get(node.stage, ()):
                yield name if node.layer is None or node.stage == ENTRY else f"{name}-{node.layer}", StagePlace(node)


def _has_weights(graph: StageGraph, bound: Mapping[Node, tuple[str, ...]], node: Node) -> bool:
    """Whether the weights are there of what makes a node, or of one of those that it is made from."""
    if graph[node.stage].params:
        return bool(bound[node])
    made_from = [source for source in graph.inputs(node) if source.layer == node.layer]
    return any(_has_weights(graph, bound, source) for source in made_from) if made_from else True
