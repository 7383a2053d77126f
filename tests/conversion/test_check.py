"""A converted file against what it was made from: what converters get wrong is named, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.verdict import Verdict
from aprtui.conversion.check import FileCheck, check_model
from aprtui.conversion.hyperparameters import llama3_factors
from aprtui.errors import UnreadableError
from aprtui.model.model import Model, load_model
from aprtui.model.weight_types import WeightType
from aprtui.progress import no_progress
from aprtui.resources import embedded_model
from tests.conversion.folders import HuggingFaceFolder, folder_of
from tests.model.gguf_files import ModelFile, model_file

Array = NDArray[np.float32]


def checked(
    tmp_path: Path, edit_file: Callable[[ModelFile], None] = lambda _: None,
    edit_folder: Callable[[HuggingFaceFolder], None] = lambda _: None, **options: Any,
) -> FileCheck:  # fmt: skip
    """A file with an edit, against the folder (with an edit) of the file without."""
    options = {"layers": 1, "weight_type": WeightType.Q8_0, **options}
    original = load_model(model_file(**options).write(tmp_path / "original.gguf"))
    folder = folder_of(original)
    edit_folder(folder)
    file = model_file(**options)
    edit_file(file)
    model = load_model(file.write(tmp_path / "converted.gguf"))
    return check_model(model, folder.write(tmp_path / "hf"), no_progress)


def in_f16(values: Array) -> Array:
    return values.astype(np.float16).astype(np.float32)


def only(check: FileCheck) -> tuple[str, str]:
    (finding,) = check.findings
    assert finding.verdict is Verdict.FAIL and check.verdict is Verdict.FAIL
    return finding.subject, finding.said


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama", "gemma2", "gemma3", "smollm3", "mistral3"])
def test_a_faithful_file_passes(tmp_path: Path, architecture: str) -> None:
    check = checked(tmp_path, architecture=architecture, layers=2)
    assert check.verdict is Verdict.PASS, check.findings


def test_the_original_in_16_bits_and_its_4_bit_file_pass(tmp_path: Path) -> None:
    model = load_model(embedded_model())
    folder = folder_of(model, lambda _, values: in_f16(values) if values.ndim == 2 else values).write(tmp_path / "hf")
    assert check_model(model, folder, no_progress).verdict is Verdict.PASS


def test_experts_and_recurrences_are_open_and_never_wrong(tmp_path: Path) -> None:
    check = checked(tmp_path, architecture="qwen3moe")
    assert check.verdict is Verdict.UNKNOWN and "not compared here" in check.findings[0].said


def test_a_base_that_was_never_written_is_seen_by_its_default(tmp_path: Path) -> None:
    def wrong(file: ModelFile) -> None:
        del file.metadata["qwen2.rope.freq_base"]

    def original(folder: HuggingFaceFolder) -> None:
        del folder.config["rope_parameters"]
        folder.config["rope_theta"] = 1000000.0

    subject, said = only(checked(tmp_path, wrong, original))
    assert subject == "rope_theta"
    assert said == "10000 in the file (qwen2.rope.freq_base is missing), 1000000 in config.json"


@pytest.mark.parametrize(
    ("key", "value", "subject", "stage"),
    [
        ("attention.layer_norm_rms_epsilon", 1e-5, "rms_norm_eps", "attn_norm"),
        ("rope.freq_base", 5e5, "rope_theta", "q_post_rope"),
        ("rope.scaling.factor", 4.0, "rope_type", "q_post_rope"),
    ],
)
def test_a_number_that_differs_names_the_stage_it_breaks(
    tmp_path: Path, key: str, value: float, subject: str, stage: str
) -> None:
    check = checked(tmp_path, lambda file: file.metadata.update({f"qwen2.{key}": value}))
    first = check.findings[0]
    assert (first.verdict, first.subject, first.stage) == (Verdict.FAIL, subject, stage)
    assert first.symptom


def test_a_temperature_that_was_never_written_is_named(tmp_path: Path) -> None:
    def wrong(file: ModelFile) -> None:
        del file.metadata["mistral3.attention.temperature_scale"]

    check = checked(tmp_path, wrong, architecture="mistral3")
    assert only(check) == (
        "llama_4_scaling_beta",
        "0 in the file (mistral3.attention.temperature_scale is missing), 0.1 in config.json",
    )
    assert check.findings[0].stage == "q_temp_scaled"


def test_windows_of_other_layers_are_named(tmp_path: Path) -> None:
    def wrong(folder: HuggingFaceFolder) -> None:
        folder.config["layer_types"] = ["full_attention", "sliding_attention"]

    check = checked(tmp_path, edit_folder=wrong, architecture="gemma3", layers=2)
    subject, said = only(check)
    assert subject == "layer_types" and "full_attention: layers 0; sliding_attention: layers 1 in config.json" in said


def test_a_window_that_is_switched_off_is_none(tmp_path: Path) -> None:
    def stated(folder: HuggingFaceFolder) -> None:
        folder.config |= {"sliding_window": 64, "use_sliding_window": False, "layer_types": ["full_attention"]}

    assert checked(tmp_path, edit_folder=stated).verdict is Verdict.PASS


def test_factors_of_llama_3_that_are_left_out_are_named(tmp_path: Path) -> None:
    def scaled(folder: HuggingFaceFolder) -> None:
        folder.config["rope_parameters"] = {
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 128,
        }  # fmt: skip

    subject, said = only(checked(tmp_path, edit_folder=scaled, architecture="llama"))
    assert subject == "frequency factors" and "no rope_freqs.weight" in said


def test_factors_of_llama_3_are_those_of_a_published_file() -> None:
    """Llama 3.2 1B: 64 channels a head, 32 pairs; the shortest waves stay, the longest are divided by 32."""
    scaling = {
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    factors = llama3_factors(scaling, 500000.0, 64)
    assert factors is not None and factors[0] == 1.0 and factors[-1] == pytest.approx(32.0)
    assert sorted(factors) == factors
    assert llama3_factors({"factor": 8.0}, 500000.0, 64) is None


def test_rows_that_were_not_put_in_pairs_are_recognised(tmp_path: Path) -> None:
    """A converter of Llama that leaves Q and K as they are."""

    def halves(file: ModelFile) -> None:
        for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight"):
            tensor = file.tensors[name]
            heads = 4 if "attn_q" in name else 2
            data = tensor.data.reshape(heads, -1, 2, tensor.data.shape[1]).swapaxes(1, 2).reshape(tensor.data.shape)
            file.tensors[name] = type(tensor)(np.ascontiguousarray(data), tensor.type)

    check = checked(tmp_path, halves, architecture="llama")
    assert [finding.subject for finding in check.findings] == ["blk.0.attn_q.weight", "blk.0.attn_k.weight"]
    assert all("lie in halves, as in the folder: llama needs pairs" in finding.said for finding in check.findings)


def test_a_norm_whose_offset_was_not_added_is_recognised(tmp_path: Path) -> None:
    def offset(folder: HuggingFaceFolder) -> None:
        folder.tensors["model.norm.weight"] += 1

    subject, said = only(checked(tmp_path, edit_folder=offset, architecture="gemma3"))
    assert subject == "output_norm.weight" and "plus 0, expected plus 1" in said


def test_biases_that_were_left_out_are_named(tmp_path: Path) -> None:
    def bare(file: ModelFile) -> None:
        for part in "qkv":
            del file.tensors[f"blk.0.attn_{part}.bias"]

    check = checked(tmp_path, bare)
    subjects = {finding.subject for finding in check.findings}
    assert check.verdict is Verdict.FAIL and "model.layers.0.self_attn.q_proj.bias" in subjects


def test_a_matrix_in_the_place_of_another_is_named(tmp_path: Path) -> None:
    def exchanged(file: ModelFile) -> None:
        gate, up = file.tensors["blk.0.ffn_gate.weight"], file.tensors["blk.0.ffn_up.weight"]
        file.tensors |= {"blk.0.ffn_gate.weight": up, "blk.0.ffn_up.weight": gate}

    gate, up = checked(tmp_path, exchanged).findings
    assert "those of blk.0.ffn_up.weight in A" in gate.said and "those of blk.0.ffn_gate.weight in A" in up.said


def test_tokens_stops_and_merges_are_compared(tmp_path: Path) -> None:
    def other(folder: HuggingFaceFolder) -> None:
        vocabulary = folder.tokenizer["model"]["vocab"]
        first, second = list(vocabulary)[:2]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
        folder.tokenizer["model"]["merges"].reverse()
        folder.generation["eos_token_id"] = [5]

    subjects = {finding.subject for finding in checked(tmp_path, edit_folder=other).findings}
    assert subjects == {"tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.eos_token_id"}


def test_another_chat_template_may_be_meant(tmp_path: Path) -> None:
    def other(folder: HuggingFaceFolder) -> None:
        folder.tokenizer_config["chat_template"] = "{{ messages }}"

    check = checked(tmp_path, edit_folder=other)
    assert check.verdict is Verdict.UNKNOWN and "part at line 1" in check.findings[0].said


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", None, "has no config.json"),
        ("config.json", b"[1]", "expected a JSON object"),
        ("config.json", b"{", "not JSON"),
        ("config.json", b"\xff", "not UTF-8"),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0{", "not a safetensors file, or cut"),
    ],
)
def test_a_damaged_folder_is_one_line(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    model = load_model(embedded_model())
    folder = folder_of(model).write(tmp_path / "hf")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(UnreadableError, match=said):
        check_model(model, folder, no_progress)


@pytest.fixture(scope="module")
def embedded() -> Model:
    return load_model(embedded_model())


def test_a_sound_file_by_itself_passes(embedded: Model) -> None:
    assert check_model(embedded, None, no_progress).verdict is Verdict.PASS


def test_nan_and_rows_of_zeros_are_found_without_a_folder(tmp_path: Path) -> None:
    file = model_file(layers=1, weight_type=WeightType.F16)
    file.tensors["blk.0.ffn_up.weight"].data[3, :2] = (0, 0x7E)
    file.tensors["blk.0.ffn_down.weight"].data[:] = 0
    check = check_model(load_model(file.write(tmp_path / "m.gguf")), None, no_progress)
    found = {finding.subject: finding.said for finding in check.findings if finding.verdict is Verdict.FAIL}
    assert found.keys() == {"blk.0.ffn_up.weight", "blk.0.ffn_down.weight"}
    assert "1 value NaN or Inf" in found["blk.0.ffn_up.weight"] and "are zero" in found["blk.0.ffn_down.weight"]


def test_a_multimodal_configuration_is_read_for_its_text(tmp_path: Path) -> None:
    def nested(folder: HuggingFaceFolder) -> None:
        folder.config = {"model_type": "many", "text_config": folder.config}
        folder.tensors = {
            f"model.language_model.{name.removeprefix('model.')}": values for name, values in folder.tensors.items()
        } | {"model.visual.patch.weight": np.zeros((2, 2), np.float32)}

    assert checked(tmp_path, edit_folder=nested).verdict is Verdict.PASS


def test_weights_of_norms_may_have_any_sign(tmp_path: Path) -> None:
    """Half of those in the first layer of SmolLM2 135M are negative."""
    file = model_file(layers=1)
    weights = file.tensors["blk.0.attn_norm.weight"].data.view(np.float32)
    weights[::2] *= -1
    assert check_model(load_model(file.write(tmp_path / "m.gguf")), None, no_progress).verdict is Verdict.PASS
