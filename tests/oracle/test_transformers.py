"""Captures by transformers of one small model of each architecture, held against our reference, stage by stage."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from aprtui.cli.main import cli
from aprtui.compare.verdict import Verdict
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.errors import EngineError, UsageError
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.model.model import Model, load_model
from aprtui.oracle import transformers_model
from aprtui.oracle.requests import Evaluation
from aprtui.oracle.transformers_capture import TransformersOptions, write_transformers_captures
from aprtui.oracle.transformers_model import AttentionKind, DataType, settings
from aprtui.progress import no_progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.model.gguf_files import OF_MISTRAL_LARGE, model_file, write_model
from tests.oracle.models import TOKENS, largest_error, model_of, own_capture

SUPPORTED = list(ARCHITECTURES)
_EXPERTS = {
    "moe_router", "ffn_moe_weights", "ffn_moe_gate", "ffn_moe_up", "ffn_moe_silu", "ffn_moe_swiglu", "ffn_moe_down",
}  # fmt: skip
_RECURRENCE = {
    "conv_output_raw", "conv_output_silu", "q_conv_predelta", "k_conv_predelta", "beta_sigmoid", "a_softplus",
    "linear_attn_gate", "linear_attn_state", "linear_attn_norm", "linear_attn_z_silu", "attention", "attn_gate_sigmoid",
}  # fmt: skip
_SHARED = {"shared_expert_gate_sigmoid", "ffn_shexp_gated"}
FUSED = {
    "qwen2": {"qkv_matmul"},
    "mistral3": {"q_post_rope"},
    "gpt-oss": {
        "qkv_matmul", "attn_out_matmul", "ffn_moe_logits", "ffn_moe_weights", "ffn_moe_gate", "ffn_moe_gate_biased",
        "ffn_moe_up", "ffn_moe_up_biased", "ffn_moe_swiglu_oai", "ffn_moe_down", "ffn_moe_down_biased",
    },
    "qwen35": _RECURRENCE,
    "qwen35moe": _RECURRENCE | _EXPERTS | _SHARED,
    "qwen3next": _RECURRENCE | _EXPERTS | _SHARED | {"linear_attn_beta", "linear_attn_alpha"},
    "qwen3moe": _EXPERTS,
    "deepseek2": _EXPERTS - {"moe_router", "ffn_moe_weights"}
    | {"q_pe_raw", "q_nope_absorbed", "q_latent", "k_latent", "attn_latent"},
    "mistral4": _EXPERTS - {"moe_router"}
    | {"q_pe_raw", "q_nope", "q_pe", "q_nope_absorbed", "q_latent", "k_latent", "attn_latent", "q_temp_scaled"},
    "glm4moe": _EXPERTS - {"moe_router"} | {"qkv_matmul", "ffn_moe_weights_norm"},
}  # fmt: skip
"""Stages that exist nowhere in transformers."""
needs_transformers = pytest.mark.group("transformers")


def captured(model: Model, folder: Path, **options: Any) -> Capture:
    work = {folder: Evaluation(TOKENS, None, options.pop("prefill", len(TOKENS)))}
    write_transformers_captures(model, work, TransformersOptions(**options), no_progress)
    return Capture.open(folder)


@needs_transformers
@pytest.mark.parametrize("architecture", SUPPORTED)
def test_every_stage_is_that_of_our_reference(tmp_path: Path, architecture: str) -> None:
    model = model_of(tmp_path, architecture)
    theirs = captured(model, tmp_path / "theirs")
    missing = {node.stage for node in model.graph.nodes if node not in theirs.files}
    assert missing == FUSED.get(architecture, set())
    assert largest_error(own_capture(model, tmp_path / "ours"), theirs) < 1e-5


@needs_transformers
@pytest.mark.parametrize("absorbed", [True, False], ids=["absorbed", "expanded"])
def test_models_like_deepseek_v3_have_the_same_stages(tmp_path: Path, absorbed: bool) -> None:
    """Whose class leaves what it turned in halves, and whose router takes a sigmoid."""
    path = tmp_path / "ranked.gguf"
    write_model(path, architecture="deepseek2", absorbed=absorbed, query_rank=64, sigmoid=True)
    model = load_model(path)
    theirs = captured(model, tmp_path / "theirs")
    missing = {node.stage for node in model.graph.nodes if node not in theirs.files} - _EXPERTS
    assert missing == {"ffn_moe_weights_norm"} | (FUSED["deepseek2"] - _EXPERTS if absorbed else {"q_pe_raw"})
    assert largest_error(own_capture(model, tmp_path / "ours"), theirs) < 1e-5


@needs_transformers
@pytest.mark.parametrize(
    ("architecture", "options"),
    [("deepseek2", {}), ("deepseek2", {"sigmoid": True}), ("glm4moe", {}), ("mistral4", {})],
    ids=str,
)
def test_experts_are_chosen_by_groups_as_in_transformers(
    tmp_path: Path, architecture: str, options: dict[str, Any]
) -> None:
    write_model(
        tmp_path / "groups.gguf", architecture=architecture, experts=16, experts_used=4, groups=(4, 2), **options
    )  # fmt: skip
    model = load_model(tmp_path / "groups.gguf")
    assert model.config.graph.expert_groups is not None
    assert largest_error(own_capture(model, tmp_path / "ours"), captured(model, tmp_path / "theirs")) < 1e-5


@needs_transformers
@pytest.mark.parametrize("absorbed", [True, False], ids=["absorbed", "expanded"])
def test_queries_that_grow_in_a_model_like_deepseek_are_run_by_the_class_of_mistral(
    tmp_path: Path, absorbed: bool
) -> None:
    file = model_file(architecture="deepseek2", absorbed=absorbed, query_rank=64, groups=(4, 2))
    file.metadata |= OF_MISTRAL_LARGE
    model = load_model(file.write(tmp_path / "model.gguf"))
    theirs = captured(model, tmp_path / "theirs")
    missing = {node.stage for node in model.graph.nodes if node not in theirs.files}
    lost_absorbed = {"q_nope_absorbed", "q_latent", "k_latent", "attn_latent", "q_temp_scaled"}
    assert missing == FUSED["mistral4"] - lost_absorbed | (lost_absorbed if absorbed else {"q_post_rope"})
    assert largest_error(own_capture(model, tmp_path / "ours"), theirs) < 1e-5


@needs_transformers
def test_experts_that_transformers_leaves_in_any_order_stand_most_probable_first(tmp_path: Path) -> None:
    path = write_model(tmp_path / "many.gguf", architecture="glm4moe", experts=16, experts_used=6)
    model = load_model(path)
    assert largest_error(own_capture(model, tmp_path / "ours"), captured(model, tmp_path / "theirs")) < 1e-5


@needs_transformers
@pytest.mark.parametrize("architecture", ["qwen2", "gemma3", "qwen35"])
def test_decoding_token_by_token_gives_the_same_stages(tmp_path: Path, architecture: str) -> None:
    model = model_of(tmp_path, architecture)
    whole, decoded = captured(model, tmp_path / "whole"), captured(model, tmp_path / "decoded", prefill=5)
    assert decoded.files.keys() == whole.files.keys()
    assert largest_error(whole, decoded) < 1e-5


@needs_transformers
def test_queries_that_do_not_grow_leave_the_context_that_yarn_is_made_for(tmp_path: Path) -> None:
    """transformers reads both from one key."""
    file = model_file(architecture="mistral3")
    file.metadata["mistral3.attention.temperature_scale"] = 0.0
    model = load_model(file.write(tmp_path / "level.gguf"))
    assert model.config.rope.yarn is not None and model.config.rope.yarn.original_context < model.config.context
    theirs = captured(model, tmp_path / "theirs")
    assert set(theirs.files) == set(model.graph.nodes)
    assert largest_error(own_capture(model, tmp_path / "ours"), theirs) < 1e-5


@needs_transformers
def test_sdpa_has_no_maps_and_16_bits_are_16_bits(tmp_path: Path) -> None:
    model = model_of(tmp_path, "llama")
    eager = captured(model, tmp_path / "eager")
    plain = captured(model, tmp_path / "sdpa", attention=AttentionKind.SDPA)
    assert eager.manifest is not None and not eager.manifest.unavailable
    assert plain.manifest is not None and plain.manifest.unavailable["attn_softmax"] == "fused into attention"
    gone = {node.stage for node in eager.files.keys() - plain.files.keys()}
    assert gone == {"q_post_rope", "k_post_rope", "attn_scores", "attn_softmax"}
    assert largest_error(eager, plain) < 1e-5
    half = captured(model, tmp_path / "half", kind=DataType.BFLOAT16).values(Node(1, "ffn_gate"))
    assert not (half.view(np.uint32) & 0xFFFF).any()
    assert 1e-4 < float(np.linalg.norm(half - eager.values(Node(1, "ffn_gate"))) / np.linalg.norm(half)) < 0.05


@needs_transformers
def test_frequencies_of_rope_stay_in_32_bits(tmp_path: Path) -> None:
    """As where transformers loads a model in 16 bits itself; with 8 bits of mantissa, far positions are elsewhere."""
    module = transformers_model.load(model_of(tmp_path, "llama"), DataType.BFLOAT16, AttentionKind.EAGER, None).module
    assert {str(parameter.dtype) for parameter in module.parameters()} == {"torch.bfloat16"}
    assert str(module.model.rotary_emb.inv_freq.dtype) == "torch.float32"


@needs_transformers
def test_routers_that_transformers_keeps_in_32_bits_stay_there(tmp_path: Path) -> None:
    model = model_of(tmp_path, "glm4moe")
    module = transformers_model.load(model, DataType.BFLOAT16, AttentionKind.EAGER, None).module
    kinds = {name.removeprefix("model.layers.1.mlp."): str(kind.dtype) for name, kind in module.named_parameters()}
    assert (kinds["gate.weight"], kinds["experts.down_proj"]) == ("torch.float32", "torch.bfloat16")
    theirs = captured(model, tmp_path / "theirs", kind=DataType.BFLOAT16)
    with Evaluators(model) as evaluators:
        result = replay_capture(theirs, model, ReplayOptions(), evaluators)
    assert result.verdict is Verdict.PASS, [str(s.node) for s in result.stages if s.verdict.verdict is not Verdict.PASS]


@needs_transformers
def test_another_weight_in_the_file_shows_where_it_is_used(tmp_path: Path) -> None:
    """The control: captures that are compared here come from the file, not from each other."""
    model = model_of(tmp_path, "qwen3")
    other = load_model(write_model(tmp_path / "other.gguf", architecture="qwen3", seed=1))
    assert largest_error(own_capture(other, tmp_path / "ours"), captured(model, tmp_path / "theirs")) > 0.1


def test_what_is_asked_for_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    def asked(model: Model, directory: Path, evaluation: Evaluation) -> None:
        write_transformers_captures(model, {directory: evaluation}, TransformersOptions(), no_progress)

    model = model_of(tmp_path, "qwen2")
    for tokens, prefill, message in (
        ((), 0, "no tokens"),
        (TOKENS, 25, "use 1 … 24"),
        ((1,) * 600, 600, "room for 512"),
    ):
        with pytest.raises(UsageError, match=message):
            asked(model, tmp_path / "out", Evaluation(tokens, None, prefill))
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        asked(model, tmp_path / "full", Evaluation(TOKENS, None, 24))


def test_a_missing_library_and_an_attention_that_there_is_not_are_one_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}", name=name)

    with pytest.raises(UsageError, match=r"--attention sdpa: .* sinks \(architecture gpt-oss\): use --attention eager"):
        transformers_model.require_supported(model_of(tmp_path, "gpt-oss"), AttentionKind.SDPA)
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(EngineError, match=r"torch is not installed: pip install 'aprtui\[oracle\]'"):
        transformers_model.libraries()


def test_a_configuration_says_what_the_file_says(tmp_path: Path) -> None:
    found = settings(model_of(tmp_path, "gemma2"), two_bases=False)
    assert (found["sliding_window"], found["layer_types"][0]) == (16, "sliding_attention")
    assert found["hidden_activation"] == "gelu_pytorch_tanh"
    assert found["query_pre_attn_scalar"] == 64
    experts = settings(model_of(tmp_path, "qwen3moe"), two_bases=False)
    assert (experts["num_experts"], experts["num_experts_per_tok"], experts["moe_intermediate_size"]) == (8, 2, 256)
    gpt_oss = settings(model_of(tmp_path, "gpt-oss"), two_bases=False)
    assert (gpt_oss["num_local_experts"], gpt_oss["intermediate_size"]) == (8, 256)
    assert gpt_oss["rope_parameters"]["truncate"] is False


@needs_transformers
def test_the_command_writes_a_capture_that_replays(tmp_path: Path) -> None:
    model = model_of(tmp_path, "smollm3")
    words = ["oracle", "hf", str(model.path), "-p", "def f", "--out", str(tmp_path / "out"), "--decode-from", "2"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "67 of 67 stage tensors of" in done.stdout
    replayed = CliRunner().invoke(cli, ["replay", str(tmp_path / "out"), "--model", str(model.path), "--json"])
    assert replayed.exit_code == 0, replayed.output


@needs_transformers
def test_an_attention_that_is_not_that_of_the_model_is_said_and_found(tmp_path: Path) -> None:
    """transformers had Gemma 2 with sdpa, which takes no softcap and says nothing; since 5.24 it has none."""
    file = model_file(architecture="gemma2", tied=True)
    file.metadata["gemma2.attn_logit_softcapping"] = 2.0
    model = load_model(file.write(tmp_path / "model.gguf"))
    words = ["oracle", "hf", str(model.path), "-p", "def f(x):", "--out", str(tmp_path / "out"), "--attention", "sdpa"]
    done = CliRunner().invoke(cli, words)
    if isinstance(done.exception, UsageError):
        assert str(done.exception).endswith(" has none: use --attention eager")
        return
    assert "leaves out the softcap" in done.stderr
    replayed = CliRunner().invoke(cli, ["replay", str(tmp_path / "out"), "--model", str(model.path)])
    assert "FAIL  layer 0 attention" in replayed.stdout
