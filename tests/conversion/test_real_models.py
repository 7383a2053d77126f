"""Real models against the folder that each would have been converted from: as it is, and with what converters do."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.verdict import Verdict
from aprtui.conversion.check import FileCheck, check_model
from aprtui.model.model import Model, load_model
from aprtui.progress import no_progress
from tests.conversion.folders import HuggingFaceFolder, folder_of

pytestmark = [pytest.mark.slow, pytest.mark.group("real_models")]

NORM, MATRIX, OTHERS = "input_layernorm.weight", "self_attn.o_proj.weight", "mlp.down_proj.weight"


def spoil(folder: HuggingFaceFolder) -> set[str]:
    """Make the folder one of which the file is wrong; what is to be found, by its subject."""
    config, tensors = folder.config, folder.tensors
    config["rms_norm_eps"] *= 10
    folder.generation["eos_token_id"] = [5]
    found = {"rms_norm_eps", "tokenizer.ggml.eos_token_id"}
    for layer, name, ours in ((2, MATRIX, "attn_output"), (6, OTHERS, "ffn_down")):
        mine, other = (f"model.layers.{number}.{name}" for number in (layer, layer + 1))
        tensors[mine], tensors[other] = tensors[other], tensors[mine]
        found |= {f"blk.{layer}.{ours}.weight", f"blk.{layer + 1}.{ours}.weight"}
    tensors[f"model.layers.4.{NORM}"] = tensors[f"model.layers.4.{NORM}"] + 1
    tensors["model.layers.9.mlp.up_proj.weight"][::2] *= np.float32(1.5)
    found |= {"blk.4.attn_norm.weight", "blk.9.ffn_up.weight"}
    if "model.layers.5.self_attn.k_proj.bias" in tensors:
        tensors["model.layers.5.self_attn.k_proj.bias"][:] = 0
        found.add("blk.5.attn_k.bias")
    return found


def checked(model: Model, folder: HuggingFaceFolder, path: Path) -> FileCheck:
    return check_model(model, folder.write(path), no_progress)


@pytest.mark.parametrize("name", ["smollm2-135m-q4_1", "gemma3-270m-q4_k_m", "qwen2.5-coder-0.5b-q4_k_m"])
def test_what_converters_get_wrong_is_found_in_a_real_model_and_nothing_else_is(tmp_path: Path, name: str) -> None:
    model = load_model(Path(os.environ["APRTUI_REAL_MODELS"]) / f"{name}.gguf")
    folder = folder_of(model)
    honest = checked(model, folder, tmp_path / "honest")
    assert honest.verdict is Verdict.PASS, honest.findings
    wanted = spoil(folder)
    findings = checked(model, folder, tmp_path / "spoilt").findings
    assert {finding.subject for finding in findings if finding.verdict is Verdict.FAIL} == wanted
    assert all(finding.verdict is Verdict.FAIL for finding in findings)
    said = {finding.subject: finding.said for finding in findings}
    assert re.search(r"those of blk\.3\.attn_output\.weight in A", said["blk.2.attn_output.weight"])
