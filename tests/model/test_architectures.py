"""What the files of the architectures say, and that nothing else knows one by its name."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import pytest

from aprtui.model.architectures.base import Architecture
from aprtui.model.architectures.registry import ARCHITECTURES
from aprtui.model.model import load_model
from tests.conftest import CHECKOUT
from tests.model.gguf_files import write_model


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda architecture: architecture.name)
def test_the_modules_of_transformers_are_those_that_converters_read(tmp_path: Path, architecture: Architecture) -> None:
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(numbers[architecture.name], 2)
    graph = load_model(write_model(tmp_path / "model.gguf", architecture=architecture.name)).graph
    for stage in graph.stages:
        for parameter in stage.params:
            module = architecture.transformers_modules[parameter].format(layer=1)
            found = names.get_name(module)
            if found == "blk.1.ssm_in":  # what converters once wrote as a whole, and divide now
                assert module.endswith("in_proj_qkvz") and parameter in ("attn_qkv", "attn_gate")
            elif found == "blk.1.attn_kv_b":  # the same
                assert parameter in ("attn_kv_b", "attn_k_b", "attn_v_b")
            elif found is not None or f"{parameter}.weight" not in architecture.tied:
                assert found == (f"blk.1.{parameter}" if ".layers." in module else parameter)


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda architecture: architecture.name)
def test_no_key_is_under_two_rules(architecture: Architecture) -> None:
    rules = architecture.keys
    assert not rules.read & rules.ignored
    assert not (rules.read | rules.ignored) & rules.required.keys()


def test_nothing_else_asks_for_an_architecture_by_name() -> None:
    quoted = re.compile("|".join(f'"{name}"' for name in ARCHITECTURES))
    elsewhere = {
        path.relative_to(CHECKOUT).as_posix()
        for path in (CHECKOUT / "aprtui").rglob("*.py")
        if quoted.search(path.read_text()) and path.parent.name not in ("architectures", "demo", "bench")
    }
    # Names of tokenizers, which happen to be spelled alike.
    assert elsewhere == {"aprtui/model/byte_pair.py", "aprtui/model/vocabulary.py"}
