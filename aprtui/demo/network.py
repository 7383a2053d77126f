"""The embedded model's network in PyTorch: Qwen2 as a pure function of a dictionary of GGUF-named tensors.

PyTorch is a development dependency: it is imported where it is used, so that this module loads without it.

Dimension letters in tensor names: B batch, T position, H query head, K key/value head, D head dimension, C hidden size,
V vocabulary.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Tensor = Any
Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """Sizes of the network. Every matrix row is a multiple of 256 values, as the K-quants require."""

    vocabulary: int = 2048
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 768
    norm_epsilon: float = 1e-6
    rope_base: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """GGUF name and shape (rows, columns) of every tensor, embedding first."""
        kv = self.kv_heads * self.head_dim
        yield "token_embd.weight", (self.vocabulary, self.hidden)
        for layer in range(self.layers):
            block = f"blk.{layer}."
            yield block + "attn_norm.weight", (self.hidden,)
            yield block + "attn_q.weight", (self.hidden, self.hidden)
            yield block + "attn_q.bias", (self.hidden,)
            yield block + "attn_k.weight", (kv, self.hidden)
            yield block + "attn_k.bias", (kv,)
            yield block + "attn_v.weight", (kv, self.hidden)
            yield block + "attn_v.bias", (kv,)
            yield block + "attn_output.weight", (self.hidden, self.hidden)
            yield block + "ffn_norm.weight", (self.hidden,)
            yield block + "ffn_gate.weight", (self.feed_forward, self.hidden)
            yield block + "ffn_up.weight", (self.feed_forward, self.hidden)
            yield block + "ffn_down.weight", (self.hidden, self.feed_forward)
        yield "output_norm.weight", (self.hidden,)


def load_torch() -> Any:
    """Import PyTorch, or raise an ImportError that says how to get it."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise ImportError("training the embedded model needs PyTorch: pip install torch") from error


def initial_weights(shape: NetworkShape, seed: int) -> Weights:
    """Float32 starting weights: norms 1, biases 0, residual outputs 0, other matrices Gaussian by their width."""
    torch = load_torch()
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}
    for name, size in shape.tensors():
        if name.endswith("norm.weight"):
            weights[name] = torch.ones(size)
        elif name.endswith(("bias", "attn_output.weight", "ffn_down.weight")):
            weights[name] = torch.zeros(size)
        else:
            deviation = 0.02 if name == "token_embd.weight" else 0.5 * float(size[1]) ** -0.5
            weights[name] = torch.randn(size, generator=generator) * deviation
    return weights


def rotary_tables(shape: NetworkShape, length: int, device: Any) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, head_dim] of the half-split rotary embedding (Su et al. 2021), signs included."""
    torch = load_torch()
    exponents = torch.arange(0, shape.head_dim, 2, device=device, dtype=torch.float32) / shape.head_dim
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), shape.rope_base**-exponents)
    return torch.cat((angles.cos(), angles.cos()), -1), torch.cat((-angles.sin(), angles.sin()), -1)


def make_forward(shape: NetworkShape) -> Callable[[Weights, Tensor, tuple[Tensor, Tensor]], Tensor]:
    """Build `forward(weights, tokens_BT, rotary_tables) -> logits_BTV`; the output matrix is the embedding's.

    PyTorch is bound outside of the function so that `torch.compile` sees tensor operations only.
    """
    torch = load_torch()
    functional = torch.nn.functional
    linear = functional.linear
    group = shape.heads // shape.kv_heads

    def norm(x_BTC: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x_BTC, (shape.hidden,), weight, shape.norm_epsilon)

    def heads(x_BTC: Tensor, count: int) -> Tensor:
        return x_BTC.view(x_BTC.shape[0], x_BTC.shape[1], count, shape.head_dim).transpose(1, 2)

    def rotate(x_BHTD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        return (x_BHTD * rotary[0] + x_BHTD.roll(shape.head_dim // 2, -1) * rotary[1]).to(x_BHTD.dtype)

    def forward(weights: Weights, tokens_BT: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        x_BTC = functional.embedding(tokens_BT, weights["token_embd.weight"])
        for layer in range(shape.layers):
            block = {name.split(".", 2)[2]: w for name, w in weights.items() if name.startswith(f"blk.{layer}.")}
            normed = norm(x_BTC, block["attn_norm.weight"])
            q_BHTD = rotate(heads(linear(normed, block["attn_q.weight"], block["attn_q.bias"]), shape.heads), rotary)
            k_BKTD = rotate(heads(linear(normed, block["attn_k.weight"], block["attn_k.bias"]), shape.kv_heads), rotary)
            v_BKTD = heads(linear(normed, block["attn_v.weight"], block["attn_v.bias"]), shape.kv_heads)
            mixed_BHTD = functional.scaled_dot_product_attention(
                q_BHTD, k_BKTD.repeat_interleave(group, 1), v_BKTD.repeat_interleave(group, 1), is_causal=True
            )
            x_BTC = x_BTC + linear(mixed_BHTD.transpose(1, 2).flatten(2), block["attn_output.weight"])
            normed = norm(x_BTC, block["ffn_norm.weight"])
            gated = functional.silu(linear(normed, block["ffn_gate.weight"])) * linear(normed, block["ffn_up.weight"])
            x_BTC = x_BTC + linear(gated, block["ffn_down.weight"])
        return linear(norm(x_BTC, weights["output_norm.weight"]), weights["token_embd.weight"])

    return forward
