"""Bugs of RoPE."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from tests.bugs.bug import CHUNKS, DECODED, GEMMA, QWEN, SMOL, Bug, Edit, Fault, frequencies, positions, turned

_TURNED = "q_post_rope k_post_rope"


def base(theta: float) -> Callable[[Edit], None]:
    return lambda edit: edit.fill(edit.rotary.inv_freq, frequencies(theta, edit.config.head_dim))


def _pairs_from_one(edit: Edit) -> None:
    width = edit.config.head_dim
    exponents = torch.arange(2, width + 2, 2, dtype=torch.float32) / width
    edit.fill(edit.rotary.inv_freq, edit.config.rope_parameters["rope_theta"] ** -exponents)


def _global_base_in_windows(edit: Edit) -> None:
    edit.fill(edit.rotary.sliding_attention_inv_freq, edit.rotary.full_attention_inv_freq)


def _scaling_of_llama3(edit: Edit) -> None:
    """Factor 8, low 1, high 4, 8192 positions before: what a configuration of Llama 3.1 says."""
    plain = edit.rotary.inv_freq
    waves = 8192 * plain / (2 * math.pi)
    smooth = ((waves - 1) / 3).clamp(0, 1)
    edit.fill(plain, (1 - smooth) * plain / 8 + smooth * plain)


def _keys_backwards(edit: Edit) -> None:
    def apply(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> Any:
        return plain(q, k, cos, sin)[0], plain(q, k, cos, -sin)[1]

    plain = edit.source.apply_rotary_pos_emb
    edit.replace(edit.source, "apply_rotary_pos_emb", apply)


def _half_of_the_head(edit: Edit) -> None:
    """`partial_rotary_factor` of 0.5, as GPT-NeoX's and Phi's configurations have it."""
    width = edit.config.head_dim // 2

    def apply(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> Any:
        turned_q, turned_k = plain(q[..., :width], k[..., :width], cos[..., :width], sin[..., :width])
        return torch.cat([turned_q, q[..., width:]], -1), torch.cat([turned_k, k[..., width:]], -1)

    def angles(cos: Any, sin: Any) -> Any:
        at = torch.arange(cos.shape[1], dtype=torch.float32)[None, :, None] * frequencies(
            edit.config.rope_parameters["rope_theta"], width
        )
        found = torch.cat([at, at, at, at], -1)
        return found.cos(), found.sin()

    plain = edit.source.apply_rotary_pos_emb
    turned(edit, angles)
    edit.replace(edit.source, "apply_rotary_pos_emb", apply)


def _not_permuted_back(edit: Edit) -> None:
    """A converter's permutation of the rows of Q and K is left in: halves are read as pairs."""
    width = edit.config.head_dim
    for name in ("q_proj", "k_proj"):
        for module in edit.of_all(f"self_attn.{name}"):
            heads = module.weight.reshape(-1, 2, width // 2, module.weight.shape[1])
            edit.fill(module.weight, heads.transpose(1, 2).reshape(module.weight.shape))


def _unturned_when_decoding(edit: Edit) -> None:
    """Keys of a prompt are turned; those of single tokens go to the cache as they are."""

    def apply(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> Any:
        turned_q, turned_k = plain(q, k, cos, sin)
        return turned_q, k if k.shape[2] == 1 else turned_k

    plain = edit.source.apply_rotary_pos_emb
    edit.replace(edit.source, "apply_rotary_pos_emb", apply)


def _interleaved(edit: Edit) -> None:
    """Pairs beside one another are turned, where the model pairs the halves of a head."""

    def turn(x: Any, cos: Any, sin: Any) -> Any:
        half = cos.shape[-1] // 2
        even, odd, c, s = x[..., 0::2], x[..., 1::2], cos[..., :half], sin[..., :half]
        return torch.stack([even * c - odd * s, even * s + odd * c], -1).flatten(-2)

    def apply(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> Any:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        return turn(q, cos, sin), turn(k, cos, sin)

    edit.replace(edit.source, "apply_rotary_pos_emb", apply)


def _bfloat16_angles(edit: Edit) -> None:
    turned(edit, lambda cos, sin: (cos.bfloat16().float(), sin.bfloat16().float()))


ROPE = (
    Bug("RoPE: base of 10000, the default of a reader", QWEN, base(10_000.0),
        (Fault(_TURNED, r"theta 10000\b"),)),
    Bug("RoPE: pairs counted from 1", SMOL, _pairs_from_one,
        (Fault(_TURNED, r"scale|factor|frequenc|stretch"),)),
    Bug("RoPE: layers with a window have the base of the others", GEMMA, _global_base_in_windows,
        (Fault(_TURNED, r"theta 1000000\b", (0, 1, 2, 3, 4, 6)),)),
    Bug("RoPE: Llama 3.1's scaling, which the model does not have", SMOL, _scaling_of_llama3,
        (Fault(_TURNED, r"frequenc|Llama|factor"),)),
    Bug("RoPE: keys turned backwards", QWEN, _keys_backwards, (Fault("k_post_rope", r"backward|sign|negat"),)),
    Bug("RoPE: cosines and sines in bfloat16", QWEN, _bfloat16_angles, (Fault(_TURNED, r"bfloat16|bf16"),)),
    Bug("RoPE: positions of decoded tokens one too small", SMOL,
        lambda edit: positions(edit, lambda ids: ids - 1 if ids.shape[1] == 1 else ids),
        (Fault(_TURNED, r"position"),), DECODED),
    Bug("RoPE: positions of a chunk start at 0 again", GEMMA,
        lambda edit: positions(edit, lambda ids: ids - ids[:, :1]), (Fault(_TURNED, r"position"),), CHUNKS),
    Bug("RoPE: half of the head, the model turns all of it", QWEN, _half_of_the_head,
        (Fault(_TURNED, r"half|32|width|dim"),)),
    Bug("RoPE: rows of Q and K not permuted back", SMOL, _not_permuted_back,
        (Fault("qkv_matmul q_post_rope k_post_rope", r"order|permut|layout|pairs|halves"),)),
    Bug("RoPE: magnitude of YaRN with factor 4", QWEN,
        lambda edit: turned(edit, lambda cos, sin: (cos * 1.1386294, sin * 1.1386294)),
        (Fault(_TURNED, r"1\.1386"),)),
    Bug("RoPE: positions divided by 4", QWEN, lambda edit: positions(edit, lambda ids: ids / 4),
        (Fault(_TURNED, r"0\.25|factor 4|by 4|1/4"),)),
    Bug("RoPE: keys of decoded tokens not turned", QWEN, _unturned_when_decoding,
        (Fault("k_post_rope", r"RoPE left out|not turned|without RoPE|position"),), DECODED),
    Bug("RoPE: neighbours paired, the model pairs halves", GEMMA, _interleaved,
        (Fault(_TURNED, r"layout|neighbour|interleav|pairs|halves"),)),
    Bug("RoPE: positions from a mask that counts the first token as padding", GEMMA,
        lambda edit: positions(edit, lambda ids: (ids - 1).clamp(min=1)), (Fault(_TURNED, r"position"),)),
)  # fmt: skip
