from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aprtui.errors import UnreadableError
from aprtui.model.apr.apr_file import AprFile
from aprtui.model.facts import TokenizerFacts, model_facts
from aprtui.model.model import load_model
from aprtui.model.tensor_table import summarise, tensor_table
from tests.model.apr_files import AprModel, apr_model
from tests.model.gguf_files import SPECIAL_TOKENS, sentence_piece_vocabulary, write_model


@pytest.fixture
def model(tmp_path: Path) -> AprModel:
    return apr_model(write_model(tmp_path / "m.gguf", layers=1))


def test_other_spellings_mean_the_same(model: AprModel, tmp_path: Path) -> None:
    expected = load_model(model.write(tmp_path / "m.apr")).config
    for key, other in {
        "hidden_size": "d_model", "num_layers": "n_layer", "num_heads": "num_attention_heads",
        "num_kv_heads": "n_kv_heads", "intermediate_size": "n_inner", "max_position_embeddings": "n_ctx",
        "rms_norm_eps": "norm_eps",
    }.items():  # fmt: skip
        model.metadata[other] = model.metadata.pop(key)
    model.metadata["architecture"] = "Qwen2ForCausalLM"
    assert load_model(model.write(tmp_path / "m.apr")).config == expected


def test_numbers_are_rounded_to_float32_as_aprender_keeps_them(model: AprModel, tmp_path: Path) -> None:
    expected = load_model(model.write(tmp_path / "m.apr")).config.norm_epsilon
    model.metadata["rms_norm_eps"] = 1e-6
    assert load_model(model.write(tmp_path / "m.apr")).config.norm_epsilon == expected != 1e-6


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("architecture", "gemma3", "architecture is 'gemma3', supported in .apr files are"),
        ("architecture", 3, "architecture is 3"),
        ("rope_type", 0, "rope_type is 0, but qwen2 has 2"),
        ("rope_type", 1, "rope_type is 1, expected 0"),
        ("rope_scaling", {"rope_type": "llama3"}, "rope_scaling is"),
        ("sliding_window", 4096, "sliding_window is 4096"),
        ("sharding", {"shard_count": 2, "shard_index": 0}, "one of several shards"),
        ("num_layers", 10**9, "block_count is 1000000000, expected at most 65535"),
        ("num_layers", "many", "block_count"),
        ("hidden_size", None, "hidden_size is missing"),
        ("rope_theta", None, "rope_theta is missing"),
        ("rope_theta", "x", "rope.freq_base"),
        ("rms_norm_eps", -1.0, "rms_epsilon"),
        ("rms_norm_eps", 1e300, "rms_epsilon"),
        ("rope_theta", 10**400, "rope.freq_base"),
        ("rope_theta", float("nan"), "rope.freq_base"),
        ("tokenizer.vocabulary", ["a", 3], "tokenizer.vocabulary is no list of strings"),
        ("tokenizer.token_type", [1, 2], "tokenizer.token_type is not one type"),
        ("tokenizer.scores", ["x"], "tokenizer.scores is no list of numbers"),
        ("tokenizer.scores", [10**400], "tokenizer.scores is no list of numbers"),
    ],
)
def test_metadata_that_make_no_sense_are_refused(
    model: AprModel, tmp_path: Path, key: str, value: Any, words: str
) -> None:
    model.metadata[key] = value
    with pytest.raises(UnreadableError, match=words) as refused:
        load_model(model.write(tmp_path / "m.apr"))
    assert "\n" not in str(refused.value)


def test_tensors_of_a_model_that_cannot_be_run_can_be_read(model: AprModel, tmp_path: Path) -> None:
    model.metadata |= {"architecture": "gemma3", "name": "a Gemma"}
    path = model.write(tmp_path / "m.apr")
    file = AprFile(path)
    assert file.refusal.startswith(f"{path}: architecture is 'gemma3'")
    assert (file.metadata["general.architecture"], file.metadata["general.name"]) == ("gemma3", "a Gemma")
    assert all(info.stored is not None and summarise(info).stats for info in tensor_table(path))


def tokenizer_of(model: AprModel, path: Path) -> TokenizerFacts | str:
    return model_facts(load_model(model.write(path))).tokenizer


def test_without_types_special_tokens_are_told_by_their_look(model: AprModel, tmp_path: Path) -> None:
    text = f"a{SPECIAL_TOKENS[1]}b{SPECIAL_TOKENS[2]}"
    expected = load_model(model.write(tmp_path / "m.apr")).tokenizer.encode(text)
    del model.metadata["tokenizer.token_type"]
    assert load_model(model.write(tmp_path / "m.apr")).tokenizer.encode(text) == expected


def test_the_pre_tokenizer_follows_from_the_architecture_or_is_asked_for(model: AprModel, tmp_path: Path) -> None:
    del model.metadata["tokenizer.pre_type"]
    found = tokenizer_of(model, tmp_path / "m.apr")
    assert isinstance(found, TokenizerFacts) and found.pre_tokenizer == "qwen2"
    llama = apr_model(write_model(tmp_path / "l.gguf", architecture="llama", layers=1))
    del llama.metadata["tokenizer.pre_type"]
    problem = tokenizer_of(llama, tmp_path / "l.apr")
    assert isinstance(problem, str) and "'not stated'" in problem


@pytest.mark.parametrize(("kind", "known"), [("BPE", True), ("qwen2", True), (None, True), ("Unigram", False)])
def test_kinds_of_vocabularies(model: AprModel, tmp_path: Path, kind: str | None, known: bool) -> None:
    del model.metadata["tokenizer.model"]
    model.metadata["tokenizer.model_type"] = kind
    assert isinstance(tokenizer_of(model, tmp_path / "m.apr"), TokenizerFacts) == known


def test_a_model_without_a_tokenizer_runs_on_token_ids(model: AprModel, tmp_path: Path) -> None:
    for key in [key for key in model.metadata if key.startswith("tokenizer.")]:
        del model.metadata[key]
    problem = tokenizer_of(model, tmp_path / "m.apr")
    assert isinstance(problem, str) and "give token ids" in problem


def test_sentence_piece_vocabularies_are_read(tmp_path: Path) -> None:
    from tests.model.gguf_files import model_file

    file = model_file(architecture="llama", layers=1)
    size = len(file.metadata["tokenizer.ggml.tokens"])
    file.metadata = {key: value for key, value in file.metadata.items() if not key.startswith("tokenizer.")}
    pieces = {f"▁{'ab' * (number + 1)}": -float(number) for number in range(size - 259)}
    file.metadata |= sentence_piece_vocabulary(pieces)
    path = file.write(tmp_path / "m.gguf")
    model = apr_model(path)
    expected = load_model(path).tokenizer.encode("abab x")
    assert load_model(model.write(tmp_path / "m.apr")).tokenizer.encode("abab x") == expected
    del model.metadata["tokenizer.token_type"]
    assert load_model(model.write(tmp_path / "m.apr")).tokenizer.encode("abab x") == expected
    model.metadata["tokenizer.merges"] = ["a b"]  # as files of Llama 2 have beside their scores
    assert load_model(model.write(tmp_path / "m.apr")).tokenizer.encode("abab x") == expected


def test_rows_of_embeddings_without_a_text_get_one(model: AprModel, tmp_path: Path) -> None:
    for key in ("vocabulary", "token_type"):
        model.metadata[f"tokenizer.{key}"] = model.metadata[f"tokenizer.{key}"][:-1]
    loaded = load_model(model.write(tmp_path / "m.apr"))
    assert loaded.tokenizer.size == loaded.config.graph.vocabulary
    assert loaded.tokenizer.piece(loaded.tokenizer.size - 1) == f"[PAD{loaded.tokenizer.size - 1}]"
