"""`aprtui info`: a model's own facts, as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aprtui.cli.info import command
from aprtui.errors import UnreadableError
from aprtui.resources import embedded_model


def info(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(word) for word in arguments], standalone_mode=False)


def test_what_is_unusual_comes_first_and_each_fact_has_a_line() -> None:
    lines = info().output.splitlines()
    assert lines[0] == "unusual: Q, K and V have biases"
    assert f"file           {embedded_model()}, 2.6 MB" in lines
    assert "heads          4 for Q, 2 for K and V, of 64 channels" in lines
    assert "weights        Q6_K    17 tensors,    1.5 MB, 6.56 bits a value" in lines
    assert "               Q4_K    12 tensors,    1.0 MB, 4.5 bits a value" in lines


def test_json_has_all_of_it_in_one_object() -> None:
    found = json.loads(info(embedded_model(), "--json").output)
    assert (found["architecture"], found["layers"], found["parameters"]) == ("qwen2", 4, 3_674_368)
    assert found["rope"]["theta"] == 10_000 and found["tokenizer"]["tokens"] == 2048
    assert found["types"][0] == {"name": "Q6_K", "tensors": 17, "values": 1_835_008, "size": 1_505_280}
    assert "<|im_start|>" in found["template"] and len(found["unusual"]) == 3


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(UnreadableError, match=r"text\.gguf"):
        raise info(tmp_path / "text.gguf").exception or AssertionError
