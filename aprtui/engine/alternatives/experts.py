"""Wrong ways of feed-forward blocks with experts: which are chosen, what they weigh, whose weights compute them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aprtui.engine.alternatives.alternative import Alternative, plain
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.reference import ops
from aprtui.model.model import Model
from aprtui.trace.experts import in_groups
from aprtui.trace.graph.config import GroupScore, Router
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import ROUTER, Node


def least_probable(call: StageCall) -> Array:
    """The experts at the wrong end of the sorted ones."""
    return call.honest(-call.x)


def one_behind(call: StageCall) -> Array:
    """Ids that count from 1."""
    return np.asarray((call.honest() + 1) % call.model.config.graph.experts, np.float32)


def of_the_next_expert(call: StageCall) -> Array:
    """Matrices are taken from one expert further on."""
    experts = call.model.config.graph.experts
    return call.honest(call.x, np.asarray((call.inputs[1] + 1) % experts, np.float32))


def gate_and_up_exchanged(call: StageCall) -> Array:
    other = "ffn_moe_up" if call.node.stage == "ffn_moe_gate" else "ffn_moe_gate"
    return call.honest(node=Node(call.node.layer, other))


def unweighted(call: StageCall) -> Array:
    """What the experts give is added up as it is."""
    return call.honest(call.x, np.ones_like(call.inputs[1]))


def weights_in_reverse(call: StageCall) -> Array:
    """The weights are those of the ascending order."""
    return call.honest(call.x, np.ascontiguousarray(call.inputs[1][:, ::-1]))


def last_left_out(call: StageCall) -> Array:
    """One expert too few is added."""
    weights = call.inputs[1].copy()
    weights[:, -1] = 0
    return call.honest(call.x, weights)


def softmax_for_sigmoid(call: StageCall) -> Array:
    """The probabilities of a router add up to 1."""
    return ops.router_softmax(call.x)


def chosen_without_bias(call: StageCall) -> Array:
    """Experts are chosen by what the router gives, and its bias is left out."""
    return call.honest(call.before(ROUTER))


def groups_ignored(call: StageCall) -> Array:
    """Experts are chosen from all groups."""
    return call.with_config(graph=replace(call.model.config.graph, expert_groups=None))


def groups_without_bias(call: StageCall) -> Array:
    """Groups are chosen by what the router gives, its bias left out, and experts among theirs with it."""
    graph = call.model.config.graph
    assert graph.expert_groups is not None
    allowed = in_groups(call.before(ROUTER), graph.expert_groups)
    return ops.choose_experts(np.where(allowed, call.x, np.float32(-np.inf)), graph.experts_used)


def groups_by_largest(call: StageCall) -> Array:
    """Groups are chosen by the largest number of each in place of the two largest."""
    graph = call.model.config.graph
    assert graph.expert_groups is not None
    groups = replace(graph.expert_groups, score=GroupScore.LARGEST)
    return call.with_config(graph=replace(graph, expert_groups=groups))


def weights_with_bias(call: StageCall) -> Array:
    """Weights are taken from what experts are chosen by, bias and all."""
    return call.honest(call.before("ffn_moe_probs_biased"), call.inputs[1])


def has_sigmoid_router(model: Model, node: Node) -> bool:
    return model.config.graph.router is Router.SIGMOID


def has_router_bias(model: Model, node: Node) -> bool:
    return model.config.graph.router_bias


def has_groups(model: Model, node: Node) -> bool:
    return model.config.graph.expert_groups is not None


def has_groups_by_two(model: Model, node: Node) -> bool:
    """Where the other score is no engine's own."""
    groups = model.config.graph.expert_groups
    return groups is not None and groups.score is GroupScore.TWO_LARGEST


def has_groups_and_bias(model: Model, node: Node) -> bool:
    return has_groups(model, node) and has_router_bias(model, node)


EXPERT_ALTERNATIVES: tuple[Alternative, ...] = (
    plain(
        "choice without the router's bias", (Op.CHOOSE_EXPERTS,), chosen_without_bias,
        "experts are chosen without the router's bias", "choose by what the router gives plus exp_probs_b",
        has_router_bias,
    ),
    plain(
        "groups ignored", (Op.CHOOSE_EXPERTS,), groups_ignored, "experts are chosen from all groups",
        "read the model's expert_group_count and expert_group_used_count", has_groups,
    ),
    plain(
        "groups chosen without the router's bias", (Op.CHOOSE_EXPERTS,), groups_without_bias,
        "groups of experts are chosen without the router's bias", "score groups by the biased values, too",
        has_groups_and_bias,
    ),
    plain(
        "groups by their largest", (Op.CHOOSE_EXPERTS,), groups_by_largest,
        "groups of experts are chosen by their largest number alone",
        "score groups by the sum of their two largest", has_groups_by_two,
    ),
    plain(
        "matrices of the next expert", (Op.EXPERT_MATMUL,), of_the_next_expert,
        "computed with the matrices of the expert behind the chosen one", "count experts from 0",
    ),
    plain(
        "gate and up of experts", ("ffn_moe_gate", "ffn_moe_up"), gate_and_up_exchanged,
        "computed with the matrices of the other of gate and up", "check which half of a fused tensor is the gate",
    ),
    plain(
        "weights of experts left out", (Op.COMBINE_EXPERTS,), unweighted, "experts are added up without their weights",
        "multiply what each expert gives by its weight",
    ),
    plain(
        "weights of experts reversed", (Op.COMBINE_EXPERTS,), weights_in_reverse,
        "experts are weighted in reverse order", "sort weights and experts alike",
    ),
    plain(
        "last expert left out", (Op.COMBINE_EXPERTS,), last_left_out, "the last of the chosen experts is not added",
        "let the loop over experts end with the last one",
    ),
    plain(
        "weights of experts not normalised", (Op.NORMALISE_CHOSEN,), lambda call: call.x,
        "the weights of the chosen experts are not divided by their sum", "read whether the model normalises them",
    ),
    plain(
        "weights of experts not scaled", (Op.SCALE_CHOSEN,), lambda call: call.x,
        "the weights of the chosen experts are not scaled", "multiply them by the model's expert_weights_scale",
    ),
    plain(
        "softmax for sigmoid", (ROUTER,), softmax_for_sigmoid, "the router takes a softmax in place of a sigmoid",
        "read the model's expert_gating_func", has_sigmoid_router,
    ),
    plain(
        "weights of experts with the router's bias", (Op.TAKE_CHOSEN,), weights_with_bias,
        "the weights of the chosen experts have the router's bias in them",
        "choose by the biased values, and take the weights from those without the bias", has_router_bias,
    ),
)  # fmt: skip
