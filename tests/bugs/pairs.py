"""Two bugs at once, in different layers or at the same stage."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.bugs.attention import heads_by_remainder, softcapped, windowed
from tests.bugs.bug import GEMMA, QWEN, SMOL, Attention, Bug, Edit, Fault, positions
from tests.bugs.logits import capped, head
from tests.bugs.matrices import bias_of_values_left_out, stale, transposed
from tests.bugs.norms import epsilon, final_without_one
from tests.bugs.rope import base
from tests.bugs.wiring import embedding_scale

_TURNED = "q_post_rope k_post_rope"


def both(*plants: Callable[[Edit], None]) -> Callable[[Edit], None]:
    def plant(edit: Edit) -> None:
        for one in plants:
            one(edit)

    return plant


def _bias_behind_rope(edit: Edit) -> None:
    """The bias of the queries is added to the turned queries."""

    def apply(q: object, k: object, cos: object, sin: object, unsqueeze_dim: int = 1) -> object:
        turned_q, turned_k = plain(q, k, cos, sin)
        at = next(numbers)
        return turned_q + biases[at].reshape(1, -1, 1, edit.config.head_dim), turned_k

    modules = edit.of_all("self_attn.q_proj")
    biases = [module.bias.detach().clone() for module in modules]
    numbers = iter(range(len(modules)))
    plain = edit.source.apply_rotary_pos_emb
    for module in modules:
        edit.fill(module.bias, torch.zeros_like(module.bias))
    edit.replace(edit.source, "apply_rotary_pos_emb", apply)


def _epsilon_and_weight(edit: Edit) -> None:
    norm = edit.layers[8].post_attention_layernorm
    edit.replace(norm, "variance_epsilon", 1e-3)
    edit.fill(norm.weight, edit.layers[7].post_attention_layernorm.weight.clone())


def _bias_and_layer(edit: Edit) -> None:
    """Keys lack their bias, and their weights are the layer before's: one row of a table of pointers is wrong."""
    keys, before = edit.layers[6].self_attn.k_proj, edit.layers[5].self_attn.k_proj
    edit.fill(keys.weight, before.weight.clone())
    edit.fill(keys.bias, torch.zeros_like(keys.bias))


def _window_of_six(module: object, mask: torch.Tensor) -> torch.Tensor:
    queries, keys = mask.shape[-2:]
    before = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
    return mask.masked_fill(before >= 6, -torch.inf)


def _inputs_in_bfloat16(edit: Edit) -> None:
    """Every product takes its inputs in bfloat16, which is no fault."""
    for module in edit.model.modules():
        if type(module).__name__ == "Linear":
            edit.method(
                module, lambda self, x: torch.nn.functional.linear(x.bfloat16().float(), self.weight, self.bias)
            )


PAIRS = (
    Bug("pair: RoPE base and epsilon", QWEN, both(base(10_000.0), epsilon(1e-5)),
        (Fault(_TURNED, r"theta 10000\b"), Fault("attn_norm ffn_norm final_norm", r"epsilon 1e-0?5"))),
    Bug("pair: a transposed matrix and a stale one", SMOL,
        both(transposed("self_attn.o_proj", 5), stale("mlp.down_proj", 20, 19)),
        (Fault("attn_out", r"transpos", (5,)), Fault("ffn_out", r"layer 19|blk\.19\b|layer before", (20,)))),
    Bug("pair: embedding not scaled and a window", GEMMA, both(embedding_scale(1.0), windowed(5, only_windows=True)),
        (Fault("embedding", r"scale|factor|0\.0395|√"), Fault("attn_softmax attention", r"window.*\b5\b", (0, 1, 2)))),
    Bug("pair: bias of values and scale 1/d", QWEN,
        both(bias_of_values_left_out, Attention(scale=lambda module: 1 / 64).plant),
        (Fault("qkv_bias", r"bias.*(V|values?)\b|V.*bias"), Fault("attn_scores", r"0\.0156|1/64|0\.125|head size"))),
    Bug("pair, one stage: RoPE base and positions", SMOL,
        both(base(10_000.0), lambda edit: positions(edit, lambda ids: ids + 1)),
        (Fault(_TURNED, r"theta 10000\b"), Fault(_TURNED, r"position|token"))),
    Bug("pair, one module: scale and softcap of the scores", QWEN,
        Attention(scale=lambda module: 14**-0.5, capped=softcapped(50.0)).plant,
        (Fault("attn_scores", r"14|2\.138|0\.267"),
         Fault("attn_softmax attention", r"softcap.*\b50\b|\b50\b.*softcap"))),
    Bug("pair: final norm without 1 and softcap of the logits", GEMMA, both(final_without_one, head(capped(30.0))),
        (Fault("final_norm", r"1 \+|offset|without.*\b1\b|1 (is )?not added"),
         Fault("lm_head", r"softcap.*\b30\b|\b30\b.*softcap"))),
    Bug("pair, one stage: epsilon and another layer's weight", SMOL, _epsilon_and_weight,
        (Fault("ffn_norm", r"epsilon 0?\.?001|epsilon 1e-0?3", (8,)),
         Fault("ffn_norm", r"layer 7|blk\.7\b|layer before", (8,)))),
    Bug("pair: bias of queries behind RoPE", QWEN, _bias_behind_rope,
        (Fault("qkv_bias", r"bias"), Fault("q_post_rope", r"bias"))),
    Bug("pair, one module: a window and heads of values by remainder", SMOL,
        Attention(mask=_window_of_six, values=heads_by_remainder).plant,
        (Fault("attn_softmax", r"window.*\b6\b"), Fault("attention", r"remainder|modulo|\bmod n|% "))),
    Bug("pair, one stage: keys without bias and of the layer before", QWEN, _bias_and_layer,
        (Fault("qkv_bias qkv_matmul", r"bias", (6,)),
         Fault("qkv_bias qkv_matmul", r"layer 5|blk\.5\b|layer before", (6,)))),
    Bug("pair: rounded everywhere and one stale matrix", GEMMA,
        both(_inputs_in_bfloat16, stale("self_attn.o_proj", 10, 9)),
        (Fault("attn_out", r"layer 9|blk\.9\b|layer before", (10,)),)),
)  # fmt: skip
