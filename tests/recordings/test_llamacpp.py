"""Recordings of llama.cpp of small models of several architectures: every op passes, and planted faults are named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from aprtui.cli.main import cli
from aprtui.compare.verdict import Verdict
from aprtui.errors import EngineError, ExitCode, UsageError
from aprtui.model.weight_types import WeightType
from aprtui.recordings.reading import Recording
from tests.model.gguf_files import model_file, write_model
from tests.recordings.made import edited, plant, replayed

pytestmark = pytest.mark.group("llama_cpp")

TOKENS = ",".join(str(token) for token in np.random.default_rng(3).integers(0, 256, 9))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], standalone_mode=False)


def record(model: Path, folder: Path, *options: str) -> Recording:
    result = run("record", "llamacpp", model, "--tokens", TOKENS, "--out", folder, "--decode-from", "8", *options)
    assert result.exception is None, (result.exception, result.output)
    return Recording.open(folder)


FLASH = ["--flash-attention", "on"]


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("qwen2", []), ("gemma3", []), ("qwen35", ["--no-repack"]), ("qwen3moe", FLASH), ("gpt-oss", FLASH),
        ("qwen2", [*FLASH, "--kv-type", "q8_0"]),
    ],
)  # fmt: skip
def test_every_op_of_llamacpp_is_what_its_sources_give(tmp_path: Path, architecture: str, options: list[str]) -> None:
    recording = record(write_model(tmp_path / "m.gguf", architecture=architecture), tmp_path / "r", *options)
    assert [graph.count for graph in recording.graphs] == [8, 1]
    replay = replayed(tmp_path / "r")
    assert replay.verdict is Verdict.PASS, (replay.reason, replay.first, replay.unknown)
    assert all(result.name.text or result.name.stage for result in replay.results)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of a small Qwen2."""
    folder = tmp_path_factory.mktemp("qwen")
    record(write_model(folder / "m.gguf", architecture="qwen2"), folder / "r")
    return folder / "r"


def node_of(recording: Recording, op: str, name: str = "") -> int:
    """The first node of an op in the prefill, of a name where one is given."""
    nodes = recording.graphs[0].nodes
    return next(i for i, node in enumerate(nodes) if node.op == op and (not name or node.name == name))


@pytest.mark.parametrize(
    ("op", "name", "param", "value"),
    [("ROPE", "Kcur-1", "base", 10100.0), ("RMS_NORM", "norm-1", "epsilon", 1e-3), ("SOFT_MAX", "", "scale", 0.126)],
)
def test_a_parameter_that_the_engine_did_not_compute_with_is_named(
    qwen: Path, tmp_path: Path, op: str, name: str, param: str, value: float
) -> None:
    index = node_of(Recording.open(qwen), op, name)
    made = Path(shutil.copytree(qwen, tmp_path / "r"))
    edited(made, lambda d: d["graphs"][0]["nodes"][index]["params"].update({param: value}))
    replay = replayed(made)
    assert replay.first is not None
    assert (replay.first.graph, replay.first.index) == (0, index)
    assert sum(result.verdict is Verdict.FAIL for result in replay.results) == 1


def test_another_weight_than_the_engine_computed_with_is_named(qwen: Path, tmp_path: Path) -> None:
    made = Path(shutil.copytree(qwen, tmp_path / "r"))
    swap = {"blk.1.ffn_gate.weight": "blk.1.ffn_up.weight", "blk.1.ffn_up.weight": "blk.1.ffn_gate.weight"}

    def exchange(document: dict[str, Any]) -> None:
        for root in document["graphs"][0]["roots"]:
            if root.get("name") in swap:
                root["name"] = swap[root["name"]]

    edited(made, exchange)
    failed = [result for result in replayed(made).results if result.verdict is Verdict.FAIL]
    assert {(result.name.layer, result.op) for result in failed} == {(1, "MUL_MAT")}
    assert len(failed) == 2


@pytest.mark.parametrize("fault", ["zero tail", "noise of 1e-5", "swapped rows"])
def test_a_product_of_another_kernel_is_named(qwen: Path, tmp_path: Path, fault: str) -> None:
    made = Path(shutil.copytree(qwen, tmp_path / "r"))
    index = node_of(Recording.open(qwen), "MUL_MAT", "ffn_out-1")
    plant(made, 0, index, fault)
    replay = replayed(made)
    assert replay.first is not None
    assert replay.first.index == index
    assert (replay.first.name.layer, replay.first.name.stage) == (1, "ffn_out")


def test_what_cannot_be_recorded_is_refused_in_one_line(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf")
    both = run("record", "llamacpp", model, "--tokens", "1", "-p", "a")
    assert isinstance(both.exception, UsageError)
    beyond = run("record", "llamacpp", model, "--tokens", "1,99999", "--out", tmp_path / "r")
    assert "not in the vocabulary" in str(beyond.exception)
    late = run("record", "llamacpp", model, "--tokens", "1", "--decode-from", "2", "--out", tmp_path / "r")
    assert "the prompt has 1 tokens" in str(late.exception)
    broken = tmp_path / "broken.gguf"
    file = model_file(weight_type=WeightType.F32)
    del file.tensors["output_norm.weight"]
    file.write(broken)
    result = run("record", "llamacpp", broken, "--tokens", "1", "--out", tmp_path / "r")
    assert isinstance(result.exception, EngineError)
    assert "llama.cpp cannot load it" in str(result.exception)
    assert not (tmp_path / "r").exists()


def test_a_recording_says_what_it_is(qwen: Path) -> None:
    result = run("replay", qwen)
    assert result.return_value == ExitCode.PASS
    assert "flash_attention off" in " ".join(result.stdout.split())
