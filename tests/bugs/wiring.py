"""Bugs of what is added to what, and of what a block reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.bugs.bug import GEMMA, QWEN, SMOL, Bug, Edit, Fault

Layer = Callable[[Any, Any, dict[str, Any]], Any]


def _layers(edit: Edit, function: Layer, *numbers: int) -> None:
    """Layers compute `function(layer, hidden, options)`."""
    for number, layer in enumerate(edit.layers):
        if not numbers or number in numbers:
            edit.method(layer, lambda self, hidden, **options: function(self, hidden, options))


def _attended(layer: Any, hidden: Any, options: dict[str, Any]) -> Any:
    return layer.self_attn(hidden_states=hidden, **options)[0]


def _post_norm_of_the_sum(layer: Any, hidden: Any, options: dict[str, Any]) -> Any:
    """The norm behind the attention takes the residual in, as the original transformer has it."""
    hidden = layer.post_attention_layernorm(hidden + _attended(layer, layer.input_layernorm(hidden), options))
    return hidden + layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(hidden)))


def _residual_of_two_layers_before(edit: Edit) -> None:
    """Two buffers in turn: layer 9 adds to the input of layer 8."""
    kept = {}

    def remember(layer: Any, hidden: Any, options: dict[str, Any]) -> Any:
        kept[0] = hidden
        return _plain(layer, hidden, hidden, options)

    _layers(edit, remember, 8)
    _layers(edit, lambda layer, hidden, options: _plain(layer, hidden, kept[0], options), 9)


def _plain(layer: Any, hidden: Any, residual: Any, options: dict[str, Any]) -> Any:
    middle = residual + _attended(layer, layer.input_layernorm(hidden), options)
    return middle + layer.mlp(layer.post_attention_layernorm(middle))


def _residual_scaled(layer: Any, hidden: Any, options: dict[str, Any]) -> Any:
    middle = (hidden + _attended(layer, layer.input_layernorm(hidden), options)) * 0.5**0.5
    return middle + layer.mlp(layer.post_attention_layernorm(middle))


def _block_added_twice(layer: Any, hidden: Any, options: dict[str, Any]) -> Any:
    middle = hidden + _attended(layer, layer.input_layernorm(hidden), options)
    block = layer.mlp(layer.post_attention_layernorm(middle))
    return middle + block + block


def _reads_before_the_norm(layer: Any, hidden: Any, options: dict[str, Any]) -> Any:
    layer.input_layernorm(hidden)
    middle = hidden + _attended(layer, hidden, options)
    return middle + layer.mlp(layer.post_attention_layernorm(middle))


def _norm_of_the_block_alone(layer: Any, hidden: Any, options: dict[str, Any]) -> Any:
    """The norm before the feed-forward block reads the attention's output, not the residual stream."""
    block = layer.post_attention_layernorm(_attended(layer, layer.input_layernorm(hidden), options))
    middle = hidden + block
    return middle + layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(block)))


def _parallel(layer: Any, hidden: Any, options: dict[str, Any]) -> Any:
    """Attention and feed-forward block side by side, with the attention's norm for both, as GPT-J has them."""
    normed = layer.input_layernorm(hidden)
    return hidden + _attended(layer, normed, options) + layer.mlp(normed)


def _residual_multiplied(layer: Any, hidden: Any, options: dict[str, Any]) -> Any:
    """Granite's `residual_multiplier` on what the blocks add."""
    middle = hidden + 0.22 * _attended(layer, layer.input_layernorm(hidden), options)
    return middle + 0.22 * layer.mlp(layer.post_attention_layernorm(middle))


def _added_in_place(layer: Any, hidden: Any, options: dict[str, Any]) -> Any:
    """The normed input is written into the residual's buffer before the attention is added to it."""
    normed = layer.input_layernorm(hidden)
    middle = normed + _attended(layer, normed, options)
    return middle + layer.mlp(layer.post_attention_layernorm(middle))


def embedding_scale(factor: float) -> Callable[[Edit], None]:
    return lambda edit: edit.fill(edit.model.model.embed_tokens.embed_scale, torch.tensor(factor))


def wired(function: Layer, *numbers: int) -> Callable[[Edit], None]:
    return lambda edit: _layers(edit, function, *numbers)


WIRING = (
    Bug("wiring: the norm behind the attention takes the residual in", GEMMA, wired(_post_norm_of_the_sum),
        (Fault("attn_post_norm post_attn_residual", r"post_ffn_residual|embedding|residual|sum"),)),
    Bug("wiring: residual of two layers before", SMOL, _residual_of_two_layers_before,
        (Fault("post_attn_residual", r"layer 7", (9,)),)),
    Bug("wiring: residual scaled by √½", QWEN, wired(_residual_scaled),
        (Fault("post_attn_residual", r"0\.707|1/√2|√½"),)),
    Bug("wiring: feed-forward block added twice", SMOL, wired(_block_added_twice, 4),
        (Fault("post_ffn_residual", r"twice|by 2\b|2 ?×|× ?2|ffn_out.*ffn_out", (4,)),)),
    Bug("wiring: attention reads what is not normed", QWEN, wired(_reads_before_the_norm, 0),
        (Fault("qkv_matmul qkv_bias", r"embedding", (0,)),)),
    Bug("wiring: feed-forward block reads the attention alone", GEMMA, wired(_norm_of_the_block_alone),
        (Fault("ffn_norm", r"attn_post_norm"),)),
    Bug("wiring: blocks side by side", SMOL, wired(_parallel),
        (Fault("ffn_norm ffn_gate ffn_up", r"attn_norm|embedding|post_ffn_residual"),)),
    Bug("wiring: what blocks add multiplied by 0.22", SMOL, wired(_residual_multiplied),
        (Fault("post_attn_residual post_ffn_residual", r"0\.22"),)),
    Bug("wiring: residual is the normed input in one layer", QWEN, wired(_added_in_place, 14),
        (Fault("post_attn_residual", r"attn_norm", (14,)),)),
    Bug("embedding: scale rounded to bfloat16", GEMMA, embedding_scale(25.25), (Fault("embedding", r"0\.998|25\.25"),)),
)  # fmt: skip
