"""What the metadata of Gemma models say about windows, RoPE, scales and softcaps, and what is refused of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aprtui.errors import UnreadableError
from aprtui.model.config import ModelConfig, Rope
from aprtui.model.model import load_model
from tests.model.gguf_files import model_file

SHAPE: dict[str, Any] = {"hidden": 64, "heads": 2, "head_dim": 32}


def config_of(
    tmp_path: Path, architecture: str, layers: int = 2, shape: dict[str, Any] | None = None, **changes: Any
) -> ModelConfig:
    """The configuration of a small model with further metadata; None takes a key out."""
    file = model_file(architecture=architecture, layers=layers, kv_heads=1, ffn=64, **(shape or SHAPE))
    for key, value in changes.items():
        name = f"{architecture}.{key.replace('__', '.')}"
        file.metadata.pop(name, None)
        if value is not None:
            file.metadata[name] = value
    return load_model(file.write(tmp_path / "model.gguf")).config


def test_gemma3_has_five_layers_with_a_window_then_one_without(tmp_path: Path) -> None:
    graph = config_of(tmp_path, "gemma3", layers=7).graph
    assert graph.windows == (16, 16, 16, 16, 16, 0, 16)
    assert graph.qk_norm
    assert not graph.logit_softcap


def test_gemma2_has_a_window_in_every_second_layer_also_where_the_file_does_not_say_it(tmp_path: Path) -> None:
    config = config_of(tmp_path, "gemma2", attention__sliding_window=None)
    assert config.graph.windows == (4096, 0)
    assert (config.attn_softcap, config.logit_softcap) == (50.0, 30.0)


def test_gemma3_without_a_window_turns_all_layers_alike(tmp_path: Path) -> None:
    config = config_of(tmp_path, "gemma3", attention__sliding_window=0, rope__freq_base=1e6)
    assert config.graph.windows == ()
    assert config.rope_of(0) == config.rope == Rope(1e6)


def test_a_period_or_a_list_says_which_layers_have_a_window(tmp_path: Path) -> None:
    periodic = config_of(tmp_path, "gemma3", layers=3, attention__sliding_window_pattern=3)
    assert periodic.graph.windows == (16, 16, 0)
    listed = config_of(tmp_path, "gemma3", layers=3, attention__sliding_window_pattern=[True, False, True])
    assert listed.graph.windows == (16, 0, 16)


def test_layers_with_a_window_of_gemma3_have_a_base_of_their_own_and_no_scaling(tmp_path: Path) -> None:
    scaling: dict[str, Any] = {"rope__scaling__type": "linear", "rope__scaling__factor": 8.0, "rope__freq_base": 1e6}
    config = config_of(tmp_path, "gemma3", layers=6, **scaling)
    assert config.rope_of(0) == Rope(10000.0)
    assert config.rope_of(5) == Rope(1e6, 8.0)
    assert config_of(tmp_path, "gemma3", rope__freq_base_swa=500.0).rope_of(0) == Rope(500.0)


def test_layers_with_a_window_of_gemma2_turn_as_the_others(tmp_path: Path) -> None:
    config = config_of(tmp_path, "gemma2", rope__freq_base=20000.0, rope__scale_linear=2.0)
    assert config.rope_of(0) == config.rope_of(1) == Rope(20000.0, 2.0)


@pytest.mark.parametrize(("architecture", "layers"), [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_models_alone_scale_scores_by_hidden_size_over_heads(
    tmp_path: Path, architecture: str, layers: int
) -> None:
    """Three heads of 32 over 128 channels, so that the two scales differ."""
    shape: dict[str, Any] = {"hidden": 128, "heads": 3, "head_dim": 32}
    assert config_of(tmp_path, architecture, layers, shape).score_scale == 42**-0.5
    assert config_of(tmp_path, architecture, shape=shape).score_scale == 32**-0.5


def test_embeddings_are_scaled_by_the_root_of_the_hidden_size(tmp_path: Path) -> None:
    assert config_of(tmp_path, "gemma3").embedding_scale == 8.0
    assert config_of(tmp_path, "gemma3").norm_offset


def test_a_softcap_of_the_logits_is_a_stage_where_the_file_has_one(tmp_path: Path) -> None:
    config = config_of(tmp_path, "gemma3", final_logit_softcapping=20.0)
    assert config.graph.logit_softcap
    assert config.logit_softcap == 20.0
    assert not config_of(tmp_path, "gemma2", attn_logit_softcapping=0.0).graph.attn_softcap


@pytest.mark.parametrize(
    ("architecture", "key", "value"),
    [
        ("gemma3", "attn_logit_softcapping", 50.0),
        ("gemma2", "attn_logit_softcapping", -1.0),
        ("gemma3", "attention.sliding_window_pattern", [True]),
        ("gemma3", "attention.sliding_window_pattern", "all"),
        ("gemma3", "rope.freq_base_swa", 0.0),
        ("gemma3", "hidden_activation", "silu"),
        ("gemma3", "attention.scale", 0.5),
        ("gemma3", "attention.causal", False),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, architecture: str, key: str, value: Any) -> None:
    with pytest.raises(UnreadableError, match=rf"{architecture}\.{key.replace('.', '[.]')} is "):
        config_of(tmp_path, architecture, **{key.replace(".", "__"): value})


def test_a_missing_norm_behind_the_attention_is_named(tmp_path: Path) -> None:
    file = model_file(architecture="gemma3")
    del file.tensors["blk.1.post_attention_norm.weight"]
    with pytest.raises(UnreadableError, match=r"tensor blk\.1\.post_attention_norm\.weight is missing"):
        load_model(file.write(tmp_path / "model.gguf"))
