"""Where a model of transformers has the stages of a graph: in what its modules take in and give.

What a module computes is what comes out of it; other stages are seen where a module takes them in. A matrix product
whose bias is added in the same call, and what fused experts compute inside, exist nowhere and have no tap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import ENTRY, ROUTER, ROUTER_CHOICE, Node, TokenMixer
from aprtui.trace.graph.stage_graph import StageGraph

_HOLDERS = (Op.RMS_NORM, Op.HEAD_RMS_NORM, Op.MATMUL, Op.BIAS)
"""Ops that are a module each in transformers."""
_GATES = (Op.SILU, Op.GELU)

_FUSED = MappingProxyType({"qkv_matmul": "qkv_bias", "attn_out_matmul": "attn_out", "ffn_moe_logits": "moe_router"})
"""Products whose biases are added in the same call, where they have any."""

_IN_ROUTER = MappingProxyType(
    {(ROUTER, Op.SIGMOID): "sigmoid", ("ffn_moe_probs_biased", Op.BIAS): "add", (ROUTER, Op.ROUTER_SOFTMAX): "softmax"}
)
"""What is seen only inside routers that choose experts in any order, by the function of torch whose result it is."""

MAPS = ("attn_scores", "attn_softcap", "attn_softmax")
"""The stages that are attention maps, in the order of their making."""

_IN_ATTENTION = MappingProxyType(dict.fromkeys(("q_post_rope", "k_post_rope", *MAPS), "attention"))
"""What is seen only where transformers computes the attention step by step."""


def fused_stages(*, has_maps: bool) -> Mapping[str, str]:
    """Stages that transformers computes inside another one, with maps of the attention or without."""
    return _FUSED if has_maps else {**_FUSED, **_IN_ATTENTION}


@dataclass(frozen=True, slots=True)
class ModuleTap:
    """Where a node's values are seen: going into a module, or coming out of one, or of several in parts."""

    node: Node
    modules: tuple[str, ...]
    takes_input: bool = False
    element: int | None = None
    """Which of several inputs or outputs."""
    columns: tuple[int, ...] = ()
    """Which columns of what comes out, where a module gives more than the stage."""
    of_all_positions: bool = False
    """Whether it comes out for what is cached, too."""
    inside: str = ""
    """The function of torch in the module whose result it is, where it does not come out: the first such call."""


def module_name(modules: Mapping[str, str], node: Node, parameter: str) -> str:
    """The module that holds a parameter, as it is called in the stage graph.

    `modules` is `Architecture.transformers_modules`.
    """
    return modules[parameter].format(layer=node.layer)


def parameter_path(module: str, is_bias: bool) -> str:
    """What transformers calls the weight or the bias of `module`; the bias of a router's choice is a buffer of it."""
    return f"{module}{'_' if module.endswith('.e_score_correction') else '.'}{'bias' if is_bias else 'weight'}"


def columns_of_shared_module(config: GraphConfig) -> Mapping[str, tuple[int, ...]]:
    """Where the rows of `attn_qkv` and `attn_gate` stand in a module that holds both: for each key head its query, its
    key, the values of its value heads, and their gates."""
    dim = config.linear_head_dim
    wide = dim * (config.linear_value_heads // config.linear_key_heads)
    starts = range(0, config.linear_key_heads * 2 * (dim + wide), 2 * (dim + wide))

    def each(first: int, size: int) -> tuple[int, ...]:
        return tuple(start + first + at for start in starts for at in range(size))

    return {
        "attn_qkv": (*each(0, dim), *each(dim, dim), *each(2 * dim, wide)),
        "attn_gate": each(2 * dim + wide, wide),
    }


def _columns(graph: StageGraph, modules: Mapping[str, str], node: Node) -> tuple[int, ...]:
    shared, params = ("attn_qkv", "attn_gate"), graph[node.stage].params
    if graph.config is None or params[:1] not in {(name,) for name in shared}:
        return ()
    is_shared = modules[shared[0]] == modules[shared[1]]
    return columns_of_shared_module(graph.config)[params[0]] if is_shared else ()


def module_taps(graph: StageGraph, modules: Mapping[str, str]) -> Iterator[ModuleTap]:
    """A tap for each node that a module makes or takes in, in execution order; `graph` has a configuration.

    Queries, keys and maps have none: they are seen in the attention itself.
    """
    weights = graph["moe_ffn_out"].inputs[1].stage if "moe_ffn_out" in graph else ""
    readers = {source: node for node in reversed(graph.nodes) for source in graph.inputs(node)[:1]}
    biased = {name for stage in graph.stages if stage.op is Op.BIAS for name in stage.params}
    for node in graph.nodes:
        stage, reader = graph[node.stage], readers.get(node)
        block = f"model.layers.{node.layer}.mlp"
        if stage.mixer is TokenMixer.RECURRENCE and stage.op in (Op.HEAD_RMS_NORM, *_GATES):
            continue  # it is normalised and gated in one module
        if "exp_probs_b" in modules and (stage.name, stage.op) in _IN_ROUTER:
            inside = _IN_ROUTER[stage.name, stage.op]
            yield ModuleTap(node, (module_name(modules, node, "ffn_gate_inp"),), inside=inside)
        elif stage.op in _HOLDERS:
            if stage.op is not Op.MATMUL or not biased.intersection(stage.params):
                names = tuple(module_name(modules, node, name) for name in stage.params)
                cached = stage.name == "mla_kv"
                columns = _columns(graph, modules, node)
                yield ModuleTap(node, names, columns=columns, of_all_positions=cached)
        elif stage.op in _GATES:
            gate = graph[stage.inputs[0].stage]
            if gate.op is Op.MATMUL:  # fused experts have no module for it
                yield ModuleTap(node, (f"{module_name(modules, node, gate.params[0]).rpartition('.')[0]}.act_fn",))
        elif stage.name in ("moe_ffn_out", "ffn_shexp_sum"):
            part = ".experts" if stage.name == "moe_ffn_out" and "ffn_shexp_sum" in graph else ""
            yield ModuleTap(node, (f"{block}{part}",))
        elif stage.name in (ROUTER_CHOICE, weights):
            place = 1 if stage.name == ROUTER_CHOICE else 2
            yield ModuleTap(node, (f"{block}.experts",), takes_input=True, element=place)
        elif reader is not None and graph[reader.stage].op in _HOLDERS and stage.op is not Op.ROPE:
            reading = graph[reader.stage].params[0]
            yield ModuleTap(node, (module_name(modules, reader, reading),), takes_input=True)
        elif stage.op is Op.EMBED and node.stage == ENTRY:
            yield ModuleTap(node, (module_name(modules, node, stage.params[0]),))
