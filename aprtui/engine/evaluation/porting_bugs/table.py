"""The bugs by name. A new one is a function beside those of its subject, and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from aprtui.engine.alternatives import attention, experts, latent, positions, recurrence, rows
from aprtui.engine.alternatives.call import Array, StageCall
from aprtui.engine.alternatives.matrices import products
from aprtui.engine.evaluation.porting_bugs.bug import Layers, PortingBug
from aprtui.model.model import Model
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import ENTRY, LAYER_OUTPUT, ROUTER, Node


def _grouped(model: Model, node: Node) -> bool:
    graph = model.config.graph
    return 1 < graph.kv_heads < graph.heads


def _fused(model: Model, node: Node) -> bool:
    """Queries, keys and values come of one product."""
    return model.config.graph.latent is None


def _several_kv_heads(model: Model, node: Node) -> bool:
    return model.config.graph.kv_heads > 1


def _biased(model: Model, node: Node) -> bool:
    return model.config.graph.qkv_bias


def _plain_maps(model: Model, node: Node) -> bool:
    """No softcap between scores and softmax, no window and no sinks."""
    graph = model.config.graph
    return not graph.attn_softcap and not any(graph.windows) and not graph.sinks


def _has_sinks(model: Model, node: Node) -> bool:
    return model.config.graph.sinks


def _has_window(model: Model, node: Node) -> bool:
    """Where the mask alone is otherwise than in other layers: no softcap, no sinks."""
    graph = model.config.graph
    return graph.window(node.layer) > 0 and not graph.attn_softcap and not graph.sinks


def _norm_offset(model: Model, node: Node) -> bool:
    return model.config.norm_offset


def _other_kind_of_rope(model: Model, node: Node) -> bool:
    layers = range(model.config.graph.layers)
    return node.layer is not None and any(positions.is_other_kind(model.config, node.layer, other) for other in layers)


def _several_key_heads(model: Model, node: Node) -> bool:
    graph = model.config.graph
    return 1 < graph.linear_key_heads < graph.linear_value_heads


def _masked(compute: Callable[[StageCall], Array]) -> PortingBug:
    return PortingBug(compute, (Op.SOFTMAX, Op.ATTEND), applies=_plain_maps)


def _turned(model: Model, node: Node) -> bool:
    return model.graph[node.stage].op is Op.ROPE and model.config.graph.has_rope(node.layer)


def _of_state(compute: Callable[[StageCall], Array]) -> PortingBug:
    return PortingBug(compute, (Op.DELTA_STATE, Op.DELTA_OUTPUT))


def _of_rope(compute: Callable[[StageCall], Array], at: tuple[str | Op, ...] = (Op.ROPE,)) -> PortingBug:
    return PortingBug(compute, at, applies=_turned)


_LAYER_PARAMETERS = (
    "attn_norm", "qkv_matmul", "qkv_bias", "q_norm", "k_norm", "attn_out_matmul", "attn_out", "attn_post_norm",
    "ffn_norm", "ffn_gate", "ffn_up", "ffn_out", "ffn_post_norm",
)  # fmt: skip

PORTING_BUGS: Mapping[str, PortingBug] = MappingProxyType(
    {
        "RoPE base of another model": _of_rope(positions.other_base),
        "RoPE frequencies of half the exponent": _of_rope(positions.half_exponent),
        "RoPE turns backwards": _of_rope(positions.backwards),
        "RoPE stretched by two": _of_rope(positions.stretched),
        "RoPE on the other pairs": _of_rope(positions.other_layout),
        "RoPE positions start at 1": _of_rope(positions.one_later),
        "RoPE of keys a position late": _of_rope(positions.one_later, ("k_post_rope", "k_pe")),
        "RoPE left out for keys": _of_rope(positions.not_turned, ("k_post_rope", "k_pe")),
        "RoPE twice for queries": _of_rope(positions.turned_twice, ("q_post_rope", "q_pe")),
        "RoPE on half of the head": _of_rope(positions.half_of_the_head),
        "RoPE angles in bf16": _of_rope(positions.bf16_angles),
        "RoPE of another kind of layer": PortingBug(
            positions.of_other_kind, (Op.ROPE,), applies=_other_kind_of_rope
        ),
        "queries not scaled by their position": PortingBug(rows.first_input, (Op.POSITION_SCALE,)),
        "values turned by RoPE": PortingBug(attention.turned_values, (Op.ATTEND,), applies=_fused),
        "norm: another epsilon": PortingBug(rows.other_epsilon, (Op.RMS_NORM,)),
        "norm: epsilon outside the root": PortingBug(rows.epsilon_outside, (Op.RMS_NORM,)),
        "norm: mean taken off": PortingBug(rows.mean_taken_off, (Op.RMS_NORM,)),
        "norm: sum in place of mean": PortingBug(rows.sum_for_mean, (Op.RMS_NORM,)),
        "norm: squares summed in f16": PortingBug(rows.squares_in_f16, (Op.RMS_NORM,)),
        "norm: weight left out": PortingBug(rows.norm_weight_left_out, ("ffn_norm",)),
        "norm: 1 + weight": PortingBug(rows.norm_weight_plus_one, (Op.RMS_NORM,)),
        "norm: 1 not added to the weight": PortingBug(
            rows.norm_weight_less_one, (Op.RMS_NORM,), applies=_norm_offset
        ),
        "norm behind a block left out": PortingBug(rows.first_input, ("attn_post_norm", "ffn_post_norm")),
        "norm of queries and keys left out": PortingBug(rows.head_norm_left_out, ("q_norm", "k_norm")),
        "norm of queries and keys over all heads": PortingBug(rows.norm_of_all_heads, ("q_norm", "k_norm")),
        "norm: weight of the next layer": PortingBug(rows.next_layer, ("attn_norm",), Layers.MIDDLE),
        "norm: weights of a layer exchanged": PortingBug(
            rows.other_norm_of_layer, ("attn_norm", "ffn_norm"), Layers.MIDDLE
        ),
        "norm of the feed-forward block reads the layer's input": PortingBug(rows.norm_of_layer_input, ("ffn_norm",)),
        "final norm left out": PortingBug(rows.first_input, ("final_norm",)),
        "bias left out": PortingBug(rows.first_input, (Op.BIAS,)),
        "bias twice": PortingBug(rows.bias_twice, (Op.BIAS,)),
        "bias left out for keys": PortingBug(rows.bias_of_keys_left_out, ("qkv_bias",)),
        "bias left out for values in the cache": PortingBug(
            attention.values_without_bias, (Op.ATTEND,), applies=_biased
        ),
        "bias of the next layer": PortingBug(rows.next_layer, (Op.BIAS,), Layers.MIDDLE),
        "rows of K and V exchanged": PortingBug(products.keys_and_values_exchanged, ("qkv_matmul",)),
        "V read for K": PortingBug(attention.values_as_keys, ("k_post_rope",), applies=_fused),
        "K read for V": PortingBug(attention.keys_as_values, (Op.ATTEND,), applies=_fused),
        "groups by remainder": PortingBug(attention.group_by_remainder, (Op.SCORES, Op.ATTEND), applies=_grouped),
        "one K/V head for all": PortingBug(
            attention.first_head_for_all, (Op.SCORES, Op.ATTEND), applies=_several_kv_heads
        ),
        "V of the neighbouring head": PortingBug(
            attention.neighbouring_head, (Op.ATTEND,), applies=_several_kv_heads
        ),
        "V of the layer before": PortingBug(
            attention.values_of_layer_before, (Op.ATTEND,), Layers.MIDDLE, applies=_fused
        ),
        "K cache written a slot late": PortingBug(attention.a_slot_late, (Op.SCORES,)),
        "V cache written a slot late": PortingBug(attention.a_slot_late, (Op.ATTEND,)),
        "K/V cache written a row late in decoding": PortingBug(
            attention.a_row_late_in_decoding, (Op.SCORES, Op.ATTEND)
        ),
        "newest key not written yet": PortingBug(attention.newest_not_written, (Op.SCORES,)),
        "newest value not written yet": PortingBug(attention.newest_not_written, (Op.ATTEND,)),
        "scale 1/d": PortingBug(attention.scaled_by_dimension, (Op.SCORES,)),
        "scale left out": PortingBug(attention.not_scaled, (Op.SCORES,)),
        "scale of the hidden size": PortingBug(attention.scaled_by_hidden, (Op.SCORES,)),
        "mask: own key unseen": _masked(attention.own_key_unseen),
        "mask: next key seen": _masked(attention.next_key_seen),
        "mask left out": _masked(attention.no_mask),
        "mask: first key taken for padding": _masked(attention.first_key_unseen),
        "mask: last token sees itself only": _masked(attention.only_itself),
        "mask: a window that the model lacks": _masked(attention.windowed),
        "mask: the window sees one key more": PortingBug(
            attention.window_one_more, (Op.SOFTMAX, Op.ATTEND), applies=_has_window
        ),
        "mask: no window": PortingBug(attention.window_left_out, (Op.SOFTMAX, Op.ATTEND), applies=_has_window),
        "mask: last tile of keys left out": _masked(attention.last_tile_left_out),
        "mask: −10 in place of −∞": _masked(attention.finite_mask),
        "mask behind the softmax": _masked(attention.masked_after),
        "softmax in f16 without its maximum": PortingBug(attention.f16_without_maximum, (Op.SOFTMAX,)),
        "softmax of powers of two": PortingBug(attention.powers_of_two, (Op.SOFTMAX,)),
        "softcap left out": PortingBug(rows.first_input, (Op.SOFTCAP,)),
        "softcap not undone": PortingBug(rows.cap_not_undone, (Op.SOFTCAP,)),
        "sinks left out": PortingBug(attention.sinks_left_out, (Op.SOFTMAX,), applies=_has_sinks),
        "sinks of the heads in reverse": PortingBug(attention.sinks_reversed, (Op.SOFTMAX,), applies=_has_sinks),
        "softmax not normalised": PortingBug(attention.not_normalised, (Op.SOFTMAX,)),
        "a head zero": PortingBug(attention.a_head_zero, (Op.ATTEND,), Layers.MIDDLE),
        "heads exchanged": PortingBug(attention.heads_exchanged, (Op.ATTEND,), Layers.MIDDLE),
        "heads not transposed": PortingBug(attention.heads_not_transposed, (Op.ATTEND,)),
        "attention: residual of the normed input": PortingBug(rows.residual_of_norm, ("post_attn_residual",)),
        "attention: residual left out": PortingBug(rows.second_input, ("post_attn_residual",), Layers.MIDDLE),
        "attention: residual twice": PortingBug(rows.residual_twice, ("post_attn_residual",)),
        "feed-forward: residual of the normed input": PortingBug(rows.residual_of_norm, (LAYER_OUTPUT,)),
        "feed-forward: residual left out": PortingBug(rows.second_input, (LAYER_OUTPUT,), Layers.MIDDLE),
        "feed-forward: residual of the layer's input": PortingBug(
            rows.residual_of_layer_input, (LAYER_OUTPUT,), Layers.MIDDLE
        ),
        "residual clamped": PortingBug(rows.residual_clamped, (LAYER_OUTPUT,), Layers.MIDDLE),
        "layer left out": PortingBug(rows.layer_left_out, (LAYER_OUTPUT,), Layers.MIDDLE),
        "layer used twice": PortingBug(products.layer_before, _LAYER_PARAMETERS, Layers.MIDDLE),
        "layers exchanged": PortingBug(products.other_layer, _LAYER_PARAMETERS, Layers.MIDDLE_TWO),
        "gate and up exchanged": PortingBug(products.gate_and_up_exchanged, ("ffn_gate", "ffn_up")),
        "GELU for SiLU": PortingBug(rows.gelu_for_silu, (Op.SILU,)),
        "sigmoid for SiLU": PortingBug(rows.sigmoid_for_silu, (Op.SILU,)),
        "hard SiLU": PortingBug(rows.hard_silu, (Op.SILU,)),
        "SiLU left out": PortingBug(rows.first_input, (Op.SILU,)),
        "SiLU on the other operand": PortingBug(rows.activation_of_up, ("ffn_silu", "ffn_swigl")),
        "SiLU for GELU": PortingBug(rows.silu_for_gelu, (Op.GELU,)),
        "quick GELU for GELU": PortingBug(rows.quick_gelu, (Op.GELU,)),
        "SwiGLU of gpt-oss: not clamped": PortingBug(rows.swiglu_not_clamped, (Op.SWIGLU_OAI,)),
        "SwiGLU of gpt-oss: 1 not added": PortingBug(rows.swiglu_without_one, (Op.SWIGLU_OAI,)),
        "SwiGLU of gpt-oss: sigmoid without its factor": PortingBug(rows.swiglu_without_factor, (Op.SWIGLU_OAI,)),
        "up left out": PortingBug(rows.first_input, ("ffn_swigl",)),
        "gate of the attention left out": PortingBug(rows.first_input, ("attn_gated",)),
        "gate of the attention before the query": PortingBug(recurrence.gate_of_the_query, (Op.HEAD_GATE,)),
        "experts: the least probable chosen": PortingBug(experts.least_probable, (Op.CHOOSE_EXPERTS,)),
        "experts: ids from 1": PortingBug(experts.one_behind, (Op.CHOOSE_EXPERTS,)),
        "experts: matrices of the next one": PortingBug(experts.of_the_next_expert, ("ffn_moe_down",)),
        "experts: gate and up exchanged": PortingBug(
            experts.gate_and_up_exchanged, ("ffn_moe_gate", "ffn_moe_up")
        ),
        "experts: chosen without the router's bias": PortingBug(
            experts.chosen_without_bias, (Op.CHOOSE_EXPERTS,), applies=experts.has_router_bias
        ),
        "experts: groups ignored": PortingBug(
            experts.groups_ignored, (Op.CHOOSE_EXPERTS,), applies=experts.has_groups
        ),
        "experts: groups chosen without the router's bias": PortingBug(
            experts.groups_without_bias, (Op.CHOOSE_EXPERTS,), applies=experts.has_groups_and_bias
        ),
        "experts: groups by their largest alone": PortingBug(
            experts.groups_by_largest, (Op.CHOOSE_EXPERTS,), applies=experts.has_groups_by_two
        ),
        "experts: the router's bias in their weights": PortingBug(
            experts.weights_with_bias, (Op.TAKE_CHOSEN,), applies=experts.has_router_bias
        ),
        "experts: weights not scaled": PortingBug(rows.first_input, (Op.SCALE_CHOSEN,)),
        "router: softmax for the sigmoid": PortingBug(
            experts.softmax_for_sigmoid, (ROUTER,), applies=experts.has_sigmoid_router
        ),
        "experts: weights not normalised": PortingBug(rows.first_input, (Op.NORMALISE_CHOSEN,)),
        "experts: added up without weights": PortingBug(experts.unweighted, (Op.COMBINE_EXPERTS,)),
        "experts: weights in reverse": PortingBug(experts.weights_in_reverse, (Op.COMBINE_EXPERTS,)),
        "experts: the last one left out": PortingBug(experts.last_left_out, (Op.COMBINE_EXPERTS,)),
        "shared expert left out": PortingBug(rows.first_input, ("ffn_shexp_sum",)),
        "shared expert's gate left out": PortingBug(rows.first_input, (Op.SCALE_ROWS,)),
        "sigmoid left out": PortingBug(rows.first_input, (Op.SIGMOID,)),
        "convolution: taps backwards": PortingBug(recurrence.taps_backwards, (Op.CONVOLUTION,)),
        "convolution: a step late": PortingBug(recurrence.own_token_unseen, (Op.CONVOLUTION,)),
        "convolution: oldest tap left out": PortingBug(recurrence.oldest_tap_left_out, (Op.CONVOLUTION,)),
        "recurrence: queries and keys not normalised": PortingBug(recurrence.not_normalised, (Op.HEAD_L2_NORM,)),
        "recurrence: queries and keys normalised over all heads": PortingBug(
            recurrence.normalised_over_all_heads, (Op.HEAD_L2_NORM,)
        ),
        "recurrence: bias of the step left out": PortingBug(recurrence.without_bias, (Op.SOFTPLUS,)),
        "recurrence: softplus left out": PortingBug(recurrence.softplus_left_out, (Op.SOFTPLUS,)),
        "recurrence: state grows": PortingBug(recurrence.grows, (Op.DECAY,)),
        "recurrence: no decay": PortingBug(recurrence.no_decay, (Op.DECAY,)),
        "recurrence: linear attention": _of_state(recurrence.plain_sum),
        "recurrence: decay behind the update": _of_state(recurrence.decay_afterwards),
        "recurrence: no learning rate": _of_state(recurrence.full_rate),
        "recurrence: state forgotten": _of_state(recurrence.forgotten),
        "recurrence: beta and alpha exchanged": PortingBug(
            recurrence.other_half_of_heads, (Op.HEAD_FRONT, Op.HEAD_BACK), applies=_fused
        ),
        "recurrence: all betas before all alphas": PortingBug(
            recurrence.halves_of_the_row, (Op.HEAD_FRONT, Op.HEAD_BACK), applies=_several_key_heads
        ),
        "latent attention: the other end of heads": PortingBug(
            latent.other_end_of_heads, (Op.HEAD_FRONT, Op.HEAD_BACK), applies=latent.has_latent_attention
        ),
        "latent attention: turned channels first": PortingBug(latent.parts_exchanged, (Op.HEAD_JOIN,)),
        "latent attention: turned channels of the first head": PortingBug(
            latent.back_of_the_first_head, (Op.HEAD_JOIN,), applies=latent.has_several_backs
        ),
        "latent attention: matrix of the next head": PortingBug(latent.of_the_next_head, (Op.HEAD_MATMUL,)),
        "recurrence: key heads in the other order": PortingBug(
            recurrence.keys_of_other_heads, (Op.DELTA_STATE, Op.DELTA_OUTPUT), applies=_several_key_heads
        ),
        "recurrence: state before its update": PortingBug(recurrence.state_before_update, (Op.DELTA_OUTPUT,)),
        "recurrence: state transposed": PortingBug(recurrence.state_transposed, (Op.DELTA_OUTPUT,)),
        "recurrence: query not scaled": PortingBug(recurrence.query_not_scaled, (Op.DELTA_OUTPUT,)),
        "recurrence: gate left out": PortingBug(rows.first_input, ("linear_attn_gated",)),
        "Inf by overflow": PortingBug(rows.inf_beyond_limit, (Op.MULTIPLY,), Layers.MIDDLE),
        "one NaN": PortingBug(products.one_nan, ("ffn_gate",), Layers.MIDDLE),
        "matrix transposed": PortingBug(
            products.transposed, ("attn_out", "attn_out_matmul"), Layers.MIDDLE, applies=products.is_square
        ),
        "matrix of the next layer": PortingBug(
            products.next_layer, ("ffn_out",), Layers.MIDDLE, applies=products.is_matrix
        ),
        "minimums of blocks left out": PortingBug(
            products.minimums_left_out, (Op.MATMUL,), applies=products.has_minimums
        ),
        "halves of bytes exchanged": PortingBug(
            products.nibbles_exchanged, (Op.MATMUL,), Layers.MIDDLE, applies=products.has_nibbles
        ),
        "columns of blocks reversed": PortingBug(products.columns_reversed, ("ffn_up",), Layers.MIDDLE),
        "a block's scale doubled": PortingBug(
            products.block_scale_doubled, ("attn_out", "attn_out_matmul"), Layers.MIDDLE, applies=products.is_matrix
        ),
        "blocks of 32 rows negated": PortingBug(products.block_negated, ("ffn_gate",), Layers.MIDDLE),
        "a tile transposed": PortingBug(
            products.tile_transposed, ("ffn_out",), Layers.MIDDLE, applies=products.is_matrix
        ),
        "tail of the columns left out": PortingBug(products.tail_left_out, (Op.MATMUL,)),
        "half of the columns left out in the last rows": PortingBug(
            products.second_half_unsummed, ("ffn_out",), Layers.MIDDLE, applies=products.is_matrix
        ),
        "last channels zero": PortingBug(products.last_channels_zero, ("ffn_up",), Layers.MIDDLE),
        "last token's row stale": PortingBug(products.last_row_stale, ("ffn_gate",), Layers.MIDDLE),
        "inputs of products clamped": PortingBug(products.input_clamped, (Op.MATMUL,)),
        "scale of the block before for 8-bit inputs": PortingBug(
            products.scale_of_block_before, ("ffn_out",), applies=products.is_matrix
        ),
        "embedding of the next id": PortingBug(rows.next_token_last, (ENTRY,)),
        "embedding scaled": PortingBug(rows.embedding_scaled, (ENTRY,)),
        "logits of the token before": PortingBug(rows.logits_of_token_before, ("lm_head",)),
        "logits a row late": PortingBug(rows.logits_a_row_late, ("lm_head",)),
        "last logits zero": PortingBug(rows.last_logits_zero, ("lm_head",)),
        "logits summed in f16": PortingBug(rows.f16_logits, ("lm_head",)),
    }
)  # fmt: skip
"""Each as its tables show it."""
