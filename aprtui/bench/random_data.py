"""Models and captures of random numbers in real shapes, with nothing to download and no engine that takes minutes.

Models are as fast as real ones, captures as slow for a screen. The mix of types is that of llama.cpp's Q4_K_M
(`use_more_bits`: Q6_K for the values and the down projections of half the layers, and for the head). Models have no
vocabulary, as engines are driven by token ids, or that of another file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from aprtui import __version__
from aprtui.errors import EngineError
from aprtui.model.gguf_file import StringArray
from aprtui.model.open_file import open_model_file
from aprtui.model.weight_types import WeightType
from aprtui.progress import Progress
from aprtui.trace.graph.config import GraphConfig
from aprtui.trace.graph.stage_graph import graph_for
from aprtui.trace.manifest import EngineInfo, Manifest, ModelInfo, relative_path
from aprtui.trace.writer import CaptureWriter, planned_files

SEVEN_BILLION = GraphConfig("qwen2", 28, 3584, 28, 4, 128, 18944, 152064, qkv_bias=True)
"""The shape of Qwen2.5-7B: 512 tokens of it are 8.3 GB."""

TWO_THOUSAND_FILES = GraphConfig("qwen2", 118, 64, 4, 2, 16, 128, 256, qkv_bias=True)

_BLOCK = 256
_SAMPLE = 1 << 24
_STEP = 7919


@dataclass(frozen=True, slots=True)
class Shape:
    """Dimensions of a Qwen2 model, or of a Qwen3 model with experts."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    """Channels of a feed-forward block, or of one expert's."""
    vocabulary: int = 151936
    tied: bool = True
    """Whether the embedding table is the head's matrix too."""
    experts: int = 0
    """Experts of a layer; 0: a dense model."""
    chosen: int = 0
    """Experts that a token goes through."""
    head_size: int | None = None
    """Channels of one head; a share of `hidden` where none is given."""

    @property
    def architecture(self) -> str:
        return "qwen3moe" if self.experts else "qwen2"

    @property
    def head_width(self) -> int:
        """Channels of one head."""
        return self.head_size or self.hidden // self.heads


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "tiny": Shape(256, 4, 4, 2, 768, 1024),
        "0.57b": Shape(1024, 24, 16, 2, 4864),
        "1.5b": Shape(1536, 28, 12, 2, 8960),
        "7b": Shape(3584, 28, 28, 4, 18944, 152064, tied=False),
        "4b-moe": Shape(2048, 6, 32, 4, 768, tied=False, experts=128, chosen=8, head_size=128),
        "deep": Shape(512, 80, 8, 2, 1536, 2048),
    }
)
"""Shapes by name: a small one, one like Qwen2.5-0.5B with all rows multiples of 256, those of Qwen2.5 1.5B and 7B, six
of the 48 layers of Qwen3-30B-A3B, and one with as many layers as a screen may have to show and the embedded model's
vocabulary."""


def write_random_model(path: Path, shape: Shape, seed: int = 7, tokenizer_of: Path | None = None) -> None:
    """Write a model of `shape` to `path`, atomically, with the vocabulary of the GGUF file `tokenizer_of` if given.

    Raises `EngineError` where it cannot be written.
    """
    import gguf

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        writer = gguf.GGUFWriter(partial, shape.architecture)
        _add_metadata(writer, shape)
        _add_tokenizer(writer, tokenizer_of)
        for name, array, kind in _tensors(shape, np.random.Generator(np.random.SFC64(seed))):
            writer.add_tensor(name, array, raw_dtype=gguf.GGMLQuantizationType(kind))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        partial.replace(path)
    except OSError as error:
        raise EngineError(
            f"{path}: cannot be written: {error.strerror or error}: free space or choose --dir"
        ) from error


def _add_metadata(writer: gguf.GGUFWriter, shape: Shape) -> None:  # type: ignore[name-defined]  # noqa: F821
    writer.add_name("random weights")
    writer.add_file_type(15)
    writer.add_quantization_version(2)
    writer.add_context_length(32768)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_width)
    writer.add_value_length(shape.head_width)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.chosen)
        writer.add_expert_feed_forward_length(shape.ffn)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(shape.vocabulary)


def _add_tokenizer(writer: gguf.GGUFWriter, source: Path | None) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Copy what `source` says of its vocabulary; its chat template and defaults are no part of that."""
    if source is None:
        writer.add_tokenizer_model("no_vocab")
        return
    for key, value in open_model_file(source, headers_only=True).metadata.items():
        if not key.startswith("tokenizer.ggml."):
            continue
        if isinstance(value, StringArray):
            writer.add_array(key, value.read())
        elif isinstance(value, np.ndarray):
            writer.add_array(key, value.tolist())
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, str(value))


Tensor = tuple[str, NDArray[np.uint8] | NDArray[np.float32], WeightType]


class _RandomTensors:
    """Tensors in the order in which they are asked for."""

    def __init__(self, random: np.random.Generator) -> None:
        self.made: list[Tensor] = []
        self._random = random

    def matrix(
        self, name: str, rows: int, columns: int, kind: WeightType, gain: float = 1.4, experts: int | None = None
    ) -> None:
        blocks = _blocks(kind, (experts or 1) * rows * columns // _BLOCK, gain / columns**0.5, self._random)
        leading = () if experts is None else (experts,)
        self.made.append((f"{name}.weight", blocks.reshape(*leading, rows, -1), kind))

    def floats(self, name: str, shape: tuple[int, ...], mean: float, deviation: float) -> None:
        values = mean + deviation * self._random.standard_normal(shape, np.float32)
        self.made.append((name, values.astype(np.float32), WeightType.F32))

    def norm(self, name: str, size: int) -> None:
        self.floats(f"{name}.weight", (size,), 1, 0.1)


def _tensors(shape: Shape, random: np.random.Generator) -> list[Tensor]:
    tensors = _RandomTensors(random)
    kind = WeightType.Q6_K if shape.tied else WeightType.Q4_K
    tensors.matrix("token_embd", shape.vocabulary, shape.hidden, kind, 2)
    if not shape.tied:
        tensors.matrix("output", shape.vocabulary, shape.hidden, WeightType.Q6_K, 2)
    tensors.norm("output_norm", shape.hidden)
    for layer in range(shape.layers):
        finer = WeightType.Q6_K if _more_bits(layer, shape.layers) else WeightType.Q4_K
        _add_layer(tensors, f"blk.{layer}", shape, finer, 2 / (2 * shape.layers) ** 0.5)
    return tensors.made


def _add_layer(tensors: _RandomTensors, block: str, shape: Shape, finer: WeightType, residual: float) -> None:
    """One layer, whose values and down projections are of the type `finer`; `residual` is the gain of what it adds."""
    tensors.norm(f"{block}.attn_norm", shape.hidden)
    tensors.norm(f"{block}.ffn_norm", shape.hidden)
    q, kv = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    for part, width in (("q", q), ("k", kv), ("v", kv)):
        tensors.matrix(f"{block}.attn_{part}", width, shape.hidden, finer if part == "v" else WeightType.Q4_K)
        if not shape.experts:
            tensors.floats(f"{block}.attn_{part}.bias", (width,), 0, 0.5)
        elif part != "v":
            tensors.norm(f"{block}.attn_{part}_norm", shape.head_width)
    tensors.matrix(f"{block}.attn_output", shape.hidden, q, WeightType.Q4_K, residual)
    ending, experts = ("_exps", shape.experts) if shape.experts else ("", None)
    if experts:
        tensors.floats(f"{block}.ffn_gate_inp.weight", (experts, shape.hidden), 0, shape.hidden**-0.5)
    for part in ("gate", "up"):
        tensors.matrix(f"{block}.ffn_{part}{ending}", shape.ffn, shape.hidden, WeightType.Q4_K, experts=experts)
    tensors.matrix(f"{block}.ffn_down{ending}", shape.hidden, shape.ffn, finer, residual, experts)


def _more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's `use_more_bits`: the first and last eighth, and every third layer between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _blocks(kind: WeightType, count: int, deviation: float, random: np.random.Generator) -> NDArray[np.uint8]:
    """Random blocks of zero mean and about the given standard deviation."""
    size, scales_at = (144, None) if kind is WeightType.Q4_K else (210, 192)
    blocks = np.frombuffer(random.bytes(count * size), np.uint8).reshape(count, size).copy()
    if scales_at is None:
        # d · sc · q − dmin · m with one scale and one minimum of 32 in all sub-blocks, q uniform in 0 … 15.
        scale = np.float16(deviation / (4.61 * 32))
        blocks[:, 4:12], blocks[:, 12:16] = 0b10_100000, 0
        blocks[:, :4] = np.array([scale, np.float16(7.5 * scale)], np.float16).view(np.uint8)
    else:
        # d · sc · (q − 32) with scales of 64, q uniform in 0 … 63.
        blocks[:, scales_at:208] = 64
        blocks[:, 208:] = np.array([np.float16(deviation / (18.5 * 64))], np.float16).view(np.uint8)
    return blocks


def write_noise_capture(
    path: Path, config: GraphConfig, tokens: int, progress: Progress, error: float = 0.0
) -> Manifest:
    """Write every stage of `tokens` positions as normal noise, the same in every capture but for an `error` of that
    relative size. Raises `EngineError` where it cannot be written."""
    graph = graph_for(config)
    assert _STEP * len(graph.nodes) < _SAMPLE
    engine = EngineInfo("noise", __version__, "none", "none", "none", "exact", {})
    ids = tuple(index % config.vocabulary for index in range(tokens))
    manifest = Manifest(
        ModelInfo("noise", None, config.architecture, None), config, engine, ids, ids, None, tokens, tokens, "last",
        planned_files(graph, graph.nodes, tokens, 1),
    )  # fmt: skip
    random = np.random.default_rng(1)
    sample, other = (random.standard_normal(_SAMPLE, np.float32) for _ in range(2))
    writer = CaptureWriter(path, manifest)
    try:
        for number, node in enumerate(graph.nodes):
            progress(f"writing {path.name}", number, len(graph.nodes))
            shape = manifest.files[relative_path(node)].shape
            values = _slice(sample, number, shape)
            if error:
                values += error * _slice(other, number, shape)
            writer.put(node, tokens - shape[0] if node.stage == "lm_head" else 0, values, None)
        return writer.finish(manifest)
    finally:
        writer.close()


def _slice(sample: NDArray[np.float32], number: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Values of the sample from a place of their own, repeated where they are not enough."""
    count = int(np.prod(shape, dtype=np.int64))
    start = number * _STEP
    # Stages larger than the sample begin where it does.
    taken = sample[start : start + count] if start + count <= sample.size else np.resize(sample, count)
    return taken.reshape(shape).copy()
