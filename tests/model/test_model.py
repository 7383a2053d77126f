"""Loading: what a good file gives, and that nothing in a file is silently ignored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from aprtui.errors import UnreadableError
from aprtui.model import model as model_module
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.model.config import Rope, RopeAngles
from aprtui.model.model import load_model
from aprtui.model.weight_types import WeightType
from aprtui.trace.graph.config import RopeLayout
from aprtui.trace.graph.stage import Node
from tests.model.gguf_files import ModelFile, Tensor, model_file, sentence_piece_vocabulary, write_model

Change = Callable[[ModelFile], object]


def floats(*values: float) -> Tensor:
    return Tensor(np.asarray(values, np.float32).view(np.uint8), WeightType.F32)


def experts_of(tensor: Tensor, count: int) -> Tensor:
    """The same rows as those of `count` experts."""
    rows = tensor.data.reshape(-1, tensor.data.shape[-1])
    return Tensor(rows.reshape(count, -1, rows.shape[1]), tensor.type)


def load_changed(folder: Path, change: Change, **options: object) -> model_module.Model:
    file = model_file(layers=1, **options)  # type: ignore[arg-type]
    change(file)
    return load_model(file.write(folder / "model.gguf"))


@pytest.mark.parametrize("weight_type", list(WeightType), ids=lambda kind: kind.name)
def test_a_half_download_is_one_line_whatever_its_weights_are(tmp_path: Path, weight_type: WeightType) -> None:
    """Whole, and as the last of two parts."""
    file = model_file(weight_type=weight_type, layers=1)
    for opened, cut in ((file.write(tmp_path / "whole.gguf"),) * 2, tuple(file.write_parts(tmp_path, 2))):
        assert load_model(opened).weights
        os.truncate(cut, cut.stat().st_size - 32 * weight_type.format.block_bytes)
        with pytest.raises(UnreadableError) as caught:
            load_model(opened)
        assert str(cut) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("weight_type", list(WeightType), ids=lambda kind: kind.name)
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_every_architecture_loads_with_every_weight_type(
    tmp_path: Path, architecture: str, weight_type: WeightType
) -> None:
    model = load_model(write_model(tmp_path / "model.gguf", architecture=architecture, weight_type=weight_type))
    assert model.architecture == architecture
    assert model.quantization == weight_type.name
    down = "ffn_down_exps" if model.config.graph.experts else "ffn_down"
    assert model.weights[f"blk.1.{down}.weight"].type is weight_type
    assert {weight.name for node in model.graph.nodes for weight in model.params(node)} == set(model.weights)


def test_configuration_is_that_of_the_metadata(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "m.gguf", architecture="qwen3", layers=3, head_dim=128, context=77))
    graph = model.config.graph
    assert (graph.layers, graph.hidden, graph.heads, graph.kv_heads, graph.head_dim, graph.ffn) == (
        3,
        256,
        4,
        2,
        128,
        512,
    )
    assert (graph.vocabulary, graph.qkv_bias, graph.qk_norm) == (model.tokenizer.size, False, True)
    assert model.config.context == 77 and model.config.norm_epsilon == pytest.approx(1e-6)
    assert (model.config.rope.theta, model.config.rope.scale, model.config.rope.factors) == (10000.0, 1.0, None)
    assert model.name == "random-qwen3"


def test_only_relatives_of_llama_turn_neighbouring_channels(tmp_path: Path) -> None:
    layouts = {
        name: load_model(write_model(tmp_path / f"{name}.gguf", architecture=name)).config.graph.rope_layout
        for name in ARCHITECTURES
    }
    assert layouts == {
        "deepseek2": RopeLayout.INTERLEAVED,
        "gemma2": RopeLayout.HALF_SPLIT,
        "gemma3": RopeLayout.HALF_SPLIT,
        "mistral3": RopeLayout.INTERLEAVED,
        "mistral4": RopeLayout.INTERLEAVED,
        "smollm3": RopeLayout.INTERLEAVED,
        "glm4moe": RopeLayout.HALF_SPLIT,
        "gpt-oss": RopeLayout.HALF_SPLIT,
        "llama": RopeLayout.INTERLEAVED,
        "qwen2": RopeLayout.HALF_SPLIT,
        "qwen3": RopeLayout.HALF_SPLIT,
        "qwen35": RopeLayout.HALF_SPLIT,
        "qwen35moe": RopeLayout.HALF_SPLIT,
        "qwen3moe": RopeLayout.HALF_SPLIT,
        "qwen3next": RopeLayout.HALF_SPLIT,
    }


def test_params_follow_the_order_of_the_stage(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "model.gguf", architecture="qwen2"))

    def names(layer: int | None, stage: str) -> list[str]:
        return [weight.name for weight in model.params(Node(layer, stage))]

    assert names(1, "qkv_matmul") == ["blk.1.attn_q.weight", "blk.1.attn_k.weight", "blk.1.attn_v.weight"]
    assert names(1, "qkv_bias") == ["blk.1.attn_q.bias", "blk.1.attn_k.bias", "blk.1.attn_v.bias"]
    assert names(0, "embedding") == ["token_embd.weight"]
    assert names(1, "ffn_out") == ["blk.1.ffn_down.weight"]
    assert names(None, "lm_head") == ["output.weight"]
    assert names(0, "attn_softmax") == []


def test_tied_head_uses_the_embedding_table(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "model.gguf", tied=True))
    assert model.params(Node(None, "lm_head")) == model.params(Node(0, "embedding"))
    assert "output.weight" not in model.weights


def test_weights_are_views_of_the_file(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf")
    model = load_model(path)
    reference = {entry.name: entry for entry in gguf.GGUFReader(path).tensors}
    for name, weight in model.weights.items():
        assert weight.data.shape == (weight.rows, weight.data.shape[-1]) and not weight.data.flags.writeable
        assert weight.data.base is not None
        assert weight.data.tobytes() == reference[name].data.tobytes()


def test_a_model_without_tokenizer_loads_and_says_so_when_text_is_used(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "model.gguf", tokenizer=False))
    assert model.config.graph.vocabulary == 288
    assert model.chat_template is None
    with pytest.raises(UnreadableError, match=r"has no tokenizer .*give token ids"):
        _ = model.tokenizer


def test_short_metadata_is_kept_and_vocabularies_are_not(tmp_path: Path) -> None:
    model = load_changed(tmp_path, lambda file: file.metadata.update({"general.tags": ["a", "b"], "x.y": [1, 2]}))
    assert model.metadata["general.tags"] == ["a", "b"] and model.metadata["x.y"] == [1, 2]
    assert model.metadata["qwen2.block_count"] == 1
    assert "tokenizer.ggml.tokens" not in model.metadata


def test_sampling_temperature_is_that_of_the_file_or_none(tmp_path: Path) -> None:
    assert load_changed(tmp_path, lambda file: None).sampling_temperature is None
    recommended = load_changed(tmp_path, lambda file: file.metadata.update({"general.sampling.temp": 0.75}))
    assert recommended.sampling_temperature == 0.75
    nonsense = load_changed(tmp_path, lambda file: file.metadata.update({"general.sampling.temp": float("nan")}))
    assert nonsense.sampling_temperature is None


def test_file_type_names_the_quantization(tmp_path: Path) -> None:
    model = load_changed(tmp_path, lambda file: file.metadata.update({"general.file_type": 15}))
    assert model.quantization == "Q4_K_M"
    guessed = load_changed(tmp_path, lambda file: file.metadata.update({"general.file_type": 1024}))
    assert guessed.quantization == "Q4_K"


def test_rope_factors_and_linear_scaling_are_honoured(tmp_path: Path) -> None:
    factors = [1.0 + index for index in range(32)]

    def change(file: ModelFile) -> None:
        file.metadata |= {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
        file.tensors["rope_freqs.weight"] = floats(*factors)

    model = load_changed(tmp_path, change, architecture="llama")
    assert model.config.rope.scale == 4.0 and model.config.rope.factors == tuple(factors)
    plain = 10000.0 ** -(np.arange(0, 64, 2) / 64)
    np.testing.assert_allclose(model.config.rope.angles(1, 2, 64), np.outer([1, 2], plain / 4 / factors))


def test_legacy_scale_and_type_none_are_read_as_llama_cpp_reads_them(tmp_path: Path) -> None:
    legacy = load_changed(tmp_path, lambda file: file.metadata.update({"qwen2.rope.scale_linear": 2.0}))
    assert legacy.config.rope.scale == 2.0
    none = {"qwen2.rope.scaling.type": "none", "qwen2.rope.scaling.factor": 2.0}
    assert load_changed(tmp_path, lambda file: file.metadata.update(none)).config.rope.scale == 1.0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("expert_count", 0),
        ("attention.sliding_window", 0),
        ("attention.sliding_window", 512),
        ("rope.dimension_count", 64),
        ("attention.key_length", 64),
        ("logit_scale", 1.0),
        ("attention.causal", True),
        ("rope.scaling.original_context_length", 8192),
        ("rope.scaling.yarn_beta_fast", 16.0),
        ("vocab_size", 272),
    ],
)
def test_keys_that_change_nothing_are_accepted(tmp_path: Path, key: str, value: object) -> None:
    load_changed(tmp_path, lambda file: file.metadata.update({f"qwen2.{key}": value}))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("expert_count", 8, "expected 0: this feature is not supported"),
        ("expert_used_count", 2, "expected 0"),
        ("attention.sliding_window", 128, "expected 0, or at least the context of 512"),
        ("rope.dimension_count", 32, "expected 64, the head size; partial rotation"),
        ("attention.value_length", 32, "expected 64, the length of a key"),
        ("rope.scaling.type", "longrope", "expected 'none', 'linear' or 'yarn'"),
        ("rope.scaling.type", "dynamic", "expected 'none', 'linear' or 'yarn'"),
        ("rope.scaling.factor", -1.0, "expected a number ≥ 0"),
        ("rope.scaling.attn_factor", 1.5, "expected 1.0"),
        ("rope.dimension_sections", [1, 2], "is not supported, and ignoring it could change the results"),
        ("rope.freq_base", 0.0, "expected a number > 0"),
        ("rope.freq_base", float("inf"), "expected a finite number"),
        ("logit_scale", 0.5, "expected 0.0"),
        ("embedding_scale", 12.0, "expected 0.0"),
        ("final_logit_softcapping", 30.0, "expected 0.0"),
        ("attention.scale", 0.1, "expected 0.0"),
        ("attention.causal", False, "expected True"),
        ("attention.layer_norm_rms_epsilon", "small", "expected a finite number"),
        ("attention.head_count", 0, "expected one whole number ≥ 1"),
        ("attention.head_count_kv", 3, "expected a divisor of the 4 query heads"),
        ("attention.head_count_kv", [1, 2], "expected one whole number ≥ 1 for all layers"),
        ("block_count", 60_000, "60000 layers, but the file has"),
        ("block_count", 2_000_000_000, "block_count is 2000000000, expected at most 65535"),
        ("context_length", "long", "expected one whole number"),
        ("invented_by_somebody", 1, "is not supported, and ignoring it could change the results"),
    ],
)
def test_keys_that_would_change_results_are_refused_by_name(
    tmp_path: Path, key: str, value: object, expected: str
) -> None:
    with pytest.raises(UnreadableError) as caught:
        load_changed(tmp_path, lambda file: file.metadata.update({f"qwen2.{key}": value}))
    assert expected in str(caught.value) and str(tmp_path / "model.gguf") in str(caught.value)
    assert f"qwen2.{key} is" in str(caught.value) or key == "block_count" or f"key qwen2.{key}" in str(caught.value)


@pytest.mark.parametrize(
    "key", ["block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
            "attention.layer_norm_rms_epsilon"],
)  # fmt: skip
def test_missing_key_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(UnreadableError, match=rf"metadata key qwen2\.{key} is missing"):
        load_changed(tmp_path, lambda file: file.metadata.pop(f"qwen2.{key}"))


def test_equal_values_for_all_layers_count_as_one(tmp_path: Path) -> None:
    model = load_changed(tmp_path, lambda file: file.metadata.update({"qwen2.feed_forward_length": [512]}))
    assert model.config.graph.ffn == 512


def test_unknown_architecture_is_named_with_the_supported_ones(tmp_path: Path) -> None:
    file = ModelFile("mamba", {"mamba.block_count": 1})
    supported = ", ".join(ARCHITECTURES)
    with pytest.raises(UnreadableError, match=f"general.architecture is 'mamba', supported are {supported}"):
        load_model(file.write(tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.tensors.pop("blk.0.ffn_up.weight"),
         r"tensor blk\.0\.ffn_up\.weight is missing, expected with shape \[512, 256\]"),
        (lambda file: file.tensors.update({"blk.0.ffn_up.weight": experts_of(file.tensors["blk.0.ffn_up.weight"], 2)}),
         r"tensor blk\.0\.ffn_up\.weight has shape \[2, 256, 256\], expected \[512, 256\]"),
        (lambda file: file.tensors.pop("blk.0.attn_v.bias"),
         r"tensor blk\.0\.attn_v\.bias is missing, expected with shape \[128\]"),
        (lambda file: file.tensors.pop("token_embd.weight"), r"tensor token_embd\.weight is missing"),
        (lambda file: file.tensors.update({"output_norm.weight": floats(*[1.0] * 128)}),
         r"tensor output_norm\.weight has shape \[128\], expected \[256\]"),
        (lambda file: file.tensors.update({"blk.0.ffn_up.weight": file.tensors["blk.0.ffn_down.weight"]}),
         r"tensor blk\.0\.ffn_up\.weight has shape \[256, 512\], expected \[512, 256\]"),
        (lambda file: file.tensors.update({"blk.0.attn_output.bias": floats(*[0.0] * 256)}),
         r"tensor blk\.0\.attn_output\.bias has no place in the qwen2 graph"),
        (lambda file: file.tensors.update({"blk.1.attn_norm.weight": floats(*[0.0] * 256)}),
         r"tensor blk\.1\.attn_norm\.weight has no place"),
        (lambda file: file.tensors.update({"output_norm.weight": Tensor(np.zeros(256 * 8, np.uint8), 28)}),
         r"tensor output_norm\.weight has the type F64, supported are F32, F16, Q4_0, Q4_1"),
        (lambda file: file.tensors.update({"blk.0.ffn_up.weight": Tensor(np.zeros((512, 36), np.uint8), 41)}),
         r"tensor blk\.0\.ffn_up\.weight has the type Q1_0"),
        (lambda file: file.tensors.update({"rope_freqs.weight": floats(*[1.0] * 7)}),
         r"rope_freqs\.weight has 7 values, expected 32"),
        (lambda file: file.tensors.update({"rope_freqs.weight": floats(*[0.0] * 32)}),
         r"rope_freqs\.weight holds values ≤ 0"),
        (lambda file: file.metadata["tokenizer.ggml.tokens"].append("one more"),
         r"tensor token_embd\.weight has shape \[272, 256\], expected \[273, 256\]"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_the_graph_are_refused_by_name(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        load_changed(tmp_path, change)


def test_biases_of_a_llama_model_become_part_of_its_graph(tmp_path: Path) -> None:
    def change(file: ModelFile) -> None:
        for part, width in (("q", 256), ("k", 128), ("v", 128)):
            file.tensors[f"blk.0.attn_{part}.bias"] = floats(*[0.5] * width)

    model = load_changed(tmp_path, change, architecture="llama")
    assert "qkv_bias" in model.graph and len(model.params(Node(0, "qkv_bias"))) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.metadata.pop("qwen3moe.expert_count"), r"key qwen3moe\.expert_count is missing"),
        (lambda file: file.metadata.update({"qwen3moe.expert_count": 1 << 20}), r"expert_count is .*at most 512"),
        (lambda file: file.metadata.update({"qwen3moe.expert_count": 4}),
         r"ffn_gate_inp\.weight has shape \[8, 256\], expected \[4, 256\]"),
        (lambda file: file.metadata.update({"qwen3moe.expert_used_count": 9}), r"used_count is 9.*at most the 8"),
        (lambda file: file.metadata.update({"qwen3moe.expert_used_count": 0}), r"expert_used_count is 0"),
        (lambda file: file.metadata.update({"qwen3moe.expert_feed_forward_length": 128}),
         r"ffn_gate_exps\.weight has shape \[8, 256, 256\], expected \[8, 128, 256\]"),
        (lambda file: file.metadata.update({"qwen3moe.expert_weights_scale": 2.5}), r"expert_weights_scale is 2\.5"),
        (lambda file: file.metadata.update({"qwen3moe.expert_weights_norm": False}), r"expert_weights_norm is False"),
        (lambda file: file.metadata.update({"qwen3moe.expert_gating_func": 2}), r"expert_gating_func is 2, expected 1"),
        (lambda file: file.metadata.update({"qwen3moe.expert_shared_count": 1}), r"expert_shared_count is 1"),
        (lambda file: file.metadata.update({"qwen3moe.expert_group_count": 4}), r"expert_group_count is 4"),
        (lambda file: file.metadata.update({"qwen3moe.leading_dense_block_count": 1}), r"leading_dense_block_count"),
        (lambda file: file.tensors.update({"blk.0.exp_probs_b.bias": floats(*[0.0] * 8)}),
         r"tensor blk\.0\.exp_probs_b\.bias has no place in the qwen3moe graph"),
        (lambda file: file.tensors.update(
            {"blk.0.ffn_up_exps.weight": experts_of(file.tensors["blk.0.ffn_up_exps.weight"], 4)}),
         r"ffn_up_exps\.weight has shape \[4, 512, 256\], expected \[8, 256, 256\]"),
    ],
)  # fmt: skip
def test_experts_that_do_not_fit_or_are_not_supported_are_refused_by_name(
    tmp_path: Path, change: Change, message: str
) -> None:
    with pytest.raises(UnreadableError, match=message):
        load_changed(tmp_path, change, architecture="qwen3moe")


def test_experts_share_the_width_of_a_dense_block_where_theirs_is_not_stated(tmp_path: Path) -> None:
    model = load_changed(
        tmp_path,
        lambda file: file.metadata.pop("qwen3moe.expert_feed_forward_length"),
        architecture="qwen3moe",
        ffn=512,
    )
    graph = model.config.graph
    assert (graph.experts, graph.experts_used, graph.expert_ffn, graph.ffn) == (8, 2, 256, 512)


def test_the_matrix_of_an_expert_is_its_part_of_the_tensor(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "model.gguf", architecture="qwen3moe"))
    (weight,) = model.params(Node(1, "ffn_moe_up"))
    assert (weight.experts, weight.rows, weight.expert_rows, weight.columns) == (8, 2048, 256, 256)
    np.testing.assert_array_equal(weight.expert(3).dequantize(), weight.dequantize(slice(768, 1024)))


OPTIONAL_KEYS = (
    "general.alignment", "general.file_type", "general.sampling.temp", "split.count", "qwen2.rope.scaling.type",
    "qwen2.rope.scaling.factor", "qwen2.attention.sliding_window", "qwen2.expert_count", "tokenizer.ggml.scores",
    "tokenizer.ggml.add_eos_token", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.add_space_prefix",
)  # fmt: skip


@pytest.mark.parametrize("value", [[1, 2], ["x", "y"], [0.5] * 300, "text", "", 7, -1.5, True], ids=repr)
@pytest.mark.parametrize("vocabulary", ["gpt2", "llama"])
def test_a_value_of_the_wrong_type_is_harmless_or_a_typed_error(tmp_path: Path, value: object, vocabulary: str) -> None:
    base = model_file(layers=1)
    if vocabulary == "llama":
        base.metadata |= sentence_piece_vocabulary({f"{number}x": 0.0 for number in range(13)})
    for key in (*base.metadata, *OPTIONAL_KEYS, "general.architecture"):
        file = ModelFile("qwen2", base.metadata | {key: value}, base.tensors)
        path = file.write(tmp_path / "model.gguf")
        try:
            model = load_model(path)
            _ = model.name, model.quantization, model.metadata, model.sampling_temperature, model.chat_template
            assert model.tokenizer.decode(model.tokenizer.encode("def f<|im_end|>")).strip()
        except UnreadableError as error:
            assert str(path) in str(error) and "\n" not in str(error), key


@pytest.mark.group("conformance")
@pytest.mark.parametrize("name", ["qwen2-q4km", "qwen2-q5km", "qwen2-q8_0", "qwen3-q4km"])
def test_conformance_models_load(conformance: Path, name: str) -> None:
    path = conformance / name / "model.gguf"
    model = load_model(path)
    assert model.quantization == {"q4km": "Q4_K_M", "q5km": "Q5_K_M", "q8_0": "Q8_0"}[name.split("-")[1]]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == model.sha256()
    assert len(model.weights) == len(gguf.GGUFReader(path).tensors)


def test_rope_recurrence_is_close_to_the_angles_but_not_them() -> None:
    """ggml multiplies positions by theta^(−2/d) in float32 once a pair; at position 600 it shows in the sixth digit."""
    rope = Rope(theta=10000.0, scale=2.0, factors=tuple(np.linspace(1, 3, 32)))
    exact = rope.angles(598, 4, 64)
    recurrence = rope.angles(598, 4, 64, RopeAngles.F32_RECURRENCE)
    assert recurrence.shape == (4, 32)
    np.testing.assert_allclose(recurrence, exact, rtol=1e-5)
    assert np.array_equal(recurrence, recurrence.astype(np.float32))
    assert np.abs(recurrence - exact).max() > 1e-7
    step = np.float32(np.float32(10000.0) ** np.float32(-2 / 64))
    third = np.float32(np.float32(np.float32(600) * step) * step) / np.float32(rope.factors[2] if rope.factors else 1)
    assert recurrence[2, 2] == np.float32(0.5) * third
