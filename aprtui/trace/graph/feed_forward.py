"""The stages of feed-forward blocks: one for all tokens, or experts that a router chooses for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from aprtui.trace.graph.config import Activation, GraphConfig, Router
from aprtui.trace.graph.ops import Axis, Op
from aprtui.trace.graph.stage import ROUTER, ROUTER_CHOICE, BlockKind, Input, Stage

_Gate = tuple[tuple[str, Op], ...]
"""The stages from the gate to what `down` multiplies; the first reads the gate, the last one `up` as well."""


@dataclass(frozen=True, slots=True)
class _Gates:
    dense: _Gate
    experts: _Gate


GATES: Mapping[Activation, _Gates] = MappingProxyType(
    {
        Activation.SILU: _Gates(
            (("ffn_silu", Op.SILU), ("ffn_swigl", Op.MULTIPLY)),
            (("ffn_moe_silu", Op.SILU), ("ffn_moe_swiglu", Op.MULTIPLY)),
        ),
        Activation.GELU_TANH: _Gates(
            (("ffn_gelu", Op.GELU), ("ffn_geglu", Op.MULTIPLY)),
            (("ffn_moe_gelu", Op.GELU), ("ffn_moe_geglu", Op.MULTIPLY)),
        ),
        Activation.SWIGLU_OAI: _Gates(
            (("ffn_swiglu_oai", Op.SWIGLU_OAI),), (("ffn_moe_swiglu_oai", Op.SWIGLU_OAI),)
        ),
    }
)  # fmt: skip
"""The stages of each activation."""


def _gated(gate: _Gate, source: str, up: str, stage: Callable[..., Stage]) -> Iterator[Stage]:
    """The stages of `gate`, made by `stage`, from the stages `source` and `up`."""
    for name, op in gate:
        last = (Input(up),) if name == gate[-1][0] else ()
        yield stage(name, op, (Input(source), *last))
        source = name


def dense_stages(config: GraphConfig) -> Iterator[Stage]:
    """One block for all tokens: gate and up, what the gate goes through, and down."""
    gate = GATES[config.activation].dense
    yield Stage("ffn_gate", Op.MATMUL, (Input("ffn_norm"),), config.ffn, ("ffn_gate",))
    yield Stage("ffn_up", Op.MATMUL, (Input("ffn_norm"),), config.ffn, ("ffn_up",))
    extension = config.activation is not Activation.SILU
    yield from _gated(gate, "ffn_gate", "ffn_up", partial(Stage, width=config.ffn, extension=extension))
    yield Stage("ffn_out", Op.MATMUL, (Input(gate[-1][0]),), config.hidden, ("ffn_down",))


def expert_stages(config: GraphConfig) -> Iterator[Stage]:
    """A router, and the blocks of the experts that it chooses for each token."""
    used = config.experts_used
    wide = used * config.expert_ffn
    gate = GATES[config.activation].experts
    row_of_experts = partial(Stage, axes=(Axis.TOKEN, Axis.EXPERT, Axis.CHANNEL), chosen=used, extension=True)
    choice = Input(ROUTER_CHOICE)
    biased = "_biased" if config.biased_experts else ""

    def product(name: str, source: str, width: int) -> Iterator[Stage]:
        params = (f"ffn_{name}_exps",)
        yield row_of_experts(f"ffn_moe_{name}", Op.EXPERT_MATMUL, (Input(source), choice), width, params)
        if biased:
            inputs = (Input(f"ffn_moe_{name}"), choice)
            yield row_of_experts(f"ffn_moe_{name}_biased", Op.EXPERT_BIAS, inputs, width, params)

    yield from _router_stages(config)
    yield from product("gate", "ffn_norm", wide)
    yield from product("up", "ffn_norm", wide)
    yield from _gated(gate, f"ffn_moe_gate{biased}", f"ffn_moe_up{biased}", partial(row_of_experts, width=wide))
    yield from product("down", gate[-1][0], used * config.hidden)
    inputs = (Input(f"ffn_moe_down{biased}"), Input(_weight_stages(config)[-1][0]))
    yield Stage("moe_ffn_out", Op.COMBINE_EXPERTS, inputs, config.hidden)


def _router_stages(config: GraphConfig) -> Iterator[Stage]:
    used = config.experts_used
    all_experts = partial(Stage, width=config.experts, axes=(Axis.TOKEN, Axis.EXPERT))
    chosen_experts = partial(Stage, width=used, axes=(Axis.TOKEN, Axis.EXPERT), chosen=used)
    params = ("ffn_gate_inp",)
    yield all_experts("ffn_moe_logits", Op.MATMUL, (Input("ffn_norm"),), params=params, extension=True)
    if config.biased_experts:
        yield all_experts(ROUTER, Op.BIAS, (Input("ffn_moe_logits"),), params=params)
    else:
        yield all_experts(ROUTER, _ROUTER_OPS[config.router], (Input("ffn_moe_logits"),))
    chosen_by = ROUTER
    if config.router_bias:
        chosen_by = "ffn_moe_probs_biased"
        yield all_experts(chosen_by, Op.BIAS, (Input(ROUTER),), params=("exp_probs_b",), extension=True)
    yield chosen_experts(ROUTER_CHOICE, Op.CHOOSE_EXPERTS, (Input(chosen_by),), holds_indices=True)
    inputs: tuple[Input, ...] = (Input(ROUTER), Input(ROUTER_CHOICE))
    for name, op in _weight_stages(config):
        yield chosen_experts(name, op, inputs, extension=True)
        inputs = (Input(name),)


_ROUTER_OPS: Mapping[Router, Op] = MappingProxyType({Router.SOFTMAX: Op.ROUTER_SOFTMAX, Router.SIGMOID: Op.SIGMOID})


def _weight_stages(config: GraphConfig) -> _Gate:
    """What makes the weights of a token's experts, one stage after the other."""
    found = [("ffn_moe_weights", Op.TAKE_CHOSEN)]
    if config.biased_experts:
        found.append(("ffn_moe_weights_softmax", Op.SOFTMAX_CHOSEN))
    elif config.normalised_experts:
        found.append(("ffn_moe_weights_norm", Op.NORMALISE_CHOSEN))
    if config.scaled_experts:
        found.append(("ffn_moe_weights_scaled", Op.SCALE_CHOSEN))
    return tuple(found)


def _shared_stages(config: GraphConfig) -> Iterator[Stage]:
    """The expert that every token uses, times a gate where it has one."""
    width = config.shared_expert_ffn
    norm, gate = Input("ffn_norm"), "shared_expert_gate"
    stage = partial(Stage, extension=True)
    yield stage("ffn_shexp_gate", Op.MATMUL, (norm,), width, ("ffn_gate_shexp",))
    yield stage("ffn_shexp_up", Op.MATMUL, (norm,), width, ("ffn_up_shexp",))
    yield stage("ffn_shexp_silu", Op.SILU, (Input("ffn_shexp_gate"),), width)
    yield stage("ffn_shexp_swiglu", Op.MULTIPLY, (Input("ffn_shexp_silu"), Input("ffn_shexp_up")), width)
    yield stage("ffn_shexp", Op.MATMUL, (Input("ffn_shexp_swiglu"),), config.hidden, ("ffn_down_shexp",))
    if not config.shared_expert_gate:
        return
    yield stage(gate, Op.MATMUL, (norm,), 1, ("ffn_gate_inp_shexp",))
    yield stage(f"{gate}_sigmoid", Op.SIGMOID, (Input(gate),), 1)
    yield stage("ffn_shexp_gated", Op.SCALE_ROWS, (Input("ffn_shexp"), Input(f"{gate}_sigmoid")), config.hidden)


def stages_with_shared_expert(config: GraphConfig) -> Iterator[Stage]:
    """Experts that a router chooses, and one that every token uses."""
    yield from expert_stages(config)
    yield from _shared_stages(config)
    added = (Input("moe_ffn_out"), Input("ffn_shexp_gated" if config.shared_expert_gate else "ffn_shexp"))
    yield Stage("ffn_shexp_sum", Op.ADD, added, config.hidden, extension=True)


@dataclass(frozen=True, slots=True)
class FeedForwardKind:
    """A kind of feed-forward block: its stages after the norm, of which `output` is added to the residual."""

    kind: BlockKind
    stages: Callable[[GraphConfig], Iterator[Stage]]
    output: str


DENSE = FeedForwardKind(BlockKind.DENSE, dense_stages, "ffn_out")

EXPERTS = FeedForwardKind(BlockKind.EXPERTS, expert_stages, "moe_ffn_out")

SHARED_EXPERTS = FeedForwardKind(BlockKind.EXPERTS, stages_with_shared_expert, "ffn_shexp_sum")
