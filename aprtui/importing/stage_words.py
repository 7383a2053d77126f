"""What engines call the stages, for mappings that are guessed. A row is a stage; a word may stand in one row only."""

from __future__ import annotations

from collections.abc import Sequence

from aprtui.trace.graph.stage import ENTRY, LAYER_OUTPUT

QKV = ("qkv:q", "qkv:k", "qkv:v")
_WORDS: Sequence[tuple[str, str]] = (
    (
        ENTRY,
        "embed_tokens|token_embd|inp_embd|tok_embeddings|embeddings?|embed|tok_emb|token_embeddings?|wte|inputs_embeds",
    ),
    (
        "attn_norm",
        "input_layernorm|attention_norm|attn_norm|pre_attn_norm|attn_rmsnorm|ln_1|ln1|norm_1|norm1|attn_ln|input_norm|rms1|rms_1|rmsnorm1|norm_attn",
    ),
    ("q_post_rope", "q_post_rope|q_rope|rope_q|q_rot|rot_q|q_rotated|query_rotated|q_roped"),
    ("k_post_rope", "k_post_rope|k_rope|rope_k|k_rot|rot_k|k_rotated|key_rotated|k_roped"),
    ("q_norm", "q_norm|q_layernorm"),
    ("k_norm", "k_norm|k_layernorm"),
    ("qkv", "qkv|qkv_proj|c_attn|wqkv|query_key_value"),
    (QKV[0], "q_proj|wq|query|attn_q|q"),
    (QKV[1], "k_proj|wk|key|attn_k|k"),
    (QKV[2], "v_proj|wv|value|attn_v|v"),
    ("attn_scores", "attn_scores|scores|attn_logits|attention_scores|kq"),
    (
        "attn_softmax",
        "attn_softmax|softmax|attentions|attn_probs|attn_weights|attention_probs|kq_soft_max|probs|pattern",
    ),
    ("attention", "attention|attn_ctx|kqv_out|attn_context|attn_values|heads_out|z|ctx|context"),
    ("attn_out", "attn_out|o_proj|attention_output|attn_output|attn_proj|wo|self_attn"),
    ("post_attn_residual", "post_attn_residual|ffn_inp|resid_mid|after_attn|attn_residual|post_attn|h_mid|x_mid"),
    (
        "ffn_norm",
        "ffn_norm|post_attention_layernorm|pre_feedforward_layernorm|mlp_norm|ln_2|ln2|norm_2|norm2|ffn_rmsnorm|ffn_ln|post_norm|rms2|rms_2|rmsnorm2|norm_ffn",
    ),
    ("attn_post_norm", "attn_post_norm"),
    ("ffn_post_norm", "ffn_post_norm|post_feedforward_layernorm"),
    ("ffn_gate", "ffn_gate|gate_proj|mlp_gate|w1|gate"),
    ("ffn_up", "ffn_up|up_proj|mlp_up|w3|up"),
    ("ffn_silu", "ffn_silu|act_fn|silu|ffn_act"),
    ("ffn_swigl", "ffn_swigl|ffn_swiglu|swiglu|ffn_gate_par|gated|mlp_hidden"),
    ("ffn_out", "ffn_out|down_proj|ffn_down|mlp|mlp_out|w2|down"),
    (
        LAYER_OUTPUT,
        "post_ffn_residual|layer_output|layer_out|l_out|resid_post|resid_out|hidden_states?|hidden|block_out|layer|block|h_out|x_out",
    ),
    ("final_norm", "final_norm|result_norm|ln_f|norm|final_layernorm|output_norm|norm_f|norm_final"),
    ("lm_head", "lm_head|logits|result_output"),
)
"""For each stage, what engines call it; for Q, K and V apart, the part of the fused stage."""

STAGE_OF = {word: stage for stage, words in _WORDS for word in words.replace("s?", "s").split("|")} | {
    word.replace("s?", ""): stage for stage, words in _WORDS for word in words.split("|") if "s?" in word
}
