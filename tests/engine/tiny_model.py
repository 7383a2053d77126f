"""Models of random blocks, made without a file: what the engines ask of a model and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aprtui.model.config import ModelConfig, QueryTemperature, Rope, Yarn
from aprtui.model.weight_types import BlockPart, WeightType
from aprtui.model.weights import Weight
from aprtui.trace.graph.config import Activation, ExpertGroups, GraphConfig, GroupScore, RopeLayout, Router
from aprtui.trace.graph.ops import BIASES, Op
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import StageGraph, graph_for
from tests.model.gguf_files import set_scales

TINY = GraphConfig(
    architecture="qwen2", layers=2, hidden=256, heads=4, kv_heads=2, head_dim=64, ffn=512, vocabulary=300,
    qkv_bias=True,
)  # fmt: skip
PLAIN_ROPE = Rope(10000.0)


@dataclass
class TinyModel:
    """Has the attributes of `aprtui.model.model.Model` that engines use."""

    config: ModelConfig
    graph: StageGraph
    bound: dict[Node, tuple[Weight, ...]]
    name: str = "tiny"
    path: Path = Path("tiny.gguf")
    weights: dict[str, Weight] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights = {weight.name: weight for weights in self.bound.values() for weight in weights}

    @property
    def architecture(self) -> str:
        return self.config.graph.architecture

    def params(self, node: Node) -> tuple[Weight, ...]:
        return self.bound.get(node, ())


def half_offsets(kind: WeightType) -> tuple[int, ...]:
    """Where the float16 scale and minimum of a block lie."""
    parts = kind.format.parts
    found = [parts[part] for part in (BlockPart.SCALE, BlockPart.MINIMUM) if part in parts]
    return tuple(part.start for part in found if part.stop - part.start == 2)


def set_halves(kind: WeightType, data: NDArray[np.uint8], value: float) -> None:
    """Make the scales and minimums of all blocks in `data` `[rows, row_bytes]` this number."""
    blocks = data.reshape(-1, kind.format.block_bytes)
    set_scales(kind, blocks, np.full(len(blocks), value))
    for offset in half_offsets(kind):
        blocks[:, offset : offset + 2] = np.array([value], np.float16).view(np.uint8)


def random_weight(rng: np.random.Generator, name: str, kind: WeightType, rows: int, columns: int) -> Weight:
    """Random blocks of `kind`, scaled so that a row's product with values of rms 1 has an rms near 1."""
    spread = np.float32(columns**-0.5)
    if kind is WeightType.F32:
        data = (rng.standard_normal((rows, columns), np.float32) * spread).view(np.uint8)
    elif kind is WeightType.F16:
        data = (rng.standard_normal((rows, columns), np.float32) * spread).astype(np.float16).view(np.uint8)
    elif kind is WeightType.BF16:
        wide = (rng.standard_normal((rows, columns), np.float32) * spread).view(np.uint32)
        data = (wide >> 16).astype(np.uint16).view(np.uint8)
    else:
        row = kind.format
        blocks = rng.integers(0, 256, (rows * columns // row.block_values, row.block_bytes), np.uint8)
        scales = rng.uniform(0.5, 1.0, len(blocks)).astype(np.float16)

        def scaled(factor: float) -> NDArray[np.uint8]:
            set_scales(kind, blocks, scales * np.float16(factor))
            if BlockPart.MINIMUM in row.parts:
                minimum = np.float16(factor) * rng.uniform(0.5, 1.0, len(blocks)).astype(np.float16)
                blocks[:, row.parts[BlockPart.MINIMUM]] = minimum[:, None].view(np.uint8)
            return blocks.reshape(rows, -1)

        unit = Weight(name, kind, rows, columns, scaled(1.0)).dequantize(slice(0, 4))
        data = scaled(float(spread / np.sqrt(np.mean(np.square(unit)))))
    return Weight(name, kind, rows, columns, np.ascontiguousarray(data))


def tiny_model(
    config: GraphConfig = TINY,
    kinds: tuple[WeightType, ...] = (WeightType.Q4_K, WeightType.Q6_K),
    *,
    context: int = 2048,
    seed: int = 0,
    rope: Rope = PLAIN_ROPE,
    **numbers: Any,
) -> TinyModel:
    """A random model of `config`; matrices take the weight types `kinds` in turn, norms and biases are F32.

    `numbers` are further fields of its `ModelConfig`.
    """
    rng = np.random.default_rng(seed)
    graph = graph_for(config)
    bound: dict[Node, tuple[Weight, ...]] = {}
    turn = 0
    for node in graph.nodes:
        stage = graph[node.stage]
        prefix = "" if node.layer is None or stage.op is Op.EMBED else f"blk.{node.layer}."
        weights = []
        for param in stage.params:
            suffix = "bias" if stage.op in (*BIASES, Op.SOFTPLUS) else "weight"
            rows, columns = _shape(config, stage.op, param)
            if param in ("ffn_gate_inp", "ffn_gate_inp_shexp"):
                kind = WeightType.F32  # as quantisers leave it
            elif stage.op in (Op.MATMUL, Op.EMBED, Op.EXPERT_MATMUL):
                kind = kinds[turn % len(kinds)]
                turn += 1
            else:
                kind = WeightType.F32
            weight = random_weight(rng, f"{prefix}{param}.{suffix}", kind, rows, columns)
            if kind is WeightType.F32 and stage.op in (Op.RMS_NORM, Op.HEAD_RMS_NORM):
                # Values that are large enough for the clamps of gpt-oss.
                mean = 4 if param == "post_attention_norm" and config.activation is Activation.SWIGLU_OAI else 1
                values = (mean + 0.1 * rng.standard_normal((1, columns))).astype(np.float32)
                weight = Weight(weight.name, kind, 1, columns, values.view(np.uint8))
            if stage.op is Op.DECAY:  # from a state that lasts to one that is soon forgotten
                values = -np.exp(rng.uniform(-4, 1, (1, columns))).astype(np.float32)
                weight = Weight(weight.name, kind, 1, columns, values.view(np.uint8))
            if stage.op is Op.EXPERT_MATMUL:
                weight = replace(weight, experts=config.experts)
            weights.append(weight)
        if weights:
            bound[node] = tuple(weights)
    return TinyModel(ModelConfig(config, context, 1e-6, rope, **numbers), graph, bound)


def _shape(config: GraphConfig, op: Op, param: str) -> tuple[int, int]:
    if op is Op.BIAS:
        widths = {"attn_q": config.q_width, "attn_output": config.hidden}
        widths |= dict.fromkeys(("ffn_gate_inp", "exp_probs_b"), config.experts)
        return 1, widths.get(param, config.kv_width)
    if op is Op.EXPERT_BIAS:
        return config.experts, config.hidden if param == "ffn_down_exps" else config.expert_ffn
    if op is Op.HEAD_RMS_NORM:
        return 1, config.linear_head_dim if param == "ssm_norm" else config.head_dim
    if op is Op.RMS_NORM:
        return 1, config.hidden
    return {
        "attn_sinks": (1, config.heads),
        "attn_qkv": (config.linear_qkv_width, config.hidden),
        "attn_gate": (config.linear_value_width, config.hidden),
        "ssm_beta": (config.linear_value_heads, config.hidden),
        "ssm_alpha": (config.linear_value_heads, config.hidden),
        "ssm_ba": (2 * config.linear_value_heads, config.hidden),
        "ssm_conv1d": (config.linear_qkv_width, config.conv_kernel),
        "ssm_dt": (1, config.linear_value_heads),
        "ssm_a": (1, config.linear_value_heads),
        "ssm_out": (config.hidden, config.linear_value_width),
        "ffn_gate_shexp": (config.shared_expert_ffn, config.hidden),
        "ffn_up_shexp": (config.shared_expert_ffn, config.hidden),
        "ffn_down_shexp": (config.hidden, config.shared_expert_ffn),
        "ffn_gate_inp_shexp": (1, config.hidden),
        "token_embd": (config.vocabulary, config.hidden),
        "output": (config.vocabulary, config.hidden),
        "attn_q": (config.heads * config.q_head_width, config.hidden),
        "attn_k": (config.kv_width, config.hidden),
        "attn_v": (config.kv_width, config.hidden),
        "attn_output": (config.hidden, config.q_width),
        "ffn_gate": (config.ffn, config.hidden),
        "ffn_up": (config.ffn, config.hidden),
        "ffn_down": (config.hidden, config.ffn),
        "ffn_gate_inp": (config.experts, config.hidden),
        "ffn_gate_exps": (config.experts * config.expert_ffn, config.hidden),
        "ffn_up_exps": (config.experts * config.expert_ffn, config.hidden),
        "ffn_down_exps": (config.experts * config.hidden, config.expert_ffn),
    }[param]


LLAMA = GraphConfig(
    architecture="llama", layers=2, hidden=256, heads=4, kv_heads=4, head_dim=80, ffn=512, vocabulary=300,
    rope_layout=RopeLayout.INTERLEAVED,
)  # fmt: skip
QWEN3 = GraphConfig(
    architecture="qwen3", layers=2, hidden=256, heads=6, kv_heads=2, head_dim=128, ffn=768, vocabulary=300, qk_norm=True
)
ODD_HEADS = GraphConfig(
    architecture="llama", layers=2, hidden=96, heads=4, kv_heads=1, head_dim=40, ffn=160, vocabulary=300
)  # fmt: skip
QWEN3_EXPERTS = GraphConfig(
    architecture="qwen3moe", layers=2, hidden=256, heads=4, kv_heads=2, head_dim=64, ffn=768, vocabulary=300,
    qk_norm=True, experts=10, experts_used=3, expert_ffn=288,
)  # fmt: skip

GEMMA2 = GraphConfig(
    architecture="gemma2", layers=2, hidden=256, heads=6, kv_heads=2, head_dim=48, ffn=512, vocabulary=300,
    post_norms=True, activation=Activation.GELU_TANH, attn_softcap=True, logit_softcap=True, windows=(5, 0),
)  # fmt: skip
GEMMA3 = GraphConfig(
    architecture="gemma3", layers=3, hidden=256, heads=4, kv_heads=1, head_dim=64, ffn=512, vocabulary=300,
    qk_norm=True, post_norms=True, activation=Activation.GELU_TANH, windows=(20, 20, 0),
)  # fmt: skip
SMOLLM3 = GraphConfig(
    architecture="smollm3", layers=3, hidden=256, heads=4, kv_heads=2, head_dim=64, ffn=512, vocabulary=300,
    rope_layout=RopeLayout.INTERLEAVED, no_rope=(False, True, False),
)  # fmt: skip

HYBRID = GraphConfig(
    architecture="qwen35", layers=3, hidden=256, heads=4, kv_heads=2, head_dim=64, ffn=512, vocabulary=300,
    qk_norm=True, gated_attention=True, rope_dim=24, recurrent=(True, True, False), linear_key_heads=2,
    linear_value_heads=6, linear_head_dim=32, conv_kernel=4,
)  # fmt: skip
HYBRID_EXPERTS = replace(
    HYBRID, architecture="qwen35moe", layers=2, recurrent=(False, True), linear_head_dim=40, experts=10,
    experts_used=3, expert_ffn=288, shared_expert_ffn=160,
)  # fmt: skip
GROUPED_HYBRID = replace(
    HYBRID, architecture="qwen3next", layers=2, recurrent=(True, False), grouped_value_heads=True, fused_beta_alpha=True
)

GLM = GraphConfig(
    architecture="glm4moe", layers=2, hidden=256, heads=4, kv_heads=2, head_dim=64, ffn=512, vocabulary=300,
    qkv_bias=True, qk_norm=True, rope_dim=32, experts=10, experts_used=3, expert_ffn=96, dense=(True, False),
    router=Router.SIGMOID, router_bias=True, scaled_experts=True, shared_expert_ffn=192, shared_expert_gate=False,
)  # fmt: skip
GPT_OSS = GraphConfig(
    architecture="gpt-oss", layers=2, hidden=96, heads=4, kv_heads=2, head_dim=32, ffn=64, vocabulary=300,
    qkv_bias=True, activation=Activation.SWIGLU_OAI, windows=(6, 0), sinks=True, attn_out_bias=True,
    ffn_norm="post_attention_norm", experts=6, experts_used=3, expert_ffn=64, biased_experts=True,
)  # fmt: skip
MISTRAL3 = GraphConfig(
    architecture="mistral3", layers=2, hidden=256, heads=4, kv_heads=1, head_dim=64, ffn=512, vocabulary=300,
    rope_layout=RopeLayout.INTERLEAVED, query_temperature=True,
)  # fmt: skip

# One model of each shape that takes another path: grouped heads, norms of heads, RoPE of neighbours, odd heads with
# YaRN.
MODELS: dict[str, Callable[[], TinyModel]] = {
    "qwen2": lambda: tiny_model(TINY),
    "qwen3": lambda: tiny_model(QWEN3, (WeightType.Q5_K, WeightType.Q8_0, WeightType.Q4_K)),
    "llama": lambda: tiny_model(LLAMA, (WeightType.Q8_0, WeightType.Q5_0, WeightType.F16)),
    "odd heads": lambda: tiny_model(
        ODD_HEADS,
        (WeightType.Q4_0, WeightType.BF16, WeightType.F32, WeightType.Q4_1),
        rope=Rope(1e4, 8.0, None, Yarn(256), 1.2),
    ),
}

# Further ops that all backends have.
DEVICE_MODELS = MODELS | {
    "gemma2": lambda: tiny_model(
        GEMMA2,
        (WeightType.Q8_0, WeightType.Q4_0),
        embedding_scale=16.0,
        attention_scale=42.0**-0.5,
        attn_softcap=2.0,
        logit_softcap=1.5,
        norm_offset=True,
    ),
    "gemma3": lambda: tiny_model(
        GEMMA3, (WeightType.Q5_0, WeightType.Q6_K), rope=Rope(1e6), window_rope=Rope(1e4), embedding_scale=16.0
    ),
    "smollm3": lambda: tiny_model(SMOLLM3, (WeightType.Q4_1, WeightType.Q6_K)),
    "mistral3": lambda: tiny_model(
        MISTRAL3, (WeightType.Q5_K, WeightType.Q8_0), query_temperature=QueryTemperature(0.1, 7)
    ),
    "experts": lambda: tiny_model(QWEN3_EXPERTS, (WeightType.Q8_0, WeightType.F16, WeightType.Q4_0, WeightType.Q5_1)),
    "leading dense layer": lambda: tiny_model(
        replace(GLM, expert_groups=ExpertGroups(5, 2, GroupScore.TWO_LARGEST)),
        (WeightType.Q8_0, WeightType.F16),
        expert_weights_scale=1.5,
    ),
    "gpt-oss": lambda: tiny_model(
        GPT_OSS, (WeightType.MXFP4, WeightType.Q8_0), rope=Rope(15e4, 32.0, None, Yarn(64, whole_pairs=False), 1.35)
    ),
}

# Types and ops that no other backend computes with.
CPU_MODELS = DEVICE_MODELS | {
    "experts in blocks of 256": lambda: tiny_model(
        replace(QWEN3_EXPERTS, expert_ffn=256), (WeightType.Q4_K, WeightType.Q6_K)
    ),
    "experts of few bits": lambda: tiny_model(
        replace(QWEN3_EXPERTS, expert_ffn=256), (WeightType.Q4_K, WeightType.IQ3_S)
    ),
    "hybrid": lambda: tiny_model(HYBRID, (WeightType.Q8_0, WeightType.Q4_0), norm_offset=True),
    "hybrid with experts": lambda: tiny_model(HYBRID_EXPERTS, (WeightType.Q8_0, WeightType.F16)),
    "hybrid with grouped heads": lambda: tiny_model(GROUPED_HYBRID, (WeightType.Q8_0, WeightType.Q4_0)),
    "small blocks": lambda: tiny_model(TINY, (WeightType.Q4_1, WeightType.MXFP4, WeightType.Q5_1, WeightType.IQ4_NL)),
    "decoded": lambda: tiny_model(TINY, (WeightType.IQ3_S, WeightType.NVFP4, WeightType.IQ1_M, WeightType.TQ1_0)),
    "few bits": lambda: tiny_model(TINY, (WeightType.Q2_K, WeightType.IQ4_XS, WeightType.Q3_K)),
}
