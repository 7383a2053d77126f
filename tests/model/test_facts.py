"""The facts of model files, and what is called unusual about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.model.facts import ModelFacts, TokenizerFacts, decoded_weights, described, model_facts
from aprtui.model.model import load_model
from aprtui.model.weight_types import WeightType
from aprtui.resources import embedded_model
from tests.engine import edit_gguf
from tests.model.gguf_files import model_file, write_model


def facts_of(path: Path) -> ModelFacts:
    return model_facts(load_model(path))


def test_facts_of_the_embedded_model() -> None:
    facts = facts_of(embedded_model())
    graph = facts.config.graph
    assert (graph.architecture, graph.layers, graph.hidden, facts.quantization) == ("qwen2", 4, 256, "Q4_K_M")
    assert facts.size == embedded_model().stat().st_size
    assert [(found.name, found.tensors) for found in facts.types] == [("Q6_K", 17), ("Q4_K", 12), ("F32", 21)]
    assert facts.parameters == sum(found.values for found in facts.types) == 3_674_368
    assert isinstance(facts.tokenizer, TokenizerFacts)
    assert (facts.tokenizer.tokens, facts.tokenizer.begins, facts.tokenizer.bos) == (2048, True, "<|endoftext|>")
    assert facts.template is not None and facts.temperature == 0.7
    assert facts.unusual == (
        "Q, K and V have biases",
        "tied: the head multiplies by the embedding matrix, there is no output.weight",
        "called Q4_K_M, but 59 % of the bytes are Q6_K",
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"architecture": "qwen2"}, "Q, K and V have biases"),
        ({"architecture": "qwen3"}, "each head of Q and K is normalised before RoPE"),
        ({"architecture": "gpt-oss"}, "attention has sinks: a logit of each head joins the sum of its softmax"),
        ({"architecture": "gpt-oss"}, "router and experts have biases"),
        ({"architecture": "gpt-oss"}, "the SwiGLU is clamped"),
        ({"architecture": "gpt-oss"}, "RoPE's slow frequencies are divided by 32 (YaRN from a context of 64)"),
        ({"architecture": "gpt-oss"}, "YaRN's range begins and ends between channel pairs; llama.cpp rounds it"),
        ({"architecture": "gpt-oss"}, "RoPE makes queries and keys 1.34657 times as large"),
        ({"architecture": "llama", "tied": True}, "tied: the head multiplies by the embedding matrix"),
        ({"architecture": "qwen3", "head_dim": 128}, "4 heads of 128 make 512 channels, the hidden size is 256"),
        ({"architecture": "llama", "tokenizer": False}, "no tokenizer that can be used here: "),
    ],
)
def test_what_a_port_might_miss_is_called_unusual(tmp_path: Path, options: dict[str, object], sentence: str) -> None:
    facts = facts_of(write_model(tmp_path / "model.gguf", **options))
    assert any(each.startswith(sentence) for each in facts.unusual), facts.unusual


@pytest.mark.parametrize(
    ("architecture", "taken"), [("qwen2", "; llama.cpp takes 32 and 1 all the same"), ("mistral3", "")]
)
def test_unusual_betas_of_yarn_are_named_with_what_llama_cpp_takes(
    tmp_path: Path, architecture: str, taken: str
) -> None:
    file = model_file(architecture=architecture)
    stated = {"type": "yarn", "factor": 4.0, "original_context_length": 8, "yarn_beta_fast": 1.0}
    file.metadata |= {f"{architecture}.rope.scaling.{key}": value for key, value in stated.items()}
    said = f"YaRN's beta_fast and beta_slow are 1 and 1, where 32 and 1 are common{taken}"
    assert said in facts_of(file.write(tmp_path / "model.gguf")).unusual


def test_a_plain_model_has_nothing_unusual(tmp_path: Path) -> None:
    file = model_file(architecture="llama", weight_type=WeightType.Q8_0)
    assert facts_of(file.write(tmp_path / "model.gguf")).unusual == ()
    del file.metadata["tokenizer.chat_template"]
    without = facts_of(file.write(tmp_path / "without.gguf"))
    assert without.unusual == ("no chat template: prompts are plain text",) and without.template is None


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (edit_gguf.double_rope_base, "RoPE's base is 20000, where 1e4, 5e5 and 1e6 are common"),
        (edit_gguf.enlarge_epsilon, "the norms' epsilon is 0.001, where 1e-5 and 1e-6 are common"),
    ],
)
def test_numbers_that_are_not_the_usual_ones_are_named(tmp_path: Path, edit: object, sentence: str) -> None:
    path = write_model(tmp_path / "model.gguf", architecture="llama")
    assert callable(edit)
    edit(path)
    found = [each for each in facts_of(path).unusual if each.startswith(sentence)]
    assert found, facts_of(path).unusual


def test_rows_that_cannot_be_k_quants_and_layers_of_several_types_are_named(tmp_path: Path) -> None:
    file = model_file(architecture="llama", hidden=224, ffn=512, layers=3)
    other = model_file(architecture="llama", hidden=224, ffn=512, layers=3, weight_type=WeightType.Q6_K, seed=1)
    name = "blk.1.ffn_down.weight"
    file.tensors[name] = other.tensors[name]
    unusual = facts_of(file.write(tmp_path / "model.gguf")).unusual
    assert "the hidden size 224 is no multiple of 256: rows of that length cannot be K-quants" in unusual
    assert "ffn_down is not of one type in all layers: Q4_K in 2, Q6_K in 1" in unusual


def test_weights_that_are_decoded_row_by_row_are_named(tmp_path: Path) -> None:
    path = model_file(architecture="llama", weight_type=WeightType.IQ3_S, layers=1).write(tmp_path / "model.gguf")
    assert decoded_weights(load_model(path)) == "9 tensors IQ3_S: dequantised row by row, slower"
    assert "9 tensors IQ3_S: dequantised row by row, slower" in facts_of(path).unusual
    path = model_file(architecture="llama", layers=1).write(tmp_path / "other.gguf")
    assert decoded_weights(load_model(path)) is None


def test_kinds_of_layers_are_listed_where_a_model_has_several(tmp_path: Path) -> None:
    gemma = write_model(tmp_path / "gemma.gguf", architecture="gemma3", layers=7)
    rows = list(described(facts_of(gemma)))
    at = next(number for number, (name, _) in enumerate(rows) if name == "layer kinds")
    assert rows[at : at + 2] == [
        ("layer kinds", "~ a window of 16 positions: 0–4, 6"), ("", "all positions: 5")
    ]  # fmt: skip
    alike = described(facts_of(write_model(tmp_path / "qwen.gguf")))
    assert "layer kinds" not in dict(alike)
