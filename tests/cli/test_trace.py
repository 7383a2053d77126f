"""Captures from the command line: complete, deterministic, and the same run as without capturing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Mode
from aprtui.model.model import load_model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.cli.conftest import Outcome
from tests.model.gguf_files import model_file

Run = Callable[..., Outcome]
TOKENS = "1,5,9,200,33,7,101"


def stage_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.bin"))}


@pytest.mark.parametrize("mode", ["exact", "q8"])
def test_two_runs_are_byte_identical_on_one_thread_and_on_two(
    aprtui: Run, tmp_path: Path, tiny_model: Path, mode: str
) -> None:
    runs = {"a": 2, "b": 2, "c": 1}
    for name, threads in runs.items():
        made = aprtui("trace", tiny_model, "--tokens", TOKENS, "--mode", mode, "--threads", threads,
                      "--save-tensor-dir", tmp_path / name)  # fmt: skip
        assert made.code == 0, made.err
    files = [stage_bytes(tmp_path / name) for name in runs]
    assert len(files[0]) == 1 + 2 * 17 + 2
    assert files[0] == files[1] == files[2]
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in runs]
    for manifest, threads in zip(manifests, runs.values(), strict=True):
        assert manifest["engine"].pop("threads") == threads
        assert manifest.pop("wall_seconds") > 0
    assert manifests[0] == manifests[1] == manifests[2]


def test_a_split_model_makes_the_capture_of_the_whole_one_and_is_its_model(
    aprtui: Run, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parts = model_file().write_parts(tmp_path, 3)
    aprtui("trace", tiny_model, "--tokens", TOKENS, "--save-tensor-dir", "whole")
    made = aprtui("trace", parts[1], "--tokens", TOKENS)
    assert made.code == 0, made.err
    assert stage_bytes(tmp_path / "model-trace") == stage_bytes(tmp_path / "whole")
    assert aprtui("replay", "model-trace", "--model", parts[2]).code == 0
    assert "another model" not in aprtui("diff", "model-trace", "whole", "--model", parts[0]).err


def test_capture_with_generation_holds_the_tokens_of_the_run_without_it(
    aprtui: Run, tmp_path: Path, tiny_model: Path
) -> None:
    streamed = aprtui("run", tiny_model, "--tokens", TOKENS, "-n", 6, "--temp", 0, "--mode", "exact", "--json")
    records = [json.loads(line) for line in streamed.out.splitlines()[:-1]]
    ids = [record["id"] for record in records]
    aprtui("trace", tiny_model, "--tokens", TOKENS, "--generate", 6, "--save-tensor-dir", tmp_path / "c")
    capture = Capture.open(tmp_path / "c")
    assert capture.tokens is not None
    assert list(capture.tokens) == [*map(int, TOKENS.split(",")), *ids[:5]], "the last token chosen is not evaluated"
    assert capture.values(Node(1, "attn_softmax")).shape == (4, 12, 12)
    assert capture.manifest is not None
    assert capture.manifest.code_paths == ("prefill",) * 7 + ("decode",) * 5
    assert capture.manifest.completion == "".join(record["text"] for record in records[:5])
    tokenizer = load_model(tiny_model).tokenizer
    assert capture.pieces == tuple(map(tokenizer.piece, capture.tokens)), "generated tokens among them"


def test_decode_from_gives_the_values_of_the_prefill(aprtui: Run, tmp_path: Path, tiny_model: Path) -> None:
    base = ["trace", tiny_model, "--tokens", TOKENS, "--logits", "all", "--save-tensor-dir"]
    assert aprtui(*base, tmp_path / "prefill").code == 0
    assert aprtui(*base, tmp_path / "decode", "--decode-from", 2).code == 0
    assert aprtui("diff", tmp_path / "prefill", tmp_path / "decode", "--tolerance", "rel_l2=1e-5").code == 0
    decoded = Capture.open(tmp_path / "decode").manifest
    assert decoded is not None
    assert decoded.code_paths == ("prefill",) * 2 + ("decode",) * 5


def test_selection_writes_those_stages_and_layers_only(aprtui: Run, tmp_path: Path, tiny_model: Path) -> None:
    made = aprtui("trace", tiny_model, "--tokens", "1,2", "--save-tensor", "ffn_*,lm_head", "--save-tensor-layers",
                  "1..2", "--save-tensor-dir", tmp_path / "c", "--json")  # fmt: skip
    names = {"ffn_norm", "ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl", "ffn_out"}
    assert set(stage_bytes(tmp_path / "c")) == {f"layer-1/{name}.bin" for name in names} | {"lm_head.bin"}
    records = [json.loads(line) for line in made.out.splitlines()]
    assert [record["record"] for record in records] == ["file"] * 7 + ["summary"]
    assert records[-1]["bytes"] == sum(record["bytes"] for record in records[:-1])


def test_default_directory_is_named_after_the_model(
    aprtui: Run, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert aprtui("trace", tiny_model, "--tokens", "1").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-trace"]


@pytest.mark.parametrize("mode", list(Mode))
def test_last_logits_are_the_last_row_of_all_logits(aprtui: Run, tmp_path: Path, tiny_model: Path, mode: Mode) -> None:
    for logits in ("last", "all"):
        aprtui("trace", tiny_model, "--tokens", TOKENS, "--logits", logits, "--mode", mode,
               "--save-tensor-dir", tmp_path / logits)  # fmt: skip
    head = Node(None, "lm_head")
    last, every = (Capture.open(tmp_path / logits).values(head) for logits in ("last", "all"))
    assert last.shape[0] == 1
    assert every.shape[0] == 7
    assert np.array_equal(last[0], every[-1])
    engine = open_engine(load_model(tiny_model), mode=mode, kv=KvType.F32, context=16)
    assert np.array_equal(engine.forward(list(map(int, TOKENS.split(","))))[0], every[-1])
    engine.close()
