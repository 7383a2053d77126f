"""Recordings of PyTorch: every aten op of small models of transformers is what its sources give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from aprtui.cli.main import cli
from aprtui.compare.verdict import Verdict
from aprtui.errors import ExitCode
from aprtui.recordings.reading import Recording
from tests.model.gguf_files import write_model
from tests.recordings.made import edited, plant, replayed

pytestmark = pytest.mark.group("transformers")

TOKENS = ",".join(str(token) for token in np.random.default_rng(3).integers(0, 256, 9))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], standalone_mode=False)


def record(model: Path, folder: Path, *options: str) -> Recording:
    result = run("record", "torch", model, "--tokens", TOKENS, "--out", folder, "--decode-from", "8", *options)
    assert result.exception is None, (result.exception, result.output)
    return Recording.open(folder)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("llama", []), ("gemma3", []), ("qwen3", ["--attention", "sdpa"]),
        ("qwen2", ["--dtype", "bfloat16", "--attention", "sdpa"]),
        ("llama", ["--dtype", "float16"]),
    ],
)  # fmt: skip
def test_every_op_of_torch_is_what_its_sources_give(tmp_path: Path, architecture: str, options: list[str]) -> None:
    recording = record(write_model(tmp_path / "m.gguf", architecture=architecture), tmp_path / "r", *options)
    assert [graph.count for graph in recording.graphs] == [8, 1]
    replay = replayed(tmp_path / "r")
    assert replay.verdict is Verdict.PASS, (replay.reason, replay.first, replay.unknown)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of a small Llama."""
    folder = tmp_path_factory.mktemp("llama")
    record(write_model(folder / "m.gguf", architecture="llama"), folder / "r")
    return folder / "r"


def test_a_fault_in_an_output_is_named_with_its_module(llama: Path, tmp_path: Path) -> None:
    made = copied(llama, tmp_path)
    nodes = Recording.open(made).graphs[0].nodes
    index = next(i for i, node in enumerate(nodes) if node.op == "aten.mm.default" and "1.mlp.down_proj" in node.name)
    plant(made, 0, index, "noise of 1e-5")
    replay = replayed(made)
    assert replay.first is not None
    assert (replay.first.index, replay.first.name.text) == (index, "model.layers.1.mlp.down_proj")
    assert (replay.first.name.layer, replay.first.name.stage) == (1, "ffn_out")


def test_a_fault_in_fused_attention_of_bfloat16_stands_out_of_what_its_exponential_may_err_by(tmp_path: Path) -> None:
    options = ["--dtype", "bfloat16", "--attention", "sdpa"]
    record(write_model(tmp_path / "m.gguf", architecture="qwen2"), tmp_path / "r", *options)
    graph = Recording.open(tmp_path / "r").graphs[0]
    index = next(i for i, node in enumerate(graph.nodes) if "flash_attention" in node.op)
    begin, size = graph.nodes[index].blobs[0] or (0, 0)
    data = bytearray((tmp_path / "r" / "data.bin").read_bytes())
    values = np.frombuffer(data, np.uint16, size // 2, begin).reshape(
        -1, 8, graph.tensors[graph.nodes[index].outputs[0]].shape[-1]
    )
    values[-1, 3] += 8  # one token of one head, by eight steps of bfloat16
    (tmp_path / "r" / "data.bin").write_bytes(data)
    replay = replayed(tmp_path / "r")
    assert replay.first is not None
    assert replay.first.index == index


@pytest.mark.parametrize("op", ["aten.from_file.default", "prims.device_put.default", "os.system.default"])
def test_no_op_beyond_the_list_is_called(llama: Path, tmp_path: Path, op: str) -> None:
    made = copied(llama, tmp_path)
    edited(made, lambda d: d["graphs"][0]["nodes"][5].update(op=op))
    assert f"op {op} is not modelled" in replayed(made).unknown


def test_a_size_that_a_file_claims_takes_no_memory(llama: Path, tmp_path: Path) -> None:
    made = copied(llama, tmp_path)

    def huge(document: dict[str, Any]) -> None:
        node = next(node for node in document["graphs"][0]["nodes"] if node["op"].startswith("aten.arange"))
        node["params"]["args"] = [1 << 40]

    edited(made, huge)
    assert any("would make more" in reason for reason in replayed(made).unknown)


def folder_of(folder: Path, **options: Any) -> Path:
    """A small model of an architecture that our engines do not know, as Hugging Face keeps models."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPTNeoXConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, **options,
    )  # fmt: skip
    transformers.GPTNeoXForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_folder_of_any_architecture_is_recorded_and_judged(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m")
    tokens = ("--tokens", "5,7,9,11,13", "--decode-from", "4")
    assert run("record", "torch", folder, *tokens, "--out", tmp_path / "a").exception is None
    assert replayed(tmp_path / "a").verdict is Verdict.PASS
    assert run("record", "torch", folder, *tokens, "--attention", "sdpa", "--out", tmp_path / "b").exception is None
    assert run("diff", tmp_path / "a", tmp_path / "b").return_value == ExitCode.PASS
    assert "not in the vocabulary" in str(
        run("record", "torch", folder, "--tokens", "100", "--out", tmp_path / "c").exception
    )
    assert "no tokenizer there" in str(run("record", "torch", folder, "-p", "a", "--out", tmp_path / "c").exception)
    assert not (tmp_path / "c").exists()
    (folder / "model.safetensors").unlink()
    assert "expected a folder with" in str(run("replay", tmp_path / "a").exception)


def copied(folder: Path, target: Path) -> Path:
    for name in ("graph.json", "data.bin"):
        (target / name).write_bytes((folder / name).read_bytes())
    assert json.loads((target / "graph.json").read_text())["ops"] == "aten"
    return target
