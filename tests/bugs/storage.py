"""Bugs of numbers that do not fit: 16 bits, NaN and Inf, memory that nobody wrote."""

from __future__ import annotations

from typing import Any

import torch

from tests.bugs.bug import GEMMA, QWEN, SMOL, Attention, Bug, Edit, Fault


def _raw_scores_in_float16(edit: Edit) -> None:
    """Queries and keys are multiplied in float16 before the scale: beyond 65504 is Inf."""

    def attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> Any:
        keys, values = (x.repeat_interleave(module.num_key_value_groups, 1) for x in (key, value))
        raw = (query.half().float() @ keys.half().float().transpose(2, 3)).half().float()
        scores = raw * module.scaling
        probabilities = torch.softmax(scores + mask, -1)
        return (probabilities @ values).transpose(1, 2).contiguous(), probabilities

    edit.replace(edit.source, "eager_attention_forward", attention)


def _stream_in_bfloat16(edit: Edit) -> None:
    """From layer 5 on the residual stream is kept in bfloat16 where a layer ends."""
    for layer in list(edit.layers)[5:]:
        _output(edit, layer, lambda x: x.bfloat16().float())


def _output(edit: Edit, module: Any, function: Any) -> None:
    plain = edit.method(module, lambda _module, *args, **kwargs: function(plain(*args, **kwargs)))


def _first_row_fully_hidden(module: Any, masked: Any) -> Any:
    """The first query sees no key, not even its own."""
    found = masked.clone()
    found[..., 0, :] = -torch.inf
    return torch.softmax(found, -1)


def _unwritten_values(module: Any, values: Any) -> Any:
    """Memory behind the tenth value was never written and holds NaN; 0 × NaN is NaN."""
    found = values.repeat_interleave(module.num_key_value_groups, 1).clone()
    found[:, :, 10:] = torch.nan
    return found


def _product_in_float16(edit: Edit) -> None:
    """Gate times up in float16, without a limit."""

    def forward(self: Any, x: Any) -> Any:
        gate, up = self.act_fn(self.gate_proj(x)), self.up_proj(x)
        return self.down_proj((gate.half() * up.half()).float())

    for mlp in edit.of_all("mlp"):
        edit.method(mlp, forward)


def _stream_in_float16(edit: Edit) -> None:
    for layer in edit.layers:
        _output(edit, layer, lambda x: x.half().float())


def _clipped_to_float16(edit: Edit) -> None:
    """The residual stream is clipped to what float16 holds, and kept in float32."""
    for layer in edit.layers:
        _output(edit, layer, lambda x: x.clamp(-65504, 65504))


def _flipped_sign_bit(edit: Edit) -> None:
    def forward(_module: Any, x: Any) -> Any:
        found = plain(x).clone()
        found[:, 9, 100] = -found[:, 9, 100]
        return found

    plain = edit.method(edit.layers[15].mlp.gate_proj, forward)


BEYOND_FLOAT16 = tuple(range(7, 18))
"""Layers of Gemma in which the residual stream is beyond what float16 holds, with these tokens."""

STORAGE = (
    Bug("float16: raw scores before the scale", QWEN, _raw_scores_in_float16,
        (Fault("attn_scores", r"float16|f16|65504"),)),
    Bug("bfloat16: residual stream from layer 5 on", SMOL, _stream_in_bfloat16,
        (Fault("post_ffn_residual", r"bfloat16|bf16", tuple(range(5, 30))),)),
    Bug("NaN: the first query sees no key", SMOL, Attention(softmax=_first_row_fully_hidden, layers=(0,)).plant,
        (Fault("attn_softmax", r"mask|hidden|no key|sees", (0,)),)),
    Bug("NaN: values that nobody wrote", QWEN, Attention(values=_unwritten_values, layers=(3,)).plant,
        (Fault("attention", r"NaN", (3,)),)),
    Bug("Inf: gate times up in float16", GEMMA, _product_in_float16, (Fault("ffn_geglu", r"float16|f16|65504"),)),
    Bug("Inf: residual stream in float16", GEMMA, _stream_in_float16,
        (Fault("post_ffn_residual", r"float16|f16|65504", BEYOND_FLOAT16),)),
    Bug("float16's limit in a float32 stream", GEMMA, _clipped_to_float16,
        (Fault("post_ffn_residual", r"65504|65,504", BEYOND_FLOAT16),)),
    Bug("one sign bit flipped", SMOL, _flipped_sign_bit, (Fault("ffn_gate", r"sign|negat", (15,)),)),
)  # fmt: skip
