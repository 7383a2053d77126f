"""Captures of models of transformers through hooks, held against those of the oracle, byte by byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprtui.capture import capture
from aprtui.capture.cache_argument import called_behind
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.form import in_form_of
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.errors import UsageError
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.model.model import Model, load_model
from aprtui.oracle.requests import Evaluation
from aprtui.oracle.transformers_capture import TransformersOptions, write_transformers_captures
from aprtui.oracle.transformers_model import AttentionKind, DataType, load
from aprtui.progress import no_progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.model.gguf_files import write_model

pytestmark = pytest.mark.group("transformers")

TOKENS = tuple(int(token) for token in np.random.default_rng(3).integers(0, 256, 24))
"""More than the windows of the models have."""


GROUPS: dict[str, Any] = {"groups": (4, 2)}
"""Of experts, in models whose metadata may say so."""


def model_of(folder: Path, architecture: str) -> Model:
    layers = {"gemma3": 6, "smollm3": 4}.get(architecture, 2)
    sizes: dict[str, Any] = {"layers": layers, "kv_heads": 1 if architecture == "gemma3" else 2}
    if architecture in ("glm4moe", "deepseek2", "mistral4"):
        sizes |= GROUPS
    return load_model(write_model(folder / f"{architecture}.gguf", architecture=architecture, **sizes))


def module_of(model: Model, kind: DataType = DataType.FLOAT32, attention: AttentionKind = AttentionKind.EAGER) -> Any:
    return load(model, kind, attention, None).module


def tensor(*sequences: tuple[int, ...]) -> Any:
    import torch

    return torch.tensor(sequences)


def run(module: Any, folder: Path, *sequences: tuple[int, ...], passes: int = 1, **options: Any) -> Capture:
    with capture(module, folder, **options):
        for _ in range(passes):
            module(tensor(*sequences))
    return Capture.open(folder)


def differing(a: Capture, b: Capture) -> list[Node]:
    assert a.files.keys() == b.files.keys()
    return [node for node in a.files if a.values(node).tobytes() != b.values(node).tobytes()]


def by_oracle(model: Model, folder: Path, prefill: int) -> Capture:
    write_transformers_captures(model, {folder: Evaluation(TOKENS, None, prefill)}, TransformersOptions(), no_progress)
    return Capture.open(folder)


def replayed(capture: Path, model: Model) -> Comparison:
    with Evaluators(model) as evaluators:
        return replay_capture(Capture.open(capture), model, ReplayOptions(), evaluators)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_hooked_model_gives_the_capture_of_the_oracle(tmp_path: Path, architecture: str) -> None:
    model = model_of(tmp_path, architecture)
    if model.config.graph.latent is not None:  # whose form is that of the modules, not of a file
        groups = GROUPS if model.config.graph.expert_groups else {}
        model = load_model(write_model(tmp_path / "expanded.gguf", architecture=architecture, absorbed=False, **groups))
    theirs = by_oracle(model, tmp_path / "oracle", 24)
    module = module_of(model)
    with capture(module, tmp_path / "hooked") as made:
        assert Capture.open(made.path).complete is False
        module(tensor(TOKENS))
    assert made.complete and made.never_ran == ()
    hooked = Capture.open(made.path)
    assert hooked.manifest is not None
    graph = hooked.manifest.graph
    # Of experts alone, files may also state what a dense block would have, and transformers has no place for it.
    assert graph == (replace(model.config.graph, ffn=graph.ffn) if graph.experts else model.config.graph)
    assert theirs.manifest is not None and hooked.manifest.unavailable == theirs.manifest.unavailable
    assert differing(theirs, hooked) == []


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_hooked_model_passes(tmp_path: Path, architecture: str) -> None:
    model = model_of(tmp_path, architecture)
    run(module_of(model), tmp_path / "hooked", TOKENS)
    assert replayed(tmp_path / "hooked", model).verdict is Verdict.PASS


@pytest.mark.parametrize("architecture", ["deepseek2", "mistral4"])
def test_a_hooked_model_passes_by_a_file_that_has_its_latent_attention_in_the_absorbed_form(
    tmp_path: Path, architecture: str
) -> None:
    """transformers expands keys and values, whatever a file has; quantised numbers are those of the file here."""
    model = model_of(tmp_path, architecture)
    hooked = run(module_of(model), tmp_path / "hooked", TOKENS)
    fitting = in_form_of(hooked, model)
    assert fitting is not model and Node(0, "v_heads") in hooked.files
    assert replayed(tmp_path / "hooked", fitting).verdict is Verdict.PASS


def test_channels_of_queries_in_transformers_order_are_found_out(tmp_path: Path) -> None:
    """Where a map of the user says nothing of them: halves of a head, where the file of a llama has pairs."""
    model = model_of(tmp_path, "llama")
    layer = "model.layers.{layer}."
    stages = {
        "model.embed_tokens": "embedding", f"{layer}input_layernorm": "attn_norm",
        f"{layer}self_attn.q_proj": "qkv_matmul.q", f"{layer}self_attn.k_proj": "qkv_matmul.k",
        f"{layer}self_attn.v_proj": "qkv_matmul.v", f"{layer}self_attn.o_proj": ["in:attention", "attn_out"],
        f"{layer}post_attention_layernorm": "in:post_attn_residual", "model.layers.{layer}": "post_ffn_residual",
    }  # fmt: skip
    run(module_of(model), tmp_path / "mapped", TOKENS, map=stages)
    assert replayed(tmp_path / "mapped", model).verdict is Verdict.PASS


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_passes_with_a_cache_are_appended(tmp_path: Path, architecture: str) -> None:
    import transformers

    model = model_of(tmp_path, architecture)
    module = module_of(model)
    theirs = by_oracle(model, tmp_path / "oracle", 10)
    with capture(module, tmp_path / "hooked"):
        past = transformers.DynamicCache()
        for first, last in ((0, 10), *((at, at + 1) for at in range(10, 24))):
            called_behind(module, tensor(TOKENS[first:last]), past)
    hooked = Capture.open(tmp_path / "hooked")
    assert hooked.manifest is not None and hooked.manifest.prefill_tokens == 10
    assert differing(theirs, hooked) == []


def test_a_generation_is_captured_with_the_logits_that_it_computes(tmp_path: Path) -> None:
    model = model_of(tmp_path, "qwen2")
    module = module_of(model, attention=AttentionKind.SDPA)
    with capture(module, tmp_path / "hooked", "qwen2"):
        text = module.generate(tensor(TOKENS[:6]), max_new_tokens=5, do_sample=False)[0].tolist()
    hooked = Capture.open(tmp_path / "hooked")
    assert hooked.tokens == tuple(text[:10])
    assert hooked.values(Node(None, "lm_head")).shape == (1, model.config.graph.vocabulary)
    assert hooked.values(Node(None, "lm_head")).argmax() == text[10]
    assert Node(0, "attn_scores") not in hooked.files
    assert replayed(tmp_path / "hooked", model).verdict is Verdict.PASS


def test_windows_whose_keys_are_gone_have_no_maps(tmp_path: Path) -> None:
    model = model_of(tmp_path, "gemma3")
    module = module_of(model)
    with capture(module, tmp_path / "hooked"):
        module.generate(tensor(TOKENS), max_new_tokens=4, do_sample=False)
    hooked = Capture.open(tmp_path / "hooked")
    assert {node.layer for node in hooked.files if node.stage == "attn_scores"} == {5}
    assert replayed(tmp_path / "hooked", model).verdict is Verdict.PASS


def test_a_sequence_of_a_batch_is_the_one_alone(tmp_path: Path) -> None:
    model = model_of(tmp_path, "qwen3")
    module = module_of(model)
    alone = run(module, tmp_path / "alone", TOKENS)
    second = run(module, tmp_path / "second", TOKENS[::-1], TOKENS, batch=1)
    assert second.tokens == TOKENS
    for node in alone.files:
        np.testing.assert_allclose(second.values(node), alone.values(node), rtol=1e-3, atol=1e-4)
    with pytest.raises(UsageError, match="batch=2: the model was called with 2"):
        run(module, tmp_path / "x", TOKENS, TOKENS, batch=2)
    mask = tensor((0, *(1,) * 23), (1,) * 24)
    with pytest.raises(UsageError, match="without padding"), capture(module, tmp_path / "y"):
        module(tensor(TOKENS, TOKENS), attention_mask=mask)


def test_bfloat16_keeps_its_values(tmp_path: Path) -> None:
    model = model_of(tmp_path, "llama")
    half = run(module_of(model, DataType.BFLOAT16), tmp_path / "half", TOKENS)
    assert half.manifest is not None and half.manifest.engine.mode == "bfloat16"
    assert not (half.values(Node(1, "ffn_gate")).view(np.uint32) & 0xFFFF).any()
    assert replayed(tmp_path / "half", model).verdict is Verdict.PASS


def test_a_wrong_module_is_named(tmp_path: Path) -> None:
    """The control: a hooked model with a fault is not taken for a good one."""
    model = model_of(tmp_path, "llama")
    module = module_of(model)
    module.model.layers[1].mlp.up_proj.weight.data[7] *= -1
    run(module, tmp_path / "hooked", TOKENS)
    found = replayed(tmp_path / "hooked", model)
    assert found.verdict is Verdict.FAIL
    assert found.first_divergence is not None and found.first_divergence.verdict.node == Node(1, "ffn_up")


def test_an_exception_and_a_second_sequence_leave_an_incomplete_capture(tmp_path: Path) -> None:
    model = model_of(tmp_path, "qwen2")
    module = module_of(model)
    with pytest.raises(ZeroDivisionError), capture(module, tmp_path / "broken"):
        module(tensor(TOKENS)).logits.shape[0] // 0
    assert Capture.open(tmp_path / "broken").complete is False
    assert replayed(tmp_path / "broken", model).verdict is Verdict.UNKNOWN
    with pytest.raises(UsageError, match="called behind 0 tokens, the capture has 24"):
        run(module, tmp_path / "two", TOKENS, passes=2)
    assert not module._forward_hooks and not module.lm_head._forward_hooks, "the model is as it was"


def test_compiled_and_foreign_models_are_refused_by_name(tmp_path: Path) -> None:
    import torch

    module = module_of(model_of(tmp_path, "qwen2"))
    module.model.layers[1] = torch.compile(module.model.layers[1])
    for refused, preset, message in (
        (module, None, r"model.layers.1: is made by torch.compile"),
        (torch.nn.Linear(2, 2), "x", "no such preset: use one of"),
        (torch.nn.Linear(2, 2), "llama", "Linear is not of transformers"),
        (torch.nn.Linear(2, 2), None, "Linear: no preset is known"),
    ):
        with pytest.raises(UsageError, match=message), capture(refused, tmp_path / "a", preset):
            pass
    assert not (tmp_path / "a").exists()
