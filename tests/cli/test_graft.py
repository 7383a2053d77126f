"""`aprtui graft`: what is printed, and which requests are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome

FAULT = "layer=1,stage=ffn_gate,kind=scale,magnitude=0.5"


@pytest.fixture
def capture(tmp_path: Path, aprtui: Callable[..., Outcome], tiny_model: Path) -> Path:
    folder = tmp_path / "capture"
    aprtui("trace", tiny_model, "--tokens", "3,1,4,1", "--save-tensor-dir", folder, "--inject", FAULT)
    return folder


def test_the_stage_that_carries_the_error_stands_first(
    capture: Path, aprtui: Callable[..., Outcome], tiny_model: Path
) -> None:
    done = aprtui("graft", capture, "--model", tiny_model)
    assert done.code == 0 and "layer 1 ffn_gate is worth 100 % of the error" in " ".join(done.out.split())
    done = aprtui("graft", capture, "--model", tiny_model, "--json")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert (records[0]["layer"], records[0]["stage"]) == (1, "ffn_gate") and records[0]["captured"]["kl"] > 0
    assert records[-1]["record"] == "summary" and records[-1]["explains"] is True
    done = aprtui("graft", capture, "--model", tiny_model, "--at", "layer=1,stage=ffn_gate")
    assert "alone in ours" in done.out
    done = aprtui("graft", capture, "--model", tiny_model, "--stage", "attn_out", "--layers", "0..2")
    assert "none of these carries the error" in done.out


def test_requests_that_make_no_sense_are_refused(
    capture: Path, aprtui: Callable[..., Outcome], tiny_model: Path
) -> None:
    for arguments, said in (
        (("--at", "layer=1,stage=nothing"), "no stage 'nothing'"),
        (("--at", "ffn_gate"), "expected layer=N,stage=NAME"),
        (("--at", "layer=7,stage=ffn_gate"), "layers 0 … 1"),
        (("--until", "layer=1,stage=ffn_up"), "give --at as well"),
        (("--layers", "1"), "give --stage as well"),
        (("--at", "layer=1,stage=ffn_up", "--until", "layer=0,stage=ffn_up"), "comes before"),
        (("--at", "layer=1,stage=ffn_up", "--stage", "ffn_up"), "choose one of them"),
    ):
        done = aprtui("graft", capture, "--model", tiny_model, *arguments)
        assert done.code == 2 and said in done.err, arguments
    assert aprtui("graft", capture).code == 2
    assert aprtui("graft", capture.parent / "none").code == 3
