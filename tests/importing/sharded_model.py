"""A model of transformers on simulated ranks, in one process: each has its own weights, adds what others send, and
writes down what it holds.

Weights are divided as vLLM, SGLang and Megatron divide them: embedding and logits by vocabulary, Q, K, V, gate and up
by rows, what comes behind them by columns. What ranks add up is added in the type of the run, either by each for
itself, its own term first, so that copies differ in their last bits, or in one order for all.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.model.model import Model
from aprtui.oracle.transformers_model import AttentionKind, DataType, load
from aprtui.trace.graph.stage import Node

Array = NDArray[np.float32]
Tensor = Any
RankFault = Callable[[int, Node, Tensor], Tensor]
"""What a rank goes on with in place of what it computed."""


def no_fault(rank: int, node: Node, value: Tensor) -> Tensor:
    return value


@dataclass
class ShardedRun:
    """A run of `tokens` on `tp` x `pp` ranks; `held` is what each has of each stage.

    `sequence_parallel` divides the tokens of what is between the blocks, with padding where they do not divide.
    """

    model: Model
    tokens: tuple[int, ...]
    tp: int
    pp: int = 1
    kind: DataType = DataType.FLOAT32
    own_first: bool = True
    sequence_parallel: bool = False
    fault: RankFault = no_fault
    held: dict[int, dict[Node, Array]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.torch = importlib.import_module("torch")
        self.module = load(self.model, self.kind, AttentionKind.EAGER, 1).module
        self.graph = self.model.config.graph
        self.first = 0

    def run(self) -> dict[int, dict[Node, Array]]:
        """What every rank holds, after the whole model."""
        with self.torch.no_grad():
            hidden = self.embedded()
            for layer in range(self.graph.layers):
                self.first = layer * self.pp // self.graph.layers * self.tp
                hidden = self.layer(layer, hidden)
            normed = self.each(None, "final_norm", [self.module.model.norm(x) for x in hidden])
            head = self.module.lm_head.weight
            self.each(None, "lm_head", [x @ w.T for x, w in zip(self.whole_rows(normed), self.rows(head), strict=True)])
        return self.held

    def each(self, layer: int | None, stage: str, values: Sequence[Tensor]) -> list[Tensor]:
        """Write down what the ranks of this part of the pipeline hold, faults included, and go on with it."""
        node = Node(layer, stage)
        found = [self.fault(self.first + number, node, value) for number, value in enumerate(values)]
        for number, value in enumerate(found):
            self.held.setdefault(self.first + number, {})[node] = value.float().numpy()
        return found

    def rows(self, weight: Tensor) -> list[Tensor]:
        return list(weight.chunk(self.tp, 0))

    def heads(self, weight: Tensor, heads: int) -> list[Tensor]:
        """The rows of each rank's heads; of fewer heads than ranks, neighbours have the same."""
        dim, each = self.graph.head_dim, max(1, heads // self.tp)
        starts = (number * heads // self.tp for number in range(self.tp))
        return [weight[start * dim : (start + each) * dim] for start in starts]

    def summed(self, terms: Sequence[Tensor]) -> list[Tensor]:
        """What each rank gets when all terms are added, in the type of the run."""
        found = []
        for number in range(self.tp):
            order = [*terms[number:], *terms[:number]] if self.own_first else list(terms)
            total = order[0]
            for term in order[1:]:
                total = total + term
            found.append(total)
        return found

    def scattered(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Each rank's rows of tokens, where ranks divide them."""
        if not self.sequence_parallel:
            return list(values)
        missing = -len(self.tokens) % self.tp
        padded = [self.torch.nn.functional.pad(value, (0, 0, 0, missing)) for value in values]
        return [value.chunk(self.tp, 0)[number] for number, value in enumerate(padded)]

    def whole_rows(self, values: Sequence[Tensor]) -> list[Tensor]:
        """All tokens on every rank again."""
        if not self.sequence_parallel:
            return list(values)
        return [self.torch.cat(list(values), 0)[: len(self.tokens)]] * self.tp

    def embedded(self) -> list[Tensor]:
        ids, table = self.torch.tensor(self.tokens), self.module.model.embed_tokens.weight
        size = len(table) // self.tp
        terms = []
        for number in range(self.tp):
            own = (ids // size) == number
            terms.append(self.torch.where(own[:, None], table[ids], self.torch.zeros_like(table[ids])))
        return self.each(0, "embedding", self.scattered(self.summed(terms)))

    def layer(self, number: int, hidden: Sequence[Tensor]) -> list[Tensor]:
        block = self.module.model.layers[number]
        normed = self.each(number, "attn_norm", [block.input_layernorm(x) for x in hidden])
        attended = self.attention(number, block.self_attn, self.whole_rows(normed))
        out = self.down(attended, block.self_attn.o_proj.weight)
        out = self.each(number, "attn_out", self.scattered(self.summed(out)))
        hidden = self.each(number, "post_attn_residual", [x + y for x, y in zip(hidden, out, strict=True)])
        normed = self.each(number, "ffn_norm", [block.post_attention_layernorm(x) for x in hidden])
        inner = self.feed_forward(number, block.mlp, self.whole_rows(normed))
        out = self.each(number, "ffn_out", self.scattered(self.summed(self.down(inner, block.mlp.down_proj.weight))))
        return self.each(number, "post_ffn_residual", [x + y for x, y in zip(hidden, out, strict=True)])

    def down(self, values: Sequence[Tensor], weight: Tensor) -> list[Tensor]:
        """Each rank's term of a product with the columns of a weight."""
        return [x @ w.T for x, w in zip(values, weight.chunk(self.tp, 1), strict=True)]

    def feed_forward(self, layer: int, mlp: Any, normed: Sequence[Tensor]) -> list[Tensor]:
        def product(stage: str, weight: Tensor) -> list[Tensor]:
            return self.each(layer, stage, [x @ w.T for x, w in zip(normed, self.rows(weight), strict=True)])

        gate, up = product("ffn_gate", mlp.gate_proj.weight), product("ffn_up", mlp.up_proj.weight)
        silu = self.each(layer, "ffn_silu", [self.torch.nn.functional.silu(x) for x in gate])
        return self.each(layer, "ffn_swigl", [x * y for x, y in zip(silu, up, strict=True)])

    def attention(self, layer: int, attention: Any, normed: Sequence[Tensor]) -> list[Tensor]:
        heads = {"q": self.graph.heads, "k": self.graph.kv_heads, "v": self.graph.kv_heads}
        own: dict[str, list[Tensor]] = {}
        for name, count in heads.items():
            projection = getattr(attention, f"{name}_proj")
            weights, biases = self.heads(projection.weight, count), self.heads(projection.bias, count)
            own[name] = [(x @ w.T, b) for x, w, b in zip(normed, weights, biases, strict=True)]
        products = [[own[name][rank][0] for name in "qkv"] for rank in range(self.tp)]
        fused = self.each(layer, "qkv_matmul", [self.torch.cat(parts, -1) for parts in products])
        biases = [self.torch.cat([own[name][rank][1] for name in "qkv"], -1) for rank in range(self.tp)]
        fused = self.each(layer, "qkv_bias", [x + b for x, b in zip(fused, biases, strict=True)])
        sizes = [part.shape[-1] for part in products[0]]
        split = [self.by_head(part) for x in fused for part in x.split(sizes, -1)]
        queries, keys, values = split[0::3], split[1::3], split[2::3]
        queries = self.turned(layer, "q_post_rope", queries)
        keys = self.turned(layer, "k_post_rope", keys)
        return self.each(layer, "attention", self.mixed(queries, keys, values))

    def by_head(self, rows: Tensor) -> Tensor:
        return rows.reshape(len(rows), -1, self.graph.head_dim).transpose(0, 1)

    def turned(self, layer: int, stage: str, values: Sequence[Tensor]) -> list[Tensor]:
        positions = self.torch.arange(len(self.tokens))[None]
        cos, sin = (x[0] for x in self.module.model.rotary_emb(values[0][None], positions))
        half = self.graph.head_dim // 2
        found = [x * cos + self.torch.cat([-x[..., half:], x[..., :half]], -1) * sin for x in values]
        flat = self.each(layer, stage, [x.transpose(0, 1).reshape(len(self.tokens), -1) for x in found])
        return [self.by_head(x) for x in flat]

    def mixed(self, queries: Iterable[Tensor], keys: Iterable[Tensor], values: Iterable[Tensor]) -> list[Tensor]:
        found = []
        for q, k, v in zip(queries, keys, values, strict=True):
            repeated = [x.repeat_interleave(len(q) // len(x), 0) for x in (k, v)]
            scores = q @ repeated[0].transpose(1, 2) * self.graph.head_dim**-0.5
            hidden = self.torch.ones(scores.shape[1:], dtype=self.torch.bool).triu(1)
            weights = scores.masked_fill(hidden, float("-inf")).softmax(-1, dtype=self.torch.float32).to(q.dtype)
            found.append((weights @ repeated[1]).transpose(0, 1).reshape(len(self.tokens), -1))
        return found
