"""The table of three engines: every stage that two of them have, and verdicts on the captures of all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from aprtui.bench import oracles
from aprtui.bench.oracles import LLAMA_CPP, PAIRS, TRANSFORMERS
from aprtui.cli.main import cli
from aprtui.engine.protocol import KvType
from aprtui.oracle.llamacpp_capture import LlamaCppOptions
from aprtui.oracle.transformers_capture import TransformersOptions
from tests.oracle.models import model_of

pytestmark = [pytest.mark.group("llama_cpp"), pytest.mark.group("transformers")]


def test_three_engines_are_compared_stage_by_stage_and_all_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oracles, "_LLAMA_CPP", {LLAMA_CPP: LlamaCppOptions(KvType.F32, threads=1)})
    monkeypatch.setattr(oracles, "_TRANSFORMERS", {TRANSFORMERS: TransformersOptions(threads=1)})
    model = model_of(tmp_path, "qwen2")
    done = CliRunner().invoke(cli, ["bench", "verdicts", "--part", "oracles", str(model.path), "--json"])
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in done.stdout.splitlines()]
    stages = {record["stage"]: record["errors"] for record in records if record["record"] == "oracle stage"}
    assert list(stages) == list(model.graph.names)
    assert [(error["a"], error["b"]) for error in stages["lm_head"]] == list(PAIRS)
    errors = {name: [error["rel_l2"] for error in found] for name, found in stages.items()}
    assert errors["ffn_silu"][0] is errors["ffn_silu"][2] is errors["qkv_matmul"][1] is None
    assert errors["lm_head"][1] < 1e-5 < errors["lm_head"][0]
    verdicts = [(record["signal"], record["verdict"]) for record in records if record["record"] == "oracle verdict"]
    assert sorted(verdicts) == [("diff", "PASS")] * 3 + [("replay", "PASS")] * 3
