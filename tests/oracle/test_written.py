"""What oracles leave beside the stage files, and the layout that hooks in PyTorch give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from aprtui.cli.main import cli
from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.verdict import parse_tolerance
from aprtui.errors import UsageError
from aprtui.oracle.written import rewrite_as_hooked, write_provenance
from aprtui.trace.capture import PROVENANCE, Capture, read_provenance
from aprtui.trace.graph.stage import Node
from tests.oracle.models import TOKENS, model_of, own_capture


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_the_layout_of_hooks_is_compared_through(tmp_path: Path, architecture: str) -> None:
    model = model_of(tmp_path, architecture)
    ours, hooked = own_capture(model, tmp_path / "ours"), own_capture(model, tmp_path / "hooked")
    assert hooked.manifest is not None
    write_provenance(hooked.path, hooked.manifest)
    rewrite_as_hooked(hooked.path, hooked.manifest)
    found = Capture.open(hooked.path)
    assert (found.manifest, found.tokens, found.token_source) == (None, TOKENS, PROVENANCE)
    assert set(ours.files) - set(found.files) == {Node(0, "post_attn_residual"), Node(1, "post_attn_residual")}
    heads = model.config.graph.heads
    rows = ours.values(Node(0, "q_norm" if architecture == "qwen3" else "q_post_rope"))
    assert not np.array_equal(found.read(Node(0, "q_post_rope")).values, rows.reshape(-1))
    if architecture == "qwen3":
        queries = ours.values(Node(0, "q_post_rope")).reshape(len(TOKENS), heads, -1).swapaxes(0, 1)
        assert np.array_equal(found.read(Node(0, "q_post_rope")).values, queries.reshape(-1))
    options = DiffOptions(tolerances=(parse_tolerance("max_abs=0"),), allow_missing=("post_attn_residual",))
    result = compare_captures(ours, found, options)
    assert result.verdict.value == "PASS"
    matched = {stage.node.stage: stage.matched for stage in result.stages}
    assert "head-major" in matched["k_post_rope"]
    assert ("half-split" in matched["qkv_matmul"]) == (architecture == "llama")


def test_provenance_has_the_keys_that_readers_of_reference_captures_expect(tmp_path: Path) -> None:
    model = model_of(tmp_path, "qwen2")
    capture = own_capture(model, tmp_path / "ours")
    assert capture.manifest is not None
    write_provenance(capture.path, capture.manifest)
    found = read_provenance(capture.path)
    assert found["model"] == "random-qwen2"
    assert found["tokens"] == str(list(TOKENS))
    assert (found["stages_per_layer"], found["stages_whole_model"], found["with_attn_substages"]) == ("18", "2", "True")
    assert int(found["argmax_token"]) == capture.values(Node(None, "lm_head"))[-1].argmax()
    assert Capture.open(capture.path).warnings == ()


@pytest.fixture
def no_oracle(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command asks for, in place of running it."""
    asked: list[Any] = []

    def write(model: Any, work: Any, *_: Any, **__: Any) -> dict[Path, Any]:
        asked.append(work)
        return {}

    monkeypatch.setattr("aprtui.oracle.llamacpp_capture.write_llamacpp_captures", write)
    return asked


def test_each_line_of_a_file_of_prompts_has_a_directory_of_its_own(tmp_path: Path, no_oracle: list[Any]) -> None:
    path = model_of(tmp_path, "qwen2").path
    (tmp_path / "prompts").write_text("def f\n\nreturn 12\n")
    words = [
        "oracle",
        "llamacpp",
        str(path),
        "--prompts",
        str(tmp_path / "prompts"),
        "--out",
        "D",
        "--decode-from",
        "2",
    ]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    found = {str(directory): (work.text, work.prefill) for directory, work in no_oracle[0].items()}
    assert found == {"D/prompt-0": ("def f", 2), "D/prompt-1": ("return 12", 2)}


def test_a_file_of_prompts_that_cannot_be_used_is_one_line(tmp_path: Path, no_oracle: list[Any]) -> None:
    path = str(model_of(tmp_path, "qwen2").path)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "prompts").write_text("def f\n")
    for words, message in (
        (["--prompts", str(tmp_path / "none")], "cannot be read"),
        (["--prompts", str(tmp_path / "empty")], "has no lines: write a prompt on each"),
        (["--prompts", str(tmp_path / "prompts"), "-p", "x"], "leave -p and --tokens out"),
    ):
        done = CliRunner().invoke(cli, ["oracle", "llamacpp", path, *words])
        assert isinstance(done.exception, UsageError)
        assert message in str(done.exception)
    assert not no_oracle
