"""Bugs of norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.bugs.bug import GEMMA, QWEN, SMOL, Bug, Edit, Fault

_NORMS = "attn_norm ffn_norm final_norm"
_NORMS_OF_GEMMA = f"{_NORMS} attn_post_norm ffn_post_norm q_norm k_norm"


def epsilon(value: float) -> Callable[[Edit], None]:
    def plant(edit: Edit) -> None:
        for norm in edit.norms():
            edit.replace(norm, "eps" if hasattr(norm, "eps") else "variance_epsilon", value)

    return plant


def weight_of(module: str, layer: int, other: str, other_layer: int) -> Callable[[Edit], None]:
    """A norm's weight is another one's."""

    def plant(edit: Edit) -> None:
        edit.fill(edit.layers[layer].get_submodule(module).weight,
                  edit.layers[other_layer].get_submodule(other).weight.clone())  # fmt: skip

    return plant


def _computes(edit: Edit, norms: list[Any], function: Callable[[Any, Any], Any]) -> None:
    for norm in norms:
        edit.method(norm, function)


def _mean_subtracted(edit: Edit) -> None:
    def forward(self: Any, x: Any) -> Any:
        return torch.nn.functional.layer_norm(x, x.shape[-1:], self.weight, None, self.variance_epsilon)

    _computes(edit, [edit.model.model.norm], forward)


def final_without_one(edit: Edit) -> None:
    norm = edit.model.model.norm
    edit.fill(norm.weight, norm.weight - 1)


def _rounded_before_the_weight(edit: Edit) -> None:
    def forward(self: Any, x: Any) -> Any:
        return self._norm(x).bfloat16().float() * (1 + self.weight)

    _computes(edit, list(edit.norms()), forward)


def _head_norms_exchanged(edit: Edit) -> None:
    for layer in edit.layers:
        queries, keys = (getattr(layer.self_attn, name).weight for name in ("q_norm", "k_norm"))
        kept = queries.clone()
        edit.fill(queries, keys)
        edit.fill(keys, kept)


def _first_512_squares(edit: Edit) -> None:
    """A kernel of 512 lanes that forgets the tail: 64 of 576 channels are in no sum."""

    def forward(self: Any, x: Any) -> Any:
        mean = x[..., :512].pow(2).sum(-1, keepdim=True) / x.shape[-1]
        return self.weight * (x * torch.rsqrt(mean + self.variance_epsilon))

    _computes(edit, list(edit.norms()), forward)


def _root_of_12_bits(edit: Edit) -> None:
    """What `rsqrtps` estimates, without a step of Newton's."""

    def forward(self: Any, x: Any) -> Any:
        root = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        mantissa, exponent = torch.frexp(root)
        return self.weight * (x * torch.ldexp((mantissa * 4096).round() / 4096, exponent))

    _computes(edit, list(edit.norms()), forward)


def _names_of_llama(edit: Edit) -> None:
    """`post_attention_layernorm` is taken for the norm before the feed-forward block, as Llama has it."""
    for layer in edit.layers:
        behind, before = layer.post_attention_layernorm.weight, layer.pre_feedforward_layernorm.weight
        kept = behind.clone()
        edit.fill(behind, before)
        edit.fill(before, kept)


def _squares_in_float16(edit: Edit) -> None:
    def forward(self: Any, x: Any) -> Any:
        mean = x.half().pow(2).float().mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(mean + self.variance_epsilon))

    _computes(edit, list(edit.norms()), forward)


def _weight_in_float16_bits(edit: Edit) -> None:
    """The 16 bits of a bfloat16 weight are read as float16."""
    weight = edit.model.model.norm.weight
    edit.fill(weight, weight.detach().bfloat16().view(torch.float16).float())


def _bessel(edit: Edit) -> None:
    """The sum of squares is divided by one less than the width, as a library's variance is."""

    def forward(self: Any, x: Any) -> Any:
        mean = x.pow(2).sum(-1, keepdim=True) / (x.shape[-1] - 1)
        return self.weight * (x * torch.rsqrt(mean + self.variance_epsilon))

    _computes(edit, edit.of_all("input_layernorm"), forward)


NORMS = (
    Bug("norm: epsilon 1e-6, the default of a reader", SMOL, epsilon(1e-6), (Fault(_NORMS, r"epsilon 1e-0?6"),)),
    Bug("norm: epsilon left out", QWEN, epsilon(0.0), (Fault(_NORMS, r"epsilon (0\b|left out)|without.*epsilon"),)),
    Bug("norm: the final one subtracts the mean", QWEN, _mean_subtracted, (Fault("final_norm", r"mean"),)),
    Bug("norm: 1 not added to the final weight", GEMMA, final_without_one,
        (Fault("final_norm", r"1 \+|offset|without.*\b1\b|1 (is )?not added"),)),
    Bug("norm: rounded to bfloat16 before the weight", GEMMA, _rounded_before_the_weight,
        (Fault(_NORMS_OF_GEMMA, r"bfloat16|bf16"),)),
    Bug("norm: weight of the layer before", SMOL,
        weight_of("post_attention_layernorm", 7, "post_attention_layernorm", 6),
        (Fault("ffn_norm", r"layer 6|blk\.6\b|layer before", (7,)),)),
    Bug("norm: those of queries and keys exchanged", GEMMA, _head_norms_exchanged,
        (Fault("q_norm k_norm", r"weight of.*[kq]_norm|[kq]_norm.*weight|[kq]_norm"),)),
    Bug("norm: squares of the first 512 channels only", SMOL, _first_512_squares, (Fault(_NORMS, r"512|64"),)),
    Bug("norm: reciprocal root of 12 bits", QWEN, _root_of_12_bits, (Fault(_NORMS, r"root|each token|bits"),)),
    Bug("norm: names of another model's norms", GEMMA, _names_of_llama,
        (Fault("attn_post_norm ffn_norm", r"weight of|ffn_norm|post_attention_norm|attn_post_norm"),)),
    Bug("norm: squares in float16", QWEN, _squares_in_float16, (Fault(_NORMS, r"float16|f16"),)),
    Bug("norm: a weight's bfloat16 read as float16", SMOL, _weight_in_float16_bits,
        (Fault("final_norm", r"bfloat16.*float16|bits"),)),
    Bug("norm: sum divided by the width less one", SMOL, _bessel, (Fault("attn_norm", r"575|less one|width"),)),
)  # fmt: skip
