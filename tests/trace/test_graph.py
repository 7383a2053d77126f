"""The stage graph: order, edges, shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aprtui.errors import UsageError
from aprtui.trace.graph.config import Activation, GraphConfig, LatentAttention, Router
from aprtui.trace.graph.names import graph_from_names, known_names, with_stages_of_its_kind
from aprtui.trace.graph.ops import Axis, Op, Part
from aprtui.trace.graph.stage import CODES, Node, canonical_name
from aprtui.trace.graph.stage_graph import graph_for
from aprtui.trace.select import parse_layers, select_nodes, select_stages

QWEN2 = GraphConfig("qwen2", 3, 256, 4, 2, 64, 768, 1024, qkv_bias=True)
QWEN3 = GraphConfig("qwen3", 2, 256, 4, 2, 128, 768, 1024, qk_norm=True)
GEMMA2 = GraphConfig(
    "gemma2", 2, 256, 4, 2, 128, 768, 1024, post_norms=True, activation=Activation.GELU_TANH, attn_softcap=True,
    logit_softcap=True, windows=(64, 0),
)  # fmt: skip
EXPERTS = GraphConfig(
    "qwen3moe", 2, 256, 4, 2, 64, 768, 1024, qk_norm=True, experts=8, experts_used=2, expert_ffn=128
)  # fmt: skip
GPT_OSS = GraphConfig(
    "gpt-oss", 2, 256, 4, 2, 64, 128, 1024, qkv_bias=True, activation=Activation.SWIGLU_OAI, windows=(64, 0),
    sinks=True, attn_out_bias=True, ffn_norm="post_attention_norm", experts=8, experts_used=2, expert_ffn=128,
    biased_experts=True,
)  # fmt: skip

HYBRID = GraphConfig(
    "qwen35", 3, 256, 4, 2, 64, 768, 1024, qk_norm=True, gated_attention=True, rope_dim=16, conv_kernel=4,
    recurrent=(True, True, False), linear_key_heads=2, linear_value_heads=4, linear_head_dim=32,
)  # fmt: skip
GROUPED_HYBRID = replace(HYBRID, grouped_value_heads=True, fused_beta_alpha=True)
HYBRID_EXPERTS = replace(HYBRID, experts=8, experts_used=2, expert_ffn=128, shared_expert_ffn=64)
GLM = replace(
    EXPERTS, layers=3, dense=(True, False, False), router=Router.SIGMOID, router_bias=True, scaled_experts=True,
    shared_expert_ffn=128, shared_expert_gate=False, ffn_norm="post_attention_norm",
)  # fmt: skip

_LATENT = LatentAttention(rank=96, query_rank=64, nope=64, rope=32, value=32, absorbed=True)
ABSORBED = replace(
    GLM, router=Router.SOFTMAX, router_bias=False, qk_norm=False, latent=_LATENT, head_dim=128, kv_heads=1, rope_dim=32
)
EXPANDED = replace(ABSORBED, latent=replace(_LATENT, absorbed=False), head_dim=96, kv_heads=4)

# The order of the format (`SaveTensorStage::ALL`), of which dense models have these.
UPSTREAM_ORDER = [
    *("embedding", "attn_norm", "qkv_matmul", "qkv_bias", "q_post_rope", "k_post_rope", "attn_scores", "attn_softmax"),
    *("attention", "attn_out", "post_attn_residual", "ffn_norm", "ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl"),
    *("ffn_out", "post_ffn_residual", "final_norm", "lm_head"),
]


def test_biased_dense_model_has_the_twenty_stages_in_upstream_order() -> None:
    assert list(graph_for(QWEN2).names) == UPSTREAM_ORDER


def test_every_input_comes_before_the_node_that_uses_it() -> None:
    for config in (
        QWEN2,
        QWEN3,
        GEMMA2,
        EXPERTS,
        GPT_OSS,
        HYBRID,
        GROUPED_HYBRID,
        HYBRID_EXPERTS,
        GLM,
        ABSORBED,
        EXPANDED,
    ):
        graph = graph_for(config)
        for node in graph.nodes:
            for source in graph.inputs(node):
                assert graph.order[source] < graph.order[node]


def test_layers_are_joined_by_the_layer_output() -> None:
    graph = graph_for(QWEN2)
    assert graph.inputs(Node(0, "attn_norm")) == (Node(0, "embedding"),)
    assert graph.inputs(Node(2, "attn_norm")) == (Node(1, "post_ffn_residual"),)
    assert graph.inputs(Node(2, "post_attn_residual")) == (Node(1, "post_ffn_residual"), Node(2, "attn_out"))
    assert graph.inputs(Node(None, "final_norm")) == (Node(2, "post_ffn_residual"),)


def test_embedding_stands_in_the_first_layer_only() -> None:
    graph = graph_for(QWEN2)
    assert [node for node in graph.nodes if node.stage == "embedding"] == [Node(0, "embedding")]
    assert len(graph.nodes) == 1 + 3 * 17 + 2


def test_qk_norms_are_extensions_between_matmul_and_rope() -> None:
    graph = graph_for(QWEN3)
    assert [stage.name for stage in graph.stages if stage.extension] == ["q_norm", "k_norm"]
    assert "qkv_bias" not in graph
    assert graph.inputs(Node(1, "q_post_rope")) == (Node(1, "q_norm"),)
    assert graph["q_norm"].inputs[0].part is Part.Q


def test_norms_behind_a_block_stand_between_its_product_and_the_residual() -> None:
    graph = graph_for(GEMMA2)
    for norm, product, total in (
        ("attn_post_norm", "attn_out", "post_attn_residual"), ("ffn_post_norm", "ffn_out", "post_ffn_residual")
    ):  # fmt: skip
        assert graph.inputs(Node(1, norm)) == (Node(1, product),)
        assert graph.inputs(Node(1, total))[1] == Node(1, norm)


def test_softcaps_are_stages_behind_scores_and_head() -> None:
    graph = graph_for(GEMMA2)
    assert graph.inputs(Node(0, "attn_softmax")) == (Node(0, "attn_softcap"),)
    assert graph["attn_softcap"].is_attention_map
    assert graph.nodes[-1] == Node(None, "logit_softcap")
    assert graph["logit_softcap"].holds_logits


def test_the_stages_of_an_activation_are_named_by_it() -> None:
    names = graph_for(GEMMA2).names
    assert {"ffn_gelu", "ffn_geglu"} <= set(names)
    assert not {"ffn_silu", "ffn_swigl"} & set(names)
    assert graph_from_names({"ffn_gate", "ffn_geglu"}, 1).inputs(Node(0, "ffn_geglu")) == (Node(0, "ffn_gate"),)


def test_a_layer_says_whether_it_has_a_window() -> None:
    assert [GEMMA2.window(layer) for layer in (0, 1, None)] == [64, 0, 0]
    assert QWEN2.window(0) == 0


def test_widths_follow_head_dim_rather_than_hidden_size() -> None:
    graph = graph_for(QWEN3)
    assert graph["qkv_matmul"].shape(5) == (5, 4 * 128 + 2 * 2 * 128)
    assert graph["attention"].shape(5) == (5, 512)
    assert graph["attn_scores"].shape(5) == (4, 5, 5)
    assert graph["attn_scores"].size(5) == 100
    assert Axis.VOCABULARY in graph["lm_head"].axes


def test_fused_parts_cover_the_columns_once() -> None:
    columns = list(range(QWEN2.qkv_width))
    assert columns[QWEN2.part(Part.Q)] + columns[QWEN2.part(Part.K)] + columns[QWEN2.part(Part.V)] == columns


def test_rope_order_reaches_back_to_the_matrix_product() -> None:
    parts = graph_for(QWEN2).rope_parts
    assert parts == {
        "q_post_rope": {Part.WHOLE}, "k_post_rope": {Part.WHOLE},
        "qkv_bias": {Part.Q, Part.K}, "qkv_matmul": {Part.Q, Part.K},
    }  # fmt: skip
    assert graph_for(QWEN3).rope_parts["q_norm"] == {Part.WHOLE}
    assert graph_for(QWEN3).rope_parts["qkv_matmul"] == {Part.Q, Part.K}


def test_rope_order_ends_where_the_matrix_product_was_not_captured() -> None:
    """The edges then lead on, through the residual stream and round all layers."""
    names = {"embedding", "attn_norm", "qkv_bias", "q_post_rope", "attention", "ffn_out", "post_ffn_residual"}
    assert graph_from_names(names, 2).rope_parts == {"q_post_rope": {Part.WHOLE}, "qkv_bias": {Part.Q}}
    assert graph_from_names({"q_post_rope", "ffn_out"}, 2).rope_parts == {"q_post_rope": {Part.WHOLE}}


def test_stages_of_the_model_come_from_nowhere_where_no_layer_was_captured() -> None:
    """A walk back from the logits would go on for ever, through layers −1, −2, …"""
    graph = with_stages_of_its_kind(graph_from_names({"lm_head", "final_norm"}, 0))
    assert graph.inputs(Node(None, "lm_head")) == (Node(None, "final_norm"),)
    assert graph.inputs(Node(None, "final_norm")) == ()


def test_graph_from_names_bridges_stages_that_are_missing() -> None:
    graph = graph_from_names({"embedding", "attn_norm", "attn_out", "ffn_norm", "ffn_out"}, layers=2)
    assert set(graph.inputs(Node(1, "attn_out"))) == {Node(1, "attn_norm")}
    assert set(graph.inputs(Node(0, "attn_norm"))) == {Node(0, "embedding")}
    assert set(graph.inputs(Node(1, "attn_norm"))) >= {Node(0, "ffn_out")}


def test_graph_from_names_crosses_one_layer_boundary_at_most() -> None:
    graph = graph_from_names({"ffn_gate"}, layers=3)
    assert graph.inputs(Node(2, "ffn_gate")) == (Node(1, "ffn_gate"),)
    assert graph.inputs(Node(0, "ffn_gate")) == (), "the embedding was not captured"


def test_graph_from_all_names_has_the_edges_of_the_full_graph() -> None:
    latent = (replace(config, dense=()) for config in (ABSORBED, EXPANDED))
    for config in (QWEN2, GEMMA2, GPT_OSS, replace(GLM, dense=()), *latent):
        full = graph_for(config)
        named = graph_from_names(set(full.names), full.layers)
        assert {node: named.inputs(node) for node in named.nodes} == {node: full.inputs(node) for node in full.nodes}


def test_the_stages_of_the_format_are_known_and_no_extension() -> None:
    dense = replace(QWEN2, qk_norm=True, query_temperature=True)
    configs = [
        dense,
        GEMMA2,
        GPT_OSS,
        replace(GPT_OSS, experts=0),
        HYBRID_EXPERTS,
        GROUPED_HYBRID,
        GLM,
        ABSORBED,
        EXPANDED,
    ]
    configs += [replace(EXPERTS, activation=activation) for activation in Activation]
    graphs = [graph_for(config) for config in configs]
    extensions = {stage.name for graph in graphs for stage in graph.stages if stage.extension}
    assert len([name for name in known_names() if name not in extensions]) == 23
    assert all(name in extensions for name in known_names() if name.startswith("ffn_moe_") or name[1:] == "_norm")


def test_a_layer_with_experts_has_no_stage_of_a_dense_block() -> None:
    names = graph_for(EXPERTS).names
    assert not {"ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl", "ffn_out"} & set(names)
    begin, end = names.index("ffn_norm"), names.index("post_ffn_residual")
    assert names[begin + 1 : end] == (
        "ffn_moe_logits", "moe_router", "moe_router_indices", "ffn_moe_weights", "ffn_moe_weights_norm",
        "ffn_moe_gate", "ffn_moe_up", "ffn_moe_silu", "ffn_moe_swiglu", "ffn_moe_down", "moe_ffn_out",
    )  # fmt: skip


def test_biases_of_gpt_oss_are_stages_of_their_own_and_logits_choose_its_experts() -> None:
    graph = graph_for(GPT_OSS)
    begin, end = graph.names.index("attention"), graph.names.index("post_ffn_residual")
    assert graph.names[begin + 1 : end] == (
        "attn_out_matmul", "attn_out", "post_attn_residual", "ffn_norm", "ffn_moe_logits", "moe_router",
        "moe_router_indices", "ffn_moe_weights", "ffn_moe_weights_softmax", "ffn_moe_gate", "ffn_moe_gate_biased",
        "ffn_moe_up", "ffn_moe_up_biased", "ffn_moe_swiglu_oai", "ffn_moe_down", "ffn_moe_down_biased", "moe_ffn_out",
    )  # fmt: skip
    assert graph["moe_router"].op is Op.BIAS and graph["attn_out"].op is Op.BIAS
    assert graph["ffn_moe_weights_softmax"].column_axis == "choice"
    assert graph.inputs(Node(0, "ffn_moe_swiglu_oai")) == (Node(0, "ffn_moe_gate_biased"), Node(0, "ffn_moe_up_biased"))
    assert graph["attn_softmax"].params == ("attn_sinks",) and graph["ffn_norm"].params == ("post_attention_norm",)


def test_a_capture_of_gpt_oss_by_an_engine_that_adds_biases_within_products_is_known_by_its_names() -> None:
    names = {"attention", "attn_out", "moe_router", "moe_router_indices", "ffn_moe_weights_softmax",
             "ffn_moe_gate_biased", "ffn_moe_swiglu_oai", "ffn_norm"}  # fmt: skip
    graph = graph_from_names(names, 1)
    assert graph.inputs(Node(0, "attn_out")) == (Node(0, "attention"),)
    assert graph.inputs(Node(0, "ffn_moe_gate_biased")) == (Node(0, "ffn_norm"), Node(0, "moe_router_indices"))
    assert graph.inputs(Node(0, "ffn_moe_weights_softmax")) == (Node(0, "moe_router"), Node(0, "moe_router_indices"))


def test_rows_of_experts_are_stated_expert_by_expert() -> None:
    graph = graph_for(EXPERTS)
    assert graph["moe_router"].stated_shape(5) == (5, 8)
    assert graph["moe_router_indices"].stated_shape(5) == (5, 2)
    assert graph["ffn_moe_gate"].stated_shape(5) == (5, 2, 128) and graph["ffn_moe_gate"].shape(5) == (5, 256)
    assert graph["ffn_moe_down"].stated_shape(5) == (5, 2, 256)
    assert graph["moe_ffn_out"].stated_shape(5) == (5, 256)
    assert all(len(stage.stated_shape(5)) == len(stage.axes) for stage in graph.stages)


def test_a_graph_from_names_of_layers_with_experts_has_their_edges() -> None:
    full = graph_for(EXPERTS)
    named = graph_from_names(set(full.names), full.layers)
    assert {node: named.inputs(node) for node in named.nodes} == {node: full.inputs(node) for node in full.nodes}
    few = graph_from_names({"ffn_norm", "moe_router", "moe_ffn_out", "post_ffn_residual"}, 1)
    assert few.inputs(Node(0, "moe_ffn_out")) == (Node(0, "ffn_norm"), Node(0, "moe_router"))
    assert few.inputs(Node(0, "post_ffn_residual")) == (Node(0, "moe_ffn_out"),)


def test_every_stage_has_a_code_of_three_letters_of_its_own() -> None:
    assert CODES.keys() == set(known_names())
    assert len(set(CODES.values())) == len(CODES)
    assert all(len(code) == 3 and code.isalpha() and code.islower() for code in CODES.values())
    assert graph_for(QWEN2)["ffn_gate"].code == CODES["ffn_gate"]


def test_aliases_lead_to_canonical_names() -> None:
    assert canonical_name(" Layer_Output ") == "post_ffn_residual"
    assert canonical_name("FFN_GATE") == "ffn_gate"


@pytest.mark.parametrize(
    ("text", "layers"), [("0..1", {0}), ("all", {0, 1, 2, 3}), ("0,3", {0, 3}), (" 1 .. 3 ", {1, 2}), ("2..99", {2, 3})]
)
def test_layer_ranges_are_half_open(text: str, layers: set[int]) -> None:
    assert parse_layers(text, 4) == layers


@pytest.mark.parametrize("text", ["", "1..1", "3..2", "x", "1..", "..2", "9", "4..8", "-1"])
def test_ranges_that_select_nothing_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError, match="layers"):
        parse_layers(text, 4)


def test_stages_are_selected_by_name_alias_and_glob() -> None:
    graph = graph_for(QWEN2)
    assert select_stages("layer_output, ATTN_s*", graph) == ("attn_scores", "attn_softmax", "post_ffn_residual")
    assert select_stages("all", graph) == graph.names


@pytest.mark.parametrize("text", ["attn_nrm", "ffn_gate,,ffn_up", "ffn_gate,", "", "q_norm", "zz*"])
def test_unknown_or_empty_stage_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="stages"):
        select_stages(text, graph_for(QWEN2))


def test_model_level_stages_do_not_depend_on_the_layers() -> None:
    graph = graph_for(QWEN2)
    assert select_nodes(graph, ("ffn_out", "lm_head"), {1}) == {Node(1, "ffn_out"), Node(None, "lm_head")}


def test_layers_of_one_kind_have_no_mark_and_no_words() -> None:
    for config in (QWEN2, EXPERTS, replace(QWEN2, windows=(64, 64, 64))):
        graph = graph_for(config)
        assert set(graph.layer_marks) == {" "} and graph.kind_words(1) == ""
    assert graph_from_names(["attn_norm"], 2).layer_marks == () and graph_for(GEMMA2).kind_words(None) == ""


def test_a_layer_has_attention_or_a_recurrence_and_adds_what_it_has() -> None:
    graph = graph_for(HYBRID)
    assert graph.layer_marks == ("o", "o", " ")
    assert [graph.kind_words(layer) for layer in (0, 2)] == ["recurrence", "attention"]
    assert Node(0, "attention") not in graph.order and Node(2, "linear_attn_output") not in graph.order
    assert graph.inputs(Node(1, "post_attn_residual")) == (Node(0, "post_ffn_residual"), Node(1, "linear_attn_out"))
    assert graph.inputs(Node(2, "post_attn_residual")) == (Node(1, "post_ffn_residual"), Node(2, "attn_out"))
    for node in graph.nodes:
        assert len(graph.entries(node)) == len(graph.inputs(node))


@pytest.mark.parametrize("config", [ABSORBED, EXPANDED], ids=["absorbed", "expanded"])
def test_queries_meet_keys_of_their_own_size_and_values_have_another(config: GraphConfig) -> None:
    graph, latent = graph_for(config), config.latent
    assert latent is not None
    queries, keys = (graph[source.stage] for source in graph.inputs(Node(1, "attn_scores")))
    assert (queries.heads, queries.head_size) == (4, latent.key_dim)
    assert (keys.heads, keys.head_size) == (config.kv_heads, latent.key_dim)
    weighed = next(stage for stage in graph.stages if stage.op is Op.ATTEND)
    assert (weighed.heads, weighed.head_size) == (4, latent.value_dim)
    assert (graph["attention"].heads, graph["attention"].head_size) == (4, latent.value)
    assert graph.inputs(Node(1, "attn_out")) == (Node(1, "attention"),)


def test_forms_of_latent_attention_have_a_name_for_one_thing_each() -> None:
    """Captures of the two forms share what is the same in both."""
    absorbed, expanded = graph_for(ABSORBED), graph_for(EXPANDED)
    for name in {*absorbed.names} & {*expanded.names}:
        assert absorbed[name].width == expanded[name].width
    assert {*absorbed.names} - {*expanded.names} == {"q_nope_absorbed", "q_latent", "k_latent", "attn_latent"}
    assert {*expanded.names} - {*absorbed.names} == {"mla_kv", "k_nope", "v_heads", "q_post_rope", "k_post_rope"}


def test_a_graph_from_names_of_both_forms_has_the_stages_of_both_each_behind_its_inputs() -> None:
    absorbed, expanded = (graph_for(replace(config, dense=())) for config in (ABSORBED, EXPANDED))
    names = {*absorbed.names, *expanded.names}
    both = graph_from_names(names, 2)
    assert {*both.names} == names and both.has_latent_attention
    only_one = {*absorbed.names} ^ {*expanded.names}
    assert all(both[name].extension for name in only_one), "engines differ in which they have"
    for node in both.nodes:
        assert all(both.order[source] < both.order[node] for source in both.inputs(node))


def test_the_state_of_a_recurrence_is_a_stage_of_the_last_position() -> None:
    graph = graph_for(HYBRID)
    state = graph["linear_attn_state"]
    assert state.of_last_position and state.width == 4 * 32 * 32
    assert [name for name in graph.names if graph[name].of_last_position] == ["linear_attn_state", "lm_head"]
    assert state.name not in graph.row_widths
    assert graph.inputs(Node(0, "linear_attn_output"))[0] == Node(0, "linear_attn_state")


def test_names_of_a_recurrence_bring_its_edges_and_other_names_none_of_them() -> None:
    hybrid = graph_from_names({"attn_norm", "linear_attn_out", "attn_out", "post_attn_residual"}, 2)
    assert Node(1, "linear_attn_out") in hybrid.inputs(Node(1, "post_attn_residual"))
    dense = graph_from_names({"attention", "attn_out", "attn_norm", "post_attn_residual"}, 2)
    assert dense.inputs(Node(1, "attn_out")) == (Node(1, "attention"),)
    assert dense.inputs(Node(1, "post_attn_residual")) == (Node(0, "post_attn_residual"), Node(1, "attn_out"))


def test_beta_and_alpha_of_one_product_are_stages_behind_it() -> None:
    graph = graph_for(GROUPED_HYBRID)
    fused = Node(1, "linear_attn_mixed_ba")
    assert graph[fused.stage].width == 8 and graph[fused.stage].params == ("ssm_ba",)
    assert graph.inputs(Node(1, "linear_attn_beta")) == graph.inputs(Node(1, "linear_attn_alpha")) == (fused,)
    named = graph_from_names(set(graph.names), graph.layers)
    assert named.inputs(Node(1, "linear_attn_beta")) == (fused,)
    others = graph_from_names(set(graph_for(HYBRID).names), graph.layers)
    assert others.inputs(Node(1, "linear_attn_beta")) == (Node(1, "attn_norm"),)
    assert others["linear_attn_beta"].op is Op.MATMUL


def test_a_shared_expert_is_added_to_those_that_are_chosen() -> None:
    graph = graph_for(HYBRID_EXPERTS)
    assert graph.inputs(Node(0, "ffn_shexp_sum")) == (Node(0, "moe_ffn_out"), Node(0, "ffn_shexp_gated"))
    assert graph.inputs(Node(0, "post_ffn_residual"))[1] == Node(0, "ffn_shexp_sum")


def test_a_leading_layer_without_experts_has_the_stages_of_a_dense_block_and_no_others() -> None:
    graph = graph_for(GLM)
    assert graph.layer_marks == (" ", "+", "+")
    assert [graph.kind_words(layer) for layer in range(3)] == ["dense", "experts", "experts"]
    of_layers = [{node.stage for node in graph.nodes if node.layer == layer} for layer in range(2)]
    assert of_layers[0] - of_layers[1] == {"embedding", "ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl", "ffn_out"}
    assert {"moe_router", "ffn_moe_gate", "ffn_shexp_sum"} <= of_layers[1] - of_layers[0]
    assert graph.inputs(Node(0, "post_ffn_residual")) == (Node(0, "post_attn_residual"), Node(0, "ffn_out"))
    assert graph.inputs(Node(1, "post_ffn_residual")) == (Node(1, "post_attn_residual"), Node(1, "ffn_shexp_sum"))
    assert graph.inputs(Node(1, "ffn_shexp_sum")) == (Node(1, "moe_ffn_out"), Node(1, "ffn_shexp"))
    named = graph_from_names(set(graph.names), graph.layers)
    assert set(graph.inputs(Node(2, "post_ffn_residual"))) < set(named.inputs(Node(2, "post_ffn_residual")))


def test_a_stage_has_siblings_in_its_own_layer_only() -> None:
    """Where the shared expert is as wide as the blocks of dense layers, whose gate is of other layers."""
    graph = graph_for(replace(GLM, shared_expert_ffn=GLM.ffn))
    for gate, up in (("ffn_gate", "ffn_up"), ("ffn_shexp_gate", "ffn_shexp_up")):
        assert [stage.name for stage in graph.siblings(gate)] == [up]


def test_a_router_with_a_bias_chooses_by_the_biased_values_and_weights_by_the_others() -> None:
    graph = graph_for(GLM)
    assert graph["moe_router"].op is Op.SIGMOID
    assert graph.inputs(Node(1, "moe_router_indices")) == (Node(1, "ffn_moe_probs_biased"),)
    assert graph.inputs(Node(1, "ffn_moe_weights")) == (Node(1, "moe_router"), Node(1, "moe_router_indices"))
    assert graph.inputs(Node(1, "moe_ffn_out"))[1] == Node(1, "ffn_moe_weights_scaled")
    plain = graph_for(replace(GLM, normalised_experts=False, scaled_experts=False))
    assert plain.inputs(Node(1, "moe_ffn_out"))[1] == Node(1, "ffn_moe_weights")


def test_layers_without_rope_are_marked_and_several_differences_have_a_mark_of_their_own() -> None:
    graph = graph_for(replace(QWEN2, layers=3, no_rope=(False, False, True)))
    assert graph.layer_marks == (" ", " ", "-")
    assert [graph.kind_words(layer) for layer in range(3)] == ["RoPE", "RoPE", "no RoPE"]
    both = graph_for(replace(QWEN2, layers=3, windows=(0, 8, 8), no_rope=(False, False, True)))
    assert both.layer_marks == (" ", "~", "*")
    assert both.kind_words(2) == "a window of 8 positions, no RoPE"


def test_layers_with_a_window_are_marked_where_others_see_all_positions() -> None:
    graph = graph_for(replace(GEMMA2, layers=3, windows=(64, 0, 128)))
    assert graph.layer_marks == ("~", " ", "~")
    assert [graph.kind_words(layer) for layer in range(3)] == [
        "a window of 64 positions", "all positions", "a window of 128 positions"
    ]  # fmt: skip
