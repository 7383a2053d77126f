"""Recordings where captures are expected: the stages that their nodes are, in all commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from aprtui.cli.main import cli
from aprtui.errors import UnreadableError, UsageError
from aprtui.progress import no_progress
from aprtui.recordings.captures.as_capture import recorded_model, write_as_capture
from aprtui.recordings.captures.stage_values import stage_values
from aprtui.recordings.captures.stand_in import open_capture
from aprtui.recordings.reading import Recording
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.model.gguf_files import write_model
from tests.recordings.made import ATTENTION_TOKENS, attention_recording, edited, recorded


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], standalone_mode=False)


def test_nodes_are_the_stages_of_a_capture(tmp_path: Path) -> None:
    capture = open_capture(attention_recording(tmp_path / "r"))
    stages = {node.stage for node in capture.files}
    assert stages == {"embedding", "qkv_matmul", "attn_scores", "attn_softmax", "attention", "attn_out", "lm_head"}
    assert (capture.path, capture.files[Node(None, "lm_head")].path.parent) == (tmp_path / "r", capture.folder)
    assert capture.tokens == ATTENTION_TOKENS
    assert capture.values(Node(0, "qkv_matmul")).shape == (4, 24)
    maps, scores = (capture.values(Node(0, stage)) for stage in ("attn_softmax", "attn_scores"))
    assert maps.shape == (1, 4, 4)
    assert np.allclose(maps[0, 3], np.exp(scores[0, 3]) / np.exp(scores[0, 3]).sum()), "scores have their scale"


def test_contracts_of_captures_judge_the_stages_of_a_recording(tmp_path: Path) -> None:
    result = run("contracts", "check", "--capture", attention_recording(tmp_path / "r"), "--id", "APRTUI-CAPTURE-*")
    verdicts = [line.split()[0] for line in result.output.splitlines() if "APRTUI-CAPTURE" in line]
    assert "PASS" in verdicts
    assert "FAIL" not in verdicts, result.output


def test_a_recording_that_is_written_again_is_read_again(tmp_path: Path) -> None:
    before = open_capture(attention_recording(tmp_path / "r")).values(Node(0, "attn_out")).copy()
    shutil.rmtree(tmp_path / "r")
    attention_recording(tmp_path / "r", lambda text: text.replace("kq_soft_max", "other"))
    again = open_capture(tmp_path / "r")
    assert Node(0, "attn_softmax") not in again.files
    assert np.array_equal(again.values(Node(0, "attn_out")), before)


def test_the_commands_for_captures_take_recordings(tmp_path: Path) -> None:
    a, b = attention_recording(tmp_path / "a"), attention_recording(tmp_path / "b")
    for arguments in (
        ("diff", a, b, "--as-captures", "--html", tmp_path / "a.html"),
        ("export", a, "--out", tmp_path / "a.zip"),
        ("diff", a, tmp_path / "a.zip"),
        ("import", a, "--out", tmp_path / "c"),
        ("diff", tmp_path / "c", b),
        ("parity", a, b),
    ):
        result = run(*arguments)
        assert result.exception is None, (arguments, result.exception)
        assert result.return_value in (0, None), (arguments, result.output)
    assert Capture.open(tmp_path / "c").provenance["engine"] == "mine 1"


def test_of_an_architecture_that_is_not_known_the_next_step_is_one_that_works(tmp_path: Path) -> None:
    said = run("replay", attention_recording(tmp_path / "r"), "--tolerance", "rel_l2=1").output
    assert "aprtui record torch HF_FOLDER" in said


@pytest.mark.parametrize("arguments", [("diff", "a", "a", "--html", "x"), ("replay", "a", "--stage", "attn_out")])
def test_options_of_captures_say_how_a_recording_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    attention_recording(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert isinstance(result.exception, UsageError)
    assert "--as-capture" in str(result.exception)


def test_stats_list_nodes_that_are_no_stage_too(tmp_path: Path) -> None:
    folder = attention_recording(tmp_path / "r")
    lines = run("stats", folder).output.splitlines()
    assert len(lines) == 1 + 9
    assert any("kqv-0" in line or "attention" in line for line in lines)
    chosen = run("stats", folder, "--stage", "SOFT_MAX,embedding", "--json").output.splitlines()
    assert [json.loads(line)["op"] for line in chosen] == ["GET_ROWS", "SOFT_MAX"]
    value = run("stats", folder, "--stage", "attn_out", "--values", "2,3", "--json").output
    assert json.loads(value)["value"] == float(open_capture(folder).values(Node(0, "attn_out"))[2, 3])
    assert isinstance(run("stats", folder, "--stage", "nothing").exception, UsageError)


def test_names_can_be_stated(tmp_path: Path) -> None:
    folder = attention_recording(tmp_path / "r", lambda text: f"x{text.replace('-0', '')}.0")
    assert Node(0, "attn_softmax") not in open_capture(folder).files
    said = run("record", "names", folder)
    assert "xkq_soft_max.0  SOFT_MAX" in said.output
    assert run("record", "names", folder, "xkq_soft_max.{layer}=attn_softmax").exception is None
    assert open_capture(folder).values(Node(0, "attn_softmax")).shape == (1, 4, 4)
    assert "attn_softmax" in run("stats", folder).output


@pytest.mark.parametrize(
    ("name", "words"),
    [("kq=attn_softmx", "attn_softmax"), ("attn_softmax", "NODE=STAGE"), ("{layer}.{layer}=attention", "twice")],
)
def test_a_name_that_cannot_be_is_refused(tmp_path: Path, name: str, words: str) -> None:
    result = run("record", "names", attention_recording(tmp_path / "r"), name)
    assert isinstance(result.exception, UsageError)
    assert words in str(result.exception)


def test_a_recording_without_a_stage_says_how_to_name_some(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "r", "SQR", np.ones((2, 4), np.float32), np.ones((2, 4), np.float32))
    with pytest.raises(UnreadableError, match="aprtui record names"):
        open_capture(folder)


def test_weights_of_absurd_sizes_take_no_memory(tmp_path: Path) -> None:
    def huge(document: dict[str, Any]) -> None:
        weight = next(root for root in document["graphs"][0]["roots"] if root["kind"] == "weight")
        del weight["blob"]
        weight["bytes"] = 1 << 44

    folder = edited(attention_recording(tmp_path / "r"), huge)
    assert Node(0, "attn_out") in open_capture(folder).files


def test_a_stage_that_there_is_not_is_refused_where_a_recording_states_it(tmp_path: Path) -> None:
    edited(attention_recording(tmp_path / "r"), lambda d: d.update(stages={"a": "nothing"}))
    with pytest.raises(UnreadableError, match="'nothing' is no stage"):
        Recording.open(tmp_path / "r")


@pytest.mark.group("llama_cpp")
@pytest.mark.parametrize(
    ("architecture", "prefill"),
    [("qwen2", "4"), ("gemma3", "4"), ("gpt-oss", "4"), ("qwen35moe", "1"), ("qwen3next", "4"), ("smollm3", "4")],
)
def test_the_stages_of_a_recording_of_llamacpp_are_those_of_its_oracle(
    tmp_path: Path, architecture: str, prefill: str
) -> None:
    model = write_model(tmp_path / "m.gguf", architecture=architecture)
    tokens = ("--tokens", "5,9,17,3,44", "--decode-from", prefill)
    assert run("record", "llamacpp", model, *tokens, "--out", tmp_path / "r").exception is None
    assert run("oracle", "llamacpp", model, *tokens, "--out", tmp_path / "c").exception is None
    theirs, ours = Capture.open(tmp_path / "c"), open_capture(tmp_path / "r")
    assert ours.manifest is not None
    assert ours.files.keys() == theirs.files.keys()
    assert all(np.array_equal(ours.values(node), theirs.values(node), equal_nan=True) for node in ours.files)
    # Names alone tell the same, but what is an input as it is, and what only the architecture tells.
    recording = Recording.open(tmp_path / "r")
    by_names = stage_values(recording, None, None, no_progress).values
    known = recorded_model(recording, None)
    assert known is not None
    passed = {node.stage for node in known.graph.nodes if known.graph.passes_through(node)}
    assert {node.stage for node in ours.files.keys() - by_names.keys()} <= {*passed, "logit_softcap"}
    assert all(np.array_equal(by_names[node], ours.values(node), equal_nan=True) for node in by_names)


@pytest.mark.group("transformers")
def test_the_modules_of_a_recording_of_pytorch_are_stages(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", architecture="qwen2")
    tokens = ("--tokens", "5,9,17,3,44", "--decode-from", "4")
    assert run("record", "torch", model, *tokens, "--out", tmp_path / "r").exception is None
    assert run("oracle", "hf", model, *tokens, "--out", tmp_path / "c").exception is None
    theirs, ours = Capture.open(tmp_path / "c"), open_capture(tmp_path / "r")
    assert {node.stage for node in theirs.files.keys() - ours.files.keys()} <= {
        "q_post_rope", "k_post_rope", "attn_scores", "attn_softmax",
    }  # fmt: skip
    assert all(np.array_equal(ours.values(node).ravel(), theirs.values(node).ravel()) for node in ours.files)


def test_what_is_not_free_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError):
        write_as_capture(Recording.open(attention_recording(tmp_path / "r")), None, tmp_path / "c", no_progress)
