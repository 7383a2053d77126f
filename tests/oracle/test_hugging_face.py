"""Captures of folders of Hugging Face: those of a GGUF file with the same weights; folders that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from click.testing import CliRunner

from aprtui.cli.main import cli
from aprtui.errors import EngineError, UnreadableError, UsageError
from aprtui.model.model import Model
from aprtui.oracle.hugging_face import ModelFolder, open_folder, write_folder_captures
from aprtui.oracle.requests import Evaluation
from aprtui.oracle.transformers_capture import TransformersOptions, write_transformers_captures
from aprtui.oracle.transformers_model import AttentionKind, DataType, libraries, load
from aprtui.progress import no_progress
from aprtui.trace.capture import Capture
from tests.oracle.models import TOKENS, largest_error, model_of

needs_transformers = pytest.mark.group("transformers")
CONFIG = {"architectures": ["Qwen2ForCausalLM"], "vocab_size": 9, "max_position_embeddings": 8}


def folder_of(model: Model, path: Path) -> Path:
    """The same weights as transformers saves them."""
    load(model, DataType.FLOAT32, AttentionKind.EAGER, 1).module.save_pretrained(path)
    return path


def written(path: Path, files: dict[str, Any]) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@needs_transformers
@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gemma3"])
def test_a_folder_gives_what_a_file_with_the_same_weights_gives(tmp_path: Path, architecture: str) -> None:
    model = model_of(tmp_path, architecture)
    options, evaluation = TransformersOptions(threads=1), Evaluation(TOKENS, "text", 5)
    write_transformers_captures(model, {tmp_path / "file": evaluation}, options, no_progress)
    folder = open_folder(folder_of(model, tmp_path / "folder"))
    manifest = write_folder_captures(folder, {tmp_path / "out": evaluation}, options, no_progress)[tmp_path / "out"]
    of_file, of_folder = Capture.open(tmp_path / "file"), Capture.open(tmp_path / "out")
    assert of_folder.files.keys() == of_file.files.keys()
    assert largest_error(of_file, of_folder) < 1e-5
    assert of_file.manifest is not None
    assert manifest.unavailable == of_file.manifest.unavailable
    assert (manifest.prefill_tokens, manifest.text) == (5, "text")
    assert manifest.model.sha256 not in (None, of_file.manifest.model.sha256)


@needs_transformers
def test_the_command_takes_a_folder(tmp_path: Path) -> None:
    folder = folder_of(model_of(tmp_path, "qwen3"), tmp_path / "folder")
    words = ["oracle", "hf", str(folder), "--tokens", "1,2,3", "--out", str(tmp_path / "out"), "--threads", "1"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "39 of 39 stage tensors of 3 tokens" in done.stdout
    assert "--model MODEL.gguf" in done.stderr
    for more, message in ((["-p", "x"], "give either -p TEXT"), (["--overwrite", "--tokens", "1,999"], "999")):
        refused = CliRunner().invoke(cli, [*words, *more])
        assert isinstance(refused.exception, UsageError)
        assert message in str(refused.exception)
    named = CliRunner().invoke(cli, ["oracle", "hf", str(folder), "-p", "def f"])
    assert "has no tokenizer.json, tokenizer.model, vocab.json: give the prompt as --tokens" in str(named.exception)


@needs_transformers
def test_a_text_goes_through_the_tokenizer_of_the_folder_and_a_chat_through_its_template(tmp_path: Path) -> None:
    transformers = libraries()[1]
    words = {"<s>": 0, "def": 1, "f": 2, "user": 3}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<s>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<s>")
    wrapped.save_pretrained(tmp_path)
    folder = ModelFolder(tmp_path, "Qwen2ForCausalLM", CONFIG, ())
    assert folder.encode("def f", special=True, chat=False, system="") == [1, 2]
    with pytest.raises(UsageError, match="no chat template: leave out --chat"):
        folder.encode("def f", special=True, chat=True, system="")
    wrapped.chat_template = "{% for m in messages %}{{ m.role + ' ' + m.content }}{% endfor %}"
    wrapped.save_pretrained(tmp_path)
    assert folder.encode("def f", special=True, chat=True, system="") == [3, 1, 2]


@needs_transformers
def test_weights_that_are_not_those_of_the_class_are_one_line(tmp_path: Path) -> None:
    path = folder_of(model_of(tmp_path, "qwen2"), tmp_path / "folder")
    config = json.loads((path / "config.json").read_text())
    work = {tmp_path / "out": Evaluation((1, 2), None, 2)}
    (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3, "layer_types": None}))
    with pytest.raises(EngineError, match=r"its weights are not those of Qwen2ForCausalLM: model\.layers\.2\."):
        write_folder_captures(open_folder(path), work, TransformersOptions(threads=1), no_progress)
    (path / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(EngineError, match="transformers does not load it"):
        write_folder_captures(open_folder(path), work, TransformersOptions(threads=1), no_progress)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"config\.json: cannot be read: No such file"),
        ({"config.json": "{"}, r"config\.json: not JSON"),
        ({"config.json": "[" * 9000}, r"config\.json: not JSON"),
        ({"config.json": "[]"}, "expected a JSON object"),
        ({"config.json": {}}, "architectures is None, expected one of .*Qwen2ForCausalLM"),
        ({"config.json": CONFIG | {"architectures": ["Other"]}}, r"architectures is \['Other'\]"),
        ({"config.json": CONFIG | {"quantization_config": {"bits": 4}}}, "its weights are quantised"),
        ({"config.json": CONFIG | {"vocab_size": "many"}}, "vocab_size is 'many'"),
        ({"config.json": CONFIG, "pytorch_model.bin": "x"}, "expected weights as .safetensors; pickled ones are not"),
        (
            {"config.json": CONFIG, "model.safetensors.index.json": {"weight_map": {"a": "../../x.safetensors"}}},
            "expected names of files in the same folder",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_before_anything_is_loaded(
    tmp_path: Path, files: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnreadableError, match=message):
        open_folder(written(tmp_path / "folder", files))


def test_a_prompt_beyond_the_context_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path, "Qwen2ForCausalLM", CONFIG, ())
    work = {tmp_path / "out": Evaluation((1,) * 9, None, 9)}
    with pytest.raises(UsageError, match="9 tokens, the context has room for 8"):
        write_folder_captures(folder, work, TransformersOptions(), no_progress)
