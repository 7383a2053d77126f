"""Bugs of matrix products and of their biases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.bugs.bug import GEMMA, QWEN, SMOL, Bug, Edit, Fault

_QKV = ("q_proj", "k_proj", "v_proj")


def bias_of_values_left_out(edit: Edit) -> None:
    for module in edit.of_all("self_attn.v_proj"):
        edit.fill(module.bias, torch.zeros_like(module.bias))


def transposed(name: str, layer: int) -> Callable[[Edit], None]:
    def plant(edit: Edit) -> None:
        weight = edit.layers[layer].get_submodule(name).weight
        edit.fill(weight, weight.T.clone())

    return plant


def stale(name: str, layer: int, other: int) -> Callable[[Edit], None]:
    """A matrix is that of another layer."""

    def plant(edit: Edit) -> None:
        edit.fill(edit.layers[layer].get_submodule(name).weight, edit.layers[other].get_submodule(name).weight.clone())

    return plant


def _tail_left_out(edit: Edit) -> None:
    """Tiles of 1024 inputs: what does not fill one is in no sum."""
    for module in edit.of_all("mlp.down_proj"):
        weight = module.weight.clone()
        weight[:, 1024:] = 0
        edit.fill(module.weight, weight)


def _interleaved_gate_and_up(edit: Edit) -> None:
    """A fused matrix holds gate and up one behind the other; the engine takes its even and its odd rows."""
    for mlp in edit.of_all("mlp"):
        fused = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        edit.fill(mlp.gate_proj.weight, fused[0::2].clone())
        edit.fill(mlp.up_proj.weight, fused[1::2].clone())


def _grouped_as_megatron(edit: Edit) -> None:
    """A fused matrix holds three queries, a key and a value for each group; the engine takes all Q, all K, all V."""
    for attention in edit.of_all("self_attn"):
        width, hidden = edit.config.head_dim, edit.config.hidden_size
        q, k, v = (getattr(attention, name).weight for name in _QKV)
        groups = k.shape[0] // width
        fused = torch.cat([part.reshape(groups, -1, hidden) for part in (q, k, v)], 1).reshape(-1, hidden)
        for part, rows in zip((q, k, v), fused.split([len(q), len(k), len(v)]), strict=True):
            edit.fill(part, rows.clone())


def _float16_product(edit: Edit) -> None:
    def forward(self: Any, x: Any) -> Any:
        return (x.half().float() @ self.weight.half().float().T).half().float()

    edit.method(edit.layers[3].mlp.down_proj, forward)


def _int8_product(edit: Edit) -> None:
    """Dynamic quantisation of the inputs, a scale a token."""

    def forward(self: Any, x: Any) -> Any:
        scale = x.abs().amax(-1, keepdim=True) / 127
        return ((x / scale).round() * scale) @ self.weight.T

    edit.method(edit.layers[9].mlp.down_proj, forward)


def _rows_of_a_tile_zero(edit: Edit) -> None:
    weight = edit.layers[20].self_attn.k_proj.weight
    found = weight.clone()
    found[64:96] = 0
    edit.fill(weight, found)


def _a_block_late(edit: Edit) -> None:
    """Every row of the matrix is read from its second superblock on, the next row's first one behind it."""
    weight = edit.layers[2].mlp.down_proj.weight
    edit.fill(weight, weight.flatten().roll(-256).reshape(weight.shape))


def _scale_folded(edit: Edit) -> None:
    """1/√d is folded into the weights of Q, and applied to the scores once more."""
    for module in edit.of_all("self_attn.q_proj"):
        edit.fill(module.weight, module.weight * edit.config.head_dim**-0.5)


def _stacked_by_channel(edit: Edit) -> None:
    """Gate takes the place of up."""
    for mlp in edit.of_all("mlp"):
        edit.fill(mlp.up_proj.weight, mlp.gate_proj.weight)


def _last_rows_stale(edit: Edit) -> None:
    """The last work-group was not launched: 128 outputs are what the token before left there."""

    def forward(self: Any, x: Any) -> Any:
        found = plain(x).clone()
        found[:, 1:, -128:] = found[:, :-1, -128:].clone()
        return found

    plain = edit.method(edit.layers[6].mlp.up_proj, forward)


def _adapter_merged_twice(edit: Edit) -> None:
    """A low-rank update is in the weights already and is applied once more."""
    weight = edit.layers[10].self_attn.q_proj.weight
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, 4, generator=generator) for size in weight.shape)
    edit.fill(weight, weight + 0.02 * left @ right.T)


def _four_bits_again(edit: Edit) -> None:
    """A matrix is quantised to four bits (blocks of 32, a scale each) that the file holds finer."""
    weight = edit.layers[4].mlp.down_proj.weight
    blocks = weight.reshape(-1, 32)
    scale = blocks.abs().amax(1, keepdim=True) / 7
    edit.fill(weight, ((blocks / scale).round() * scale).reshape(weight.shape))


MATRICES = (
    Bug("bias of values left out", QWEN, bias_of_values_left_out, (Fault("qkv_bias", r"bias.*(V|values?)\b|V.*bias"),)),
    Bug("matrix: the attention's output transposed", SMOL, transposed("self_attn.o_proj", 11),
        (Fault("attn_out", r"transpos", (11,)),)),
    Bug("matrix: inputs behind 1024 left out", SMOL, _tail_left_out,
        (Fault("ffn_out", r"512|1024"),)),
    Bug("matrix: up of the layer before", GEMMA, stale("mlp.up_proj", 5, 4),
        (Fault("ffn_up", r"layer 4|blk\.4\b|layer before", (5,)),)),
    Bug("matrix: rows of a fused gate and up taken in turn", QWEN, _interleaved_gate_and_up,
        (Fault("ffn_gate ffn_up", r"rows|order|interleav|in turn|even"),)),
    Bug("matrix: fused Q, K, V by groups taken as Q, K, V", SMOL, _grouped_as_megatron,
        (Fault("qkv_matmul", r"order|rows|group|heads"),)),
    Bug("matrix: one product in float16", QWEN, _float16_product, (Fault("ffn_out", r"float16|f16", (3,)),)),
    Bug("matrix: one product of int8 inputs", GEMMA, _int8_product, (Fault("ffn_out", r"int8|8 bits?", (9,)),)),
    Bug("matrix: 32 rows of K zero", SMOL, _rows_of_a_tile_zero, (Fault("qkv_matmul", r"zero|\b0\b", (20,)),)),
    Bug("matrix: rows read from their second block on", QWEN, _a_block_late,
        (Fault("ffn_out", r"block|256|shift|behind|offset", (2,)),)),
    Bug("matrix: scale of the scores folded into Q as well", SMOL, _scale_folded,
        (Fault("qkv_matmul", r"0\.125|1/√|1/8|head size"),)),
    Bug("matrix: values of the layer before, keys are right", QWEN, stale("self_attn.v_proj", 13, 12),
        (Fault("qkv_bias qkv_matmul", r"layer 12|blk\.12\b|layer before", (13,)),)),
    Bug("matrix: gate's weights for up", GEMMA, _stacked_by_channel, (Fault("ffn_up", r"gate"),)),
    Bug("matrix: last 128 outputs those of the token before", SMOL, _last_rows_stale,
        (Fault("ffn_up", r"token before|stale|previous", (6,)),)),
    Bug("matrix: an adapter added to the weights", SMOL, _adapter_merged_twice,
        (Fault("qkv_matmul", r"rank|adapter|other weights", (10,)),)),
    Bug("matrix: quantised once more", QWEN, _four_bits_again,
        (Fault("ffn_out", r"Q4_0|int4|four bits|4 bits|quantis", (4,)),)),
)  # fmt: skip
