"""Captures by llama.cpp of one small model of each architecture, held against our reference, stage by stage."""

from __future__ import annotations

import ctypes
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from aprtui.cli.main import cli
from aprtui.engine.protocol import KvType
from aprtui.errors import EngineError, UsageError
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.model.model import Model, load_model
from aprtui.model.weight_types import WeightType
from aprtui.oracle import ggml
from aprtui.oracle.llamacpp_capture import LlamaCppOptions, write_llamacpp_captures
from aprtui.oracle.requests import Evaluation
from aprtui.progress import no_progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from aprtui.trace.writer import CaptureWriter
from tests.model.gguf_files import OF_MISTRAL_LARGE, model_file
from tests.oracle.models import TOKENS, largest_error, model_of, own_capture

ACTIVATIONS = {"ffn_silu", "ffn_gelu", "ffn_moe_silu", "ffn_shexp_silu"}
MAPS = {"attn_scores", "attn_softcap", "attn_softmax"}
VIEWS = {"q_pe_raw"}
F16_GELU = {"gemma2", "gemma3"}
needs_llama_cpp = pytest.mark.group("llama_cpp")


def captured(model: Model, folder: Path, prefill: int = len(TOKENS), **options: Any) -> Capture:
    # Threads that wait for each other are slow where a machine does other things, too.
    settings: dict[str, Any] = {"kv": KvType.F32, "threads": 1} | options
    work = {folder: Evaluation(TOKENS, None, prefill)}
    write_llamacpp_captures(model, work, LlamaCppOptions(**settings), no_progress)
    return Capture.open(folder)


def float_model(folder: Path, architecture: str) -> Model:
    """Weights in float32, which no activation is rounded for; no YaRN, whose angles ggml rounds as it goes."""
    layers = {"gemma3": 6, "smollm3": 4}.get(architecture, 2)
    file = model_file(
        architecture=architecture, layers=layers, weight_type=WeightType.F32, tied=architecture == "gemma2"
    )
    if architecture == "gpt-oss":
        file.metadata = {name: value for name, value in file.metadata.items() if ".rope.scaling." not in name}
    return load_model(file.write(folder / f"{architecture}.gguf"))


@needs_llama_cpp
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_stage_is_that_of_our_reference(tmp_path: Path, architecture: str) -> None:
    model = float_model(tmp_path, architecture)
    whole = captured(model, tmp_path / "whole")
    assert whole.manifest is not None
    unavailable = whole.manifest.unavailable
    assert unavailable.keys() == (ACTIVATIONS | VIEWS) & set(model.graph.names)
    assert {node.stage for node in model.graph.nodes if node not in whole.files} == unavailable.keys()
    tolerance = 2e-3 if architecture in F16_GELU else 1e-5
    assert largest_error(own_capture(model, tmp_path / "ours"), whole) < tolerance
    decoded = captured(model, tmp_path / "decoded", prefill=5)
    assert decoded.files.keys() == whole.files.keys()
    assert largest_error(whole, decoded) < tolerance


@needs_llama_cpp
@pytest.mark.parametrize("architecture", ["deepseek2", "mistral4"])
@pytest.mark.parametrize("absorbed", [True, False], ids=["absorbed", "expanded"])
def test_latent_attention_is_that_of_our_reference_in_the_form_of_the_file(
    tmp_path: Path, absorbed: bool, architecture: str
) -> None:
    options: dict[str, Any] = {"absorbed": absorbed, "query_rank": 64, "sigmoid": architecture == "deepseek2"}
    file = model_file(architecture=architecture, weight_type=WeightType.F32, **options)
    model = load_model(file.write(tmp_path / "model.gguf"))
    whole, flash = (captured(model, tmp_path / name, flash_attention=name == "flash") for name in ("whole", "flash"))
    queries = set() if absorbed else {"q_nope", "q_pe"}
    assert whole.manifest is not None and flash.manifest is not None
    assert whole.manifest.unavailable.keys() == (ACTIVATIONS | VIEWS) & set(model.graph.names) | queries
    assert flash.manifest.unavailable.keys() == whole.manifest.unavailable.keys() | {"attn_scores", "attn_softmax"}
    ours = own_capture(model, tmp_path / "ours")
    assert largest_error(ours, whole) < 1e-5
    assert largest_error(whole, captured(model, tmp_path / "decoded", prefill=5)) < 1e-5
    assert 1e-5 < largest_error(ours, flash) < 5e-3, "keys and values are float16 there"


@needs_llama_cpp
def test_queries_that_grow_in_a_model_like_deepseek_are_those_of_our_reference(tmp_path: Path) -> None:
    file = model_file(architecture="deepseek2", weight_type=WeightType.F32, groups=(4, 2))
    file.metadata |= OF_MISTRAL_LARGE
    model = load_model(file.write(tmp_path / "model.gguf"))
    theirs = captured(model, tmp_path / "theirs")
    assert Node(1, "q_temp_scaled") in theirs.files
    assert largest_error(own_capture(model, tmp_path / "ours"), theirs) < 1e-5


@needs_llama_cpp
@pytest.mark.parametrize("kv", [KvType.F16, KvType.Q8_0, KvType.Q4_0])
def test_flash_attention_has_no_maps_and_its_sums_are_turned_back(tmp_path: Path, kv: KvType) -> None:
    """Keys and values that are quantised are turned by a Walsh-Hadamard matrix before they are."""
    model = float_model(tmp_path, "gemma2")
    flash = captured(model, tmp_path / "flash", kv=kv, flash_attention=True)
    assert flash.manifest is not None
    assert {flash.manifest.unavailable[stage] for stage in MAPS} == {"fused into attention"}
    assert flash.manifest.engine.code_path == f"flash attention on, K/V in {kv}"
    assert not MAPS & {node.stage for node in flash.files}
    ours = own_capture(model, tmp_path / "ours")
    expected, found = (capture.values(Node(0, "attention")) for capture in (ours, flash))
    assert np.linalg.norm(found - expected) < {KvType.Q4_0: 0.2}.get(kv, 0.02) * np.linalg.norm(expected)


@needs_llama_cpp
def test_repacked_weights_and_plain_ones_give_the_same_up_to_summation(tmp_path: Path) -> None:
    model = model_of(tmp_path, "qwen2")
    repacked, plain = (captured(model, tmp_path / str(value), repack=value) for value in (True, False))
    assert plain.manifest is not None and plain.manifest.engine.mode == "weights as in the file"
    embedding, first = Node(0, "embedding"), Node(0, "qkv_matmul")
    assert np.array_equal(repacked.values(embedding), plain.values(embedding))
    a, b = repacked.values(first), plain.values(first)
    assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b)


@needs_llama_cpp
def test_another_weight_in_the_file_shows_where_it_is_used(tmp_path: Path) -> None:
    """The control: captures that are compared here come from the file, not from each other."""
    model = float_model(tmp_path, "qwen3")
    path = model_file(architecture="qwen3", weight_type=WeightType.F32, seed=1).write(tmp_path / "other.gguf")
    other = captured(load_model(path), tmp_path / "theirs")
    assert largest_error(own_capture(model, tmp_path / "ours"), other) > 0.1


@needs_llama_cpp
def test_the_command_writes_a_capture_that_replays(tmp_path: Path) -> None:
    model = model_of(tmp_path, "smollm3")
    words = ["oracle", "llamacpp", str(model.path), "-p", "def f", "--out", str(tmp_path / "out"), "--decode-from", "2"]
    words += ["--threads", "1"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "63 of 67 stage tensors of" in done.stdout
    assert "not available: ffn_silu" in done.stdout
    replayed = CliRunner().invoke(cli, ["replay", str(tmp_path / "out"), "--model", str(model.path), "--json"])
    assert replayed.exit_code == 0, replayed.output
    record = json.loads(CliRunner().invoke(cli, [*words, "--overwrite", "--json"]).stdout)
    assert (record["files"], record["unavailable"]) == (63, {"ffn_silu": "fused into ffn_swigl"})


@needs_llama_cpp
def test_what_llama_cpp_refuses_is_one_line_with_its_reason(tmp_path: Path) -> None:
    file = model_file(architecture="gemma2")  # with a head of its own, which llama.cpp has no place for
    model = load_model(file.write(tmp_path / "model.gguf"))
    with pytest.raises(EngineError, match=r"model\.gguf: llama\.cpp does not load it: .*wrong number of tensors"):
        captured(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@needs_llama_cpp
def test_an_output_that_fails_ends_the_evaluation_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong while llama.cpp runs is raised when it returns, and the capture stays marked as incomplete."""

    def full(*_: Any) -> None:
        raise EngineError("the disk is full")

    monkeypatch.setattr(CaptureWriter, "put", full)
    with pytest.raises(EngineError, match="the disk is full"):
        captured(model_of(tmp_path, "qwen2"), tmp_path / "out")
    assert Capture.open(tmp_path / "out").complete is False


def test_what_is_asked_for_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    model = model_of(tmp_path, "qwen2")
    with pytest.raises(UsageError, match=r"type q8_0: llama\.cpp has it with --flash-attention on only"):
        captured(model, tmp_path / "out", kv=KvType.Q8_0)
    with pytest.raises(UsageError, match=r"use 1 … 24"):
        captured(model, tmp_path / "out", prefill=25)
    assert not (tmp_path / "out").exists()


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(ggml, "_loaded", [])
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(EngineError, match=r"llama-cpp-python is not installed: pip install 'aprtui\[oracle\]'"):
        ggml.load_ggml()


@needs_llama_cpp
def test_a_library_whose_tensors_lie_in_memory_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shifted(ctypes.Structure):
        _fields_ = (("new", ctypes.c_int64), *ggml.GgmlTensor._fields_)

    ggml.load_ggml()
    monkeypatch.setattr(ggml, "_loaded", [])
    monkeypatch.setattr(ggml, "GgmlTensorPointer", ctypes.POINTER(Shifted))
    try:
        with pytest.raises(EngineError, match=r"llama-cpp-python .* tensors of another layout than is known here"):
            ggml.load_ggml()
    finally:
        monkeypatch.undo()
        # The functions of the library are declared once for the process.
        ggml._declare(importlib.import_module("llama_cpp._ggml").libggml)
