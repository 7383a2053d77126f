"""Small GGUF files for tests: valid models of any supported architecture and weight type, with random blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.model.byte_pair import byte_of_character
from aprtui.model.vocabulary import TokenType
from aprtui.model.weight_types import BlockPart, WeightType

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_MERGES = ("d e", "de f", "Ġ d", "r e", "re t", "u r", "ur n", "ret urn", "Ġ return", "Ġ Ġ", "ĠĠ ĠĠ", "i n", "1 2")
_PRE_TOKENIZERS = {
    "llama": "llama-bpe",
    "smollm3": "smaug-bpe",
    "qwen35": "qwen35",
    "qwen35moe": "qwen35",
    "qwen3next": "qwen2",
    "mistral3": "tekken",
    "glm4moe": "glm4",
    "deepseek2": "deepseek-llm",
    "mistral4": "tekken",
}
EXPERT_FFN = 256
LINEAR_HEAD, LINEAR_KEYS, LINEAR_VALUES, TAPS = 32, 2, 4, 4
LEADING_DENSE = 1
RANK, NOPE, ROPE, VALUE = 96, 64, 32, 32
_NORM_BEHIND = ("gpt-oss", "glm4moe")
"""Architectures that call the norm in front of the feed-forward block by its place behind the attention."""
_BIASED = ("qwen2", "gpt-oss", "glm4moe")
"""Architectures whose queries, keys and values have biases."""
_FALLBACK = {WeightType.Q4_K: WeightType.Q5_0, WeightType.Q5_K: WeightType.Q8_0, WeightType.Q6_K: WeightType.Q8_0}

# Standard deviation of random blocks with a scale of 1, from the moments of uniform quants and scales.
_SPREAD = {
    WeightType.Q4_0: 4.6, WeightType.Q4_1: 4.6, WeightType.Q5_0: 9.2, WeightType.Q5_1: 9.2, WeightType.Q8_0: 73.9,
    WeightType.IQ4_NL: 68.6, WeightType.MXFP4: 5.9, WeightType.Q2_K: 13.9, WeightType.Q3_K: 43.3,
    WeightType.IQ4_XS: 1268.0, WeightType.NVFP4: 5.9, WeightType.TQ1_0: 0.82, WeightType.TQ2_0: 0.71,
    WeightType.IQ2_XXS: 57.0, WeightType.IQ2_XS: 57.0, WeightType.IQ2_S: 57.0, WeightType.IQ3_XXS: 160.0,
    WeightType.IQ3_S: 160.0, WeightType.IQ1_S: 7.0, WeightType.IQ1_M: 7.0,
    WeightType.Q4_K: 261.0, WeightType.Q5_K: 530.0, WeightType.Q6_K: 1367.0,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written: blocks `[rows, row_bytes]` of a type, `[row_bytes]` for a vector, or those of experts."""

    data: NDArray[np.uint8]
    type: int


@dataclass
class ModelFile:
    """What goes into a file; change `metadata` and `tensors` before writing to make a file that is wrong."""

    architecture: str
    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        """Write the file and return its path."""
        writer = gguf.GGUFWriter(path, self.architecture)
        if "general.architecture" in self.metadata:
            del writer.kv_data[0]["general.architecture"]
        for key, value in self.metadata.items():
            add_value(writer, key, value)
        for name, tensor in self.tensors.items():
            writer.add_tensor(name, tensor.data, raw_dtype=gguf.GGMLQuantizationType(tensor.type))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def write_parts(self, folder: Path, parts: int, stem: str = "model") -> list[Path]:
        """Write the file as `parts` files, as llama-gguf-split does, with as many tensors each as can be."""
        names = list(self.tensors)
        each = -(-len(names) // parts)
        paths = []
        for number in range(parts):
            part = ModelFile(self.architecture, dict(self.metadata) if number == 0 else {})
            part.metadata |= {"split.no": number, "split.count": parts, "split.tensors.count": len(names)}
            part.tensors = {name: self.tensors[name] for name in names[number * each : (number + 1) * each]}
            paths.append(part.write(folder / f"{stem}-{number + 1:05d}-of-{parts:05d}.gguf"))
        return paths


def add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Add a metadata value with the GGUF type that converters use for its Python type."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, list(value))


def random_blocks(kind: WeightType, rows: int, columns: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Blocks `[rows, row_bytes]` with random quants; the values have mean 0 and variance 1 / columns."""
    deviation = columns**-0.5
    if kind in (WeightType.F32, WeightType.F16, WeightType.BF16):
        values = (generator.standard_normal((rows, columns)) * deviation).astype(np.float32)
        return np.ascontiguousarray(gguf.quants.quantize(values, gguf.GGMLQuantizationType(kind))).view(np.uint8)
    block_values, block_bytes = kind.format.block_values, kind.format.block_bytes
    blocks = generator.integers(0, 256, (rows, columns // block_values, block_bytes), np.uint8)
    scale = (deviation / _SPREAD[kind] * generator.uniform(0.5, 1.5, blocks.shape[:2])).astype(np.float16)
    parts = kind.format.parts
    if kind is WeightType.TQ2_0:  # no quant is 3
        blocks &= ~((blocks & blocks >> 1 & 0x55) << 1)
    if kind is WeightType.MXFP4:
        scale[...] = deviation / _SPREAD[kind]
    set_scales(kind, blocks.reshape(-1, block_bytes), scale.reshape(-1))
    if BlockPart.MINIMUM in parts:
        # The minimum takes the mean quant off again; that of 32-blocks is added.
        middle = np.float16(kind.format.levels[1] / 2) * (1 if kind.format.scale_packing else -1)
        blocks[..., parts[BlockPart.MINIMUM]] = (scale * np.float16(middle))[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)


def set_scales(kind: WeightType, blocks: NDArray[np.uint8], scales: NDArray[np.floating]) -> None:
    """Make `scales` `[blocks]` the scales of `blocks` `[blocks, bytes]`, as near as the type can store them."""
    parts = kind.format.parts
    if kind is WeightType.NVFP4:  # a scale for each 16 values, stored twice as large
        blocks[:, :4] = gguf.quants.NVFP4.fp32_to_ue4m3(2 * np.asarray(scales, np.float32))[:, None]
    elif kind is WeightType.IQ1_M:  # four bits in each of four words
        bits = np.asarray(scales, np.float16).view(np.uint16)
        words = np.ascontiguousarray(blocks[:, 48:56]).view(np.uint16)
        for i in range(4):
            words[:, i] = (words[:, i] & 0x0FFF) | (bits >> 4 * i & 15) << 12
        blocks[:, 48:56] = words.view(np.uint8)
    elif parts[BlockPart.SCALE].stop - parts[BlockPart.SCALE].start == 1:
        blocks[:, parts[BlockPart.SCALE]] = 128 + np.rint(np.log2(np.asarray(scales, np.float32)))[:, None]
    else:
        blocks[:, parts[BlockPart.SCALE]] = np.asarray(scales, np.float16)[:, None].view(np.uint8)


def fitting_type(kind: WeightType, columns: int) -> WeightType:
    """`kind`, or what llama.cpp falls back to where rows are no whole number of blocks."""
    while columns % kind.format.block_values:
        kind = _FALLBACK.get(kind, WeightType.F16)
    return kind


def model_file(
    *,
    architecture: str = "qwen2",
    weight_type: WeightType = WeightType.Q4_K,
    layers: int = 2,
    hidden: int = 256,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int | None = None,
    ffn: int = 512,
    context: int = 512,
    tokenizer: bool = True,
    tied: bool = False,
    seed: int = 0,
    experts: int = 8,
    experts_used: int = 2,
    absorbed: bool = True,
    query_rank: int = 0,
    sigmoid: bool = False,
    groups: tuple[int, int] = (0, 0),
) -> ModelFile:
    """A valid model that has not been written yet. Without `tokenizer` the vocabulary has 288 tokens and no texts.

    Where the architecture has experts, there are `experts` of 256 channels. Where it has recurrent layers, every second
    one has attention. Latent attention is `absorbed` or not, and makes queries of rows of `query_rank` channels;
    the router beside it takes a softmax, or a `sigmoid` with a bias. Of `groups` of experts, as many as the first
    number says, a token uses as many as the second.
    """
    width = head_dim or hidden // heads
    file = ModelFile(architecture)
    values: dict[str, Any] = {
        "block_count": layers, "context_length": context, "embedding_length": hidden, "feed_forward_length": ffn,
        "attention.head_count": heads, "attention.head_count_kv": kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 10000.0,
    }  # fmt: skip
    if width * heads != hidden or ARCHITECTURES[architecture].qk_norm is not False:
        values |= {"attention.key_length": width, "attention.value_length": width}
    if ARCHITECTURES[architecture].post_norms or architecture == "gpt-oss":
        values |= {"attention.sliding_window": 16}
    if _is_hybrid(architecture):
        values |= {
            "ssm.conv_kernel": TAPS, "ssm.state_size": LINEAR_HEAD, "ssm.group_count": LINEAR_KEYS,
            "ssm.time_step_rank": LINEAR_VALUES, "ssm.inner_size": LINEAR_VALUES * LINEAR_HEAD,
            "full_attention_interval": 2, "rope.dimension_count": width // 4,
            "rope.dimension_sections": [11, 11, 10, 0],
        }  # fmt: skip
    if architecture == "gpt-oss":
        values |= {"rope.scaling.type": "yarn", "rope.scaling.factor": 32.0, "rope.scaling.original_context_length": 64}
    if ARCHITECTURES[architecture].query_temperature:
        values |= {
            "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 8,
            "attention.temperature_scale": 0.1,
        }  # fmt: skip
    if not ARCHITECTURES[architecture].experts:
        experts = 0
    else:
        values |= {
            "expert_count": experts, "expert_used_count": experts_used, "expert_feed_forward_length": EXPERT_FFN
        } | _group_keys(*groups)  # fmt: skip
        if _is_hybrid(architecture):
            values |= {"expert_shared_feed_forward_length": EXPERT_FFN}
    if architecture == "glm4moe":
        values |= {
            "rope.dimension_count": width // 2, "leading_dense_block_count": LEADING_DENSE, "expert_shared_count": 2,
            "expert_gating_func": 2, "expert_weights_scale": 1.5, "expert_weights_norm": True,
        }  # fmt: skip
    if ARCHITECTURES[architecture].latent is not None:
        values |= _latent_keys(heads, query_rank, absorbed=absorbed) | (_SIGMOID_KEYS if sigmoid else {})
        values |= _OF_MISTRAL4 if architecture == "mistral4" else {}
    file.metadata = {"general.name": f"random-{architecture}"} | {f"{architecture}.{k}": v for k, v in values.items()}
    if tokenizer:
        file.metadata |= byte_pair_vocabulary(_PRE_TOKENIZERS.get(architecture, "qwen2"))
    vocabulary = len(file.metadata["tokenizer.ggml.tokens"]) if tokenizer else 288
    _add_tensors(
        file, weight_type, layers, hidden, heads * width, kv_heads * width, width, ffn, vocabulary, tied, seed,
        experts, absorbed, query_rank, sigmoid,
    )  # fmt: skip
    if architecture == "gpt-oss":
        for layer in range(layers):
            _add_biases_and_sinks(file, f"blk.{layer}", hidden, heads, experts, seed + layer)
    return file


_OF_MISTRAL4 = {
    "attention.temperature_length": 8, "rope.scaling.yarn_log_multiplier": 0.1, "expert_weights_norm": True
}  # fmt: skip
OF_MISTRAL_LARGE = {
    f"deepseek2.{key}": value for key, value in (_OF_MISTRAL4 | {"attention.temperature_scale": 0.1}).items()
}  # fmt: skip
"""What files of Mistral Large 3 say beyond those of DeepSeek-V2."""
_SIGMOID_KEYS = {"expert_gating_func": 2, "expert_weights_scale": 1.5, "expert_weights_norm": True}


def _latent_keys(heads: int, query_rank: int, *, absorbed: bool) -> dict[str, Any]:
    key, value = NOPE + ROPE, VALUE
    sizes = {"attention.key_length": key, "attention.value_length": value, "attention.head_count_kv": heads}
    if absorbed:
        sizes = {
            "attention.key_length": RANK + ROPE, "attention.value_length": RANK, "attention.head_count_kv": 1,
            "attention.key_length_mla": key, "attention.value_length_mla": value,
        }  # fmt: skip
    return sizes | {
        "rope.dimension_count": ROPE, "leading_dense_block_count": LEADING_DENSE, "expert_shared_count": 2,
        "attention.kv_lora_rank": RANK, "attention.q_lora_rank": query_rank,
        "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 8,
        "rope.scaling.yarn_log_multiplier": 0.0707,
    }  # fmt: skip


def _group_keys(count: int, used: int) -> dict[str, Any]:
    return {"expert_group_count": count, "expert_group_used_count": used} if count else {}


def _is_hybrid(architecture: str) -> bool:
    """Whether its layers have a recurrence in places."""
    return "ssm.conv_kernel" in ARCHITECTURES[architecture].keys.read


def write_model(path: Path, **options: Any) -> Path:
    """Write a valid model with the options of `model_file` and return its path."""
    return model_file(**options).write(path)


@dataclass(frozen=True)
class _Filler:
    """Adds random tensors to a file, one after the other."""

    file: ModelFile
    kind: WeightType
    generator: np.random.Generator

    def matrix(self, name: str, rows: int, columns: int) -> None:
        fitting = fitting_type(self.kind, columns)
        self.file.tensors[f"{name}.weight"] = Tensor(random_blocks(fitting, rows, columns, self.generator), fitting)

    def expert_matrices(self, name: str, experts: int, rows: int, columns: int) -> None:
        self.matrix(name, experts * rows, columns)
        flat = self.file.tensors[f"{name}.weight"]
        self.file.tensors[f"{name}.weight"] = Tensor(flat.data.reshape(experts, rows, -1), flat.type)

    def vector(self, name: str, size: int, mean: float = 1.0) -> None:
        values = (mean + 0.1 * self.generator.standard_normal(size)).astype(np.float32)
        self.file.tensors[name] = Tensor(values.view(np.uint8), WeightType.F32)

    def floats(self, name: str, *shape: int) -> None:
        values = self.generator.standard_normal(shape).astype(np.float32) / np.float32(shape[-1] ** 0.5)
        self.file.tensors[f"{name}.weight"] = Tensor(values.view(np.uint8), WeightType.F32)

    def recurrence(self, block: str, hidden: int) -> None:
        values = LINEAR_VALUES * LINEAR_HEAD
        fused = values + 2 * LINEAR_KEYS * LINEAR_HEAD
        rates = ("ssm_ba",) if self.file.architecture == "qwen3next" else ("ssm_beta", "ssm_alpha")
        for name, rows in (("attn_qkv", fused), ("attn_gate", values)):
            self.matrix(f"{block}.{name}", rows, hidden)
        for name in rates:
            self.matrix(f"{block}.{name}", 2 * LINEAR_VALUES // len(rates), hidden)
        self.matrix(f"{block}.ssm_out", hidden, values)
        self.floats(f"{block}.ssm_conv1d", fused, TAPS)
        self.vector(f"{block}.ssm_norm.weight", LINEAR_HEAD)
        self.vector(f"{block}.ssm_dt.bias", LINEAR_VALUES, -1.0)
        self.vector(f"{block}.ssm_a", LINEAR_VALUES, -0.5)

    def latent(self, block: str, hidden: int, heads: int, query_rank: int, *, absorbed: bool) -> None:
        """Latent attention: queries, keys and values."""
        if query_rank:
            self.matrix(f"{block}.attn_q_a", query_rank, hidden)
            self.vector(f"{block}.attn_q_a_norm.weight", query_rank)
        queries = ("attn_q_b", query_rank) if query_rank else ("attn_q", hidden)
        self.matrix(f"{block}.{queries[0]}", heads * (NOPE + ROPE), queries[1])
        self.matrix(f"{block}.attn_kv_a_mqa", RANK + ROPE, hidden)
        self.vector(f"{block}.attn_kv_a_norm.weight", RANK)
        if absorbed:
            self.expert_matrices(f"{block}.attn_k_b", heads, RANK, NOPE)
            self.expert_matrices(f"{block}.attn_v_b", heads, VALUE, RANK)
        else:
            self.matrix(f"{block}.attn_kv_b", heads * (NOPE + VALUE), RANK)
        self.matrix(f"{block}.attn_output", hidden, heads * VALUE)

    def feed_forward(self, block: str, hidden: int, ffn: int, experts: int, *, shared: int, gated: bool) -> None:
        """With `experts`, also one of `shared` times their channels that all tokens use, `gated` or not."""
        widths = (("gate", ffn, hidden), ("up", ffn, hidden), ("down", hidden, ffn))
        if not experts:
            for name, rows, columns in widths:
                self.matrix(f"{block}.ffn_{name}", rows, columns)
            return
        self.floats(f"{block}.ffn_gate_inp", experts, hidden)
        for name, rows, columns in (
            ("gate", EXPERT_FFN, hidden),
            ("up", EXPERT_FFN, hidden),
            ("down", hidden, EXPERT_FFN),
        ):
            self.expert_matrices(f"{block}.ffn_{name}_exps", experts, rows, columns)
            if shared:
                wide = (rows, shared * columns) if name == "down" else (shared * rows, columns)
                self.matrix(f"{block}.ffn_{name}_shexp", *wide)
        if gated:
            self.floats(f"{block}.ffn_gate_inp_shexp", hidden)


def _add_tensors(
    file: ModelFile, kind: WeightType, layers: int, hidden: int, q_width: int, kv_width: int, head_dim: int, ffn: int,
    vocabulary: int, tied: bool, seed: int, experts: int, absorbed: bool, query_rank: int, sigmoid: bool,
) -> None:  # fmt: skip
    filler, architecture = _Filler(file, kind, np.random.default_rng(seed)), ARCHITECTURES[file.architecture]
    is_hybrid, is_glm = _is_hybrid(file.architecture), file.architecture == "glm4moe"
    is_latent = architecture.latent is not None
    filler.matrix("token_embd", vocabulary, hidden)
    for layer in range(layers):
        block, is_recurrent = f"blk.{layer}", is_hybrid and layer % 2 == 0
        filler.vector(f"{block}.attn_norm.weight", hidden)
        # Of gpt-oss large enough for its clamps.
        mean = 4.0 if file.architecture == "gpt-oss" else 1.0
        ffn_norm = "post_attention_norm" if is_hybrid or file.architecture in _NORM_BEHIND else "ffn_norm"
        filler.vector(f"{block}.{ffn_norm}.weight", hidden, mean)
        if is_recurrent:
            filler.recurrence(block, hidden)
        elif is_latent:
            filler.latent(block, hidden, q_width // head_dim, query_rank, absorbed=absorbed)
        else:
            for part, width in (("q", (1 + is_hybrid) * q_width), ("k", kv_width), ("v", kv_width)):
                filler.matrix(f"{block}.attn_{part}", width, hidden)
                if file.architecture in _BIASED:
                    filler.vector(f"{block}.attn_{part}.bias", width, 0.0)
        for name in ("attn_q_norm", "attn_k_norm") if architecture.qk_norm is not False and not is_recurrent else ():
            filler.vector(f"{block}.{name}.weight", head_dim)
        for name in ("post_attention_norm", "post_ffw_norm") if architecture.post_norms else ():
            filler.vector(f"{block}.{name}.weight", hidden)
        if not is_recurrent and not is_latent:
            filler.matrix(f"{block}.attn_output", hidden, q_width)
        is_dense = (is_glm or is_latent) and layer < LEADING_DENSE
        filler.feed_forward(
            block,
            hidden,
            ffn,
            0 if is_dense else experts,
            shared=2 if is_glm or is_latent else int(is_hybrid),
            gated=is_hybrid,
        )
        if (is_glm or sigmoid) and not is_dense:
            filler.vector(f"{block}.exp_probs_b.bias", experts, 0.0)
    filler.vector("output_norm.weight", hidden)
    if not tied:
        filler.matrix("output", vocabulary, hidden)


def _add_biases_and_sinks(file: ModelFile, block: str, hidden: int, heads: int, experts: int, seed: int) -> None:
    """What a layer of gpt-oss has beside that of other models with experts."""
    generator = np.random.default_rng(seed)
    shapes = {
        "attn_output.bias": (hidden,), "attn_sinks.weight": (heads,), "ffn_gate_inp.bias": (experts,),
        "ffn_gate_exps.bias": (experts, EXPERT_FFN), "ffn_up_exps.bias": (experts, EXPERT_FFN),
        "ffn_down_exps.bias": (experts, hidden),
    }  # fmt: skip
    for name, shape in shapes.items():
        values = 0.1 * generator.standard_normal(shape).astype(np.float32)
        file.tensors[f"{block}.{name}"] = Tensor(values.view(np.uint8), WeightType.F32)


def byte_pair_vocabulary(pre_tokenizer: str) -> dict[str, Any]:
    """Metadata of a byte-level vocabulary: 256 bytes, a few merges of Python words, ChatML's special tokens."""
    texts = [*byte_of_character(), *(merge.replace(" ", "") for merge in _MERGES), *SPECIAL_TOKENS]
    plain = len(texts) - len(SPECIAL_TOKENS)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre_tokenizer,
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": [int(TokenType.NORMAL)] * plain + [int(TokenType.CONTROL)] * len(SPECIAL_TOKENS),
        "tokenizer.ggml.merges": list(_MERGES),
        "tokenizer.ggml.bos_token_id": plain,
        "tokenizer.ggml.eos_token_id": plain + 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def sentence_piece_vocabulary(pieces: Mapping[str, float]) -> dict[str, Any]:
    """Metadata of a SentencePiece vocabulary: `<unk>`, `<s>`, `</s>`, 256 byte tokens, then `pieces` with scores."""
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": [int(kind) for kind in (*types, *[TokenType.NORMAL] * len(pieces))],
        "tokenizer.ggml.scores": [0.0] * 259 + list(pieces.values()),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
