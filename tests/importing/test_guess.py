"""What names of tensors say, and what they do not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprtui.importing.elements import ELEMENTS, SourceTensor
from aprtui.importing.guess import guess
from aprtui.importing.importer import propose_mapping
from aprtui.importing.proposal import Confidence, GuessedMapping
from aprtui.importing.reading import ImportRequest
from aprtui.importing.source import Source
from aprtui.model.model import load_model
from tests.model.gguf_files import write_model


def guessed(*names: str, shape: tuple[int, ...] = (1, 5, 8), element: str = "F32") -> GuessedMapping:
    kind = ELEMENTS[element]

    def tensor(number: int, name: str) -> SourceTensor:
        return SourceTensor(name, shape, kind, lambda: np.full(int(np.prod(shape)) * kind.size, number, np.uint8))

    return guess(Source(Path("x"), {name: tensor(number, name) for number, name in enumerate(names)}), None)


def test_axes_of_a_batch_follow_from_the_widths_of_the_model(tmp_path: Path) -> None:
    graph = load_model(write_model(tmp_path / "m.gguf")).graph
    config = graph.config
    assert config is not None
    shapes = {
        "layers.{}.input_norm": (2, 15, config.hidden),
        "layers.{}.q_rot": (2, config.heads, 15, config.head_dim),
        "layers.{}.q": (2, 15, config.heads * config.head_dim),
        "layers.{}.k": (2, 15, config.kv_heads * config.head_dim),
        "layers.{}.v": (2, 15, config.kv_heads * config.head_dim),
    }
    kind = ELEMENTS["F32"]
    tensors = {
        name.format(layer): SourceTensor(name.format(layer), shape, kind, lambda: np.zeros(0, np.uint8))
        for layer in range(graph.layers) for name, shape in shapes.items()
    }  # fmt: skip
    rules = {rule.rule.stage: rule for rule in guess(Source(Path("x"), tensors), graph).rules}
    assert all(rule.confidence is Confidence.SURE for rule in rules.values())
    axes = {
        stage: [str(a) for a in (rule.rule.piece.parts or (rule.rule.piece,))[-1].axes or ()]
        for stage, rule in rules.items()
    }
    assert (
        axes["attn_norm"] == axes["qkv_bias" if "qkv_bias" in axes else "qkv_matmul"] == ["batch", "token", "channel"]
    )
    assert axes["q_post_rope"] == ["batch", "head", "token", "channel"]


@pytest.mark.parametrize(
    ("name", "stage", "pattern"),
    [
        ("attn_norm-{}", "attn_norm", "attn_norm-{layer}"),
        ("blk.{}.ffn_out", "ffn_out", "blk.{layer}.ffn_out"),
        ("layer-{}/qkv_bias", "qkv_bias", "layer-{layer}/qkv_bias"),
        ("layer_0{}_attn_out", "attn_out", "layer_{layer}_attn_out"),
        ("decoder.layers.{}.mlp.up_proj.output.0", "ffn_up", "decoder.layers.{layer}.mlp.up_proj.output.0"),
        ("h{}_ffn_out", "ffn_out", "h{layer}_ffn_out"),
        ("attn_norm_l{}", "attn_norm", "attn_norm_l{layer}"),
        ("{}/attn_norm", "attn_norm", "{layer}/attn_norm"),
        ("blocks.{}.hook_resid_mid", "post_attn_residual", "blocks.{layer}.hook_resid_mid"),
        ("layer_{}", "post_ffn_residual", "layer_{layer}"),
        ("model.layers.{}", "post_ffn_residual", "model.layers.{layer}"),
        ("model.layers.{}.0", "post_ffn_residual", "model.layers.{layer}.0"),
        ("L0{}.h_mid", "post_attn_residual", "L{layer}.h_mid"),
        ("L0{}.rms2", "ffn_norm", "L{layer}.rms2"),
        ("l_out-{}", "post_ffn_residual", "l_out-{layer}"),
        ("resid_out_{}", "post_ffn_residual", "resid_out_{layer}"),
        ("input_norm_{}", "attn_norm", "input_norm_{layer}"),
        ("post_norm_{}", "ffn_norm", "post_norm_{layer}"),
    ],
)  # fmt: skip
def test_numbers_that_count_layers_are_told_from_names(name: str, stage: str, pattern: str) -> None:
    (found,) = guessed(*(name.format(layer) for layer in range(3))).rules
    assert (found.rule.stage, found.rule.piece.pattern, found.confidence) == (stage, pattern, Confidence.LIKELY)


@pytest.mark.parametrize("name", ["residual.{}", "attn_total.{}", "kernel_{}", "pool{}", "pre_mlp_residual.{}"])
def test_a_name_that_only_ends_like_a_layer_is_none(name: str) -> None:
    assert guessed(*(name.format(layer) for layer in range(3))).rules == ()


def test_names_that_say_nothing_are_listed_and_not_taken() -> None:
    found = guessed("layers.0.up_proj.input", "layers.1.up_proj.input", "x", "layers.0.mlp.c_proj")
    assert found.rules == () and len(found.unknown) == 3
    assert "# of no known stage: x" in found.text()


def test_the_norm_behind_the_attention_is_told_by_the_one_before_the_feed_forward_block() -> None:
    """`post_attention_layernorm` is before that block in most models, and behind the attention in Gemma."""
    behind = [f"layers.{layer}.post_attention_layernorm" for layer in range(2)]
    before = [f"layers.{layer}.pre_feedforward_layernorm" for layer in range(2)]
    assert [entry.rule.stage for entry in guessed(*behind).rules] == ["ffn_norm"]
    assert {entry.rule.stage: entry.rule.piece.pattern for entry in guessed(*behind, *before).rules} == {
        "attn_post_norm": "layers.{layer}.post_attention_layernorm",
        "ffn_norm": "layers.{layer}.pre_feedforward_layernorm",
    }


def guessed_of_model(path: Path, named: dict[str, tuple[int, ...]], **options: Any) -> dict[str, str]:
    """The rule and its confidence for each stage, of tensors of these shapes and a model that is written to `path`."""
    graph = load_model(write_model(path / "m.gguf", **options)).graph
    kind = ELEMENTS["F32"]
    tensors = {name: SourceTensor(name, shape, kind, lambda: np.zeros(0, np.uint8)) for name, shape in named.items()}
    lines = guess(Source(Path("x"), tensors), graph).text().splitlines()
    return dict(re.findall(r"^ *((?:# )?\w+): (.*  # \w+):", "\n".join(lines), re.MULTILINE))


@pytest.mark.parametrize("name", ["hidden_states_{}", "out.hidden_states.{}", "{}"])
def test_a_part_of_the_hidden_states_is_counted_from_the_embedding_or_left_to_the_user(
    name: str, tmp_path: Path
) -> None:
    """Entry 2 of transformers' tuple leaves layer 1; of hooks that are numbered by layers it may leave layer 2."""

    def of(*numbers: int) -> dict[str, str]:
        return guessed_of_model(tmp_path, {name.format(number): (1, 5, 256) for number in numbers}, layers=4)

    pattern = name.format("{layer}")
    assert of(0, 2, 4) == {
        "embedding": f'"{name.format(0)}"  # likely', "final_norm": f'"{name.format(4)}"  # likely',
        "post_ffn_residual": f'{{"from": "{pattern}", "first": 1, "end": 4}}  # likely',
    }  # fmt: skip
    for part in ((0, 3), (0, 1, 2, 3), (1, 2, 3, 4)):
        assert all(stage.startswith("# ") for stage in of(*part)), part
    assert guessed(*(name.format(number) for number in range(5))).mapping.rules == ()


def test_a_stack_of_hidden_states_without_one_of_its_ends_is_doubtful(tmp_path: Path) -> None:
    assert list(guessed_of_model(tmp_path, {"hidden_states": (2, 1, 5, 256)})) == ["# post_ffn_residual"]


def test_hidden_states_and_the_residual_beside_them_are_added(tmp_path: Path) -> None:
    names = [f"layers.{layer}.{word}" for layer in range(2) for word in ("hidden_states", "residual")]
    given = '{"sum": ["layers.{layer}.hidden_states", "layers.{layer}.residual"]}  # likely'
    assert guessed_of_model(tmp_path, dict.fromkeys(names, (5, 256))) == {"post_ffn_residual": given}


def test_what_is_as_wide_as_the_vocabulary_is_of_no_layer(tmp_path: Path) -> None:
    def of(*names: str) -> dict[str, str]:
        return guessed_of_model(tmp_path, dict.fromkeys(names, (1, 288)), tokenizer=False)

    assert of("logits_all") == {"lm_head": '"logits_all"  # sure'}
    assert of("mystery") == {"# lm_head": '"mystery"  # doubtful'}
    assert of("scores.0", "scores.1") == {"# lm_head": '"scores.0"  # doubtful'}


def test_two_tensors_of_one_name_are_not_chosen_between() -> None:
    names = [f"{kind}.{layer}.attn_norm" for kind in ("layers", "draft.layers") for layer in range(2)]
    found = guessed(*names)
    assert [entry.confidence for entry in found.rules] == [Confidence.DOUBTFUL, Confidence.DOUBTFUL]
    assert found.text().count("# attn_norm:") == 2


def test_heads_and_tokens_that_are_as_many_are_doubtful() -> None:
    def queries(*shape: int) -> Confidence:
        norm = SourceTensor("l.0.attn_norm", (5, 64), ELEMENTS["F32"], lambda: np.zeros(0, np.uint8))
        tensor = SourceTensor("l.0.q_rope", shape, ELEMENTS["F32"], lambda: np.zeros(0, np.uint8))
        rules = guess(Source(Path("x"), {norm.name: norm, tensor.name: tensor}), None).rules
        return next(entry.confidence for entry in rules if entry.rule.stage == "q_post_rope")

    assert queries(1, 4, 5, 16) is queries(1, 5, 4, 16) is Confidence.LIKELY
    assert queries(1, 5, 5, 16) is queries(1, 7, 9, 16) is Confidence.DOUBTFUL


@pytest.mark.parametrize("absorbed", [True, False])
def test_stages_of_latent_attention_are_those_of_the_form_that_they_are_named_after(
    tmp_path: Path, absorbed: bool
) -> None:
    paths = {form: tmp_path / f"{form}.gguf" for form in (True, False)}
    models = [load_model(write_model(path, architecture="deepseek2", absorbed=form)) for form, path in paths.items()]
    of_engine, of_file = models if absorbed else reversed(models)
    for stage in of_engine.graph.stages:
        np.save(tmp_path / f"layers.1.{stage.name}.npy", np.zeros((1, 3, stage.width), np.float32))
    found = propose_mapping(tmp_path, ImportRequest(graph=of_file.graph))
    named = {entry.rule.stage for entry in found.rules if entry.confidence is not Confidence.DOUBTFUL}
    own = {stage.name for stage in of_engine.graph.stages} - {stage.name for stage in of_file.graph.stages}
    assert own and own <= named
