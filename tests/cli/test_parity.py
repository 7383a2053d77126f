"""`aprtui parity`: what is printed of models and of captures, and the exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aprtui.trace.aprt import read_aprt, write_aprt
from tests.cli.conftest import Outcome

TOKENS = "2045,312,282,1355,932,297"


def test_paths_of_a_model_agree(aprtui: Callable[..., Outcome]) -> None:
    done = aprtui("parity", "--tokens", TOKENS)
    assert done.code == 0 and "PASS  13 paths give the same numbers, 10 of them to the bit" in done.out


def test_the_path_that_parts_is_named_with_its_place(aprtui: Callable[..., Outcome]) -> None:
    fault = "path=chunks-2,layer=1,stage=ffn_gate,kind=scale"
    done = aprtui("parity", "--tokens", TOKENS, "--inject", fault)
    assert done.code == 1 and "chunks-2 parts first, at layer 1 ffn_gate, token 0" in " ".join(done.out.split())
    done = aprtui("parity", "--tokens", TOKENS, "--inject", fault, "--json")
    records = [json.loads(line) for line in done.out.splitlines()]
    (parted,) = [record for record in records if record["verdict"] == "FAIL" and record["record"] == "path"]
    assert parted["parting"]["stage"] == "ffn_gate" and parted["parting"]["layer"] == 1 and parted["kl"] > 0
    assert records[-1]["first"] == "chunks-2" and records[-1]["reference"] == "prefill"


def test_captures_are_compared_at_the_tokens_that_they_share(
    tmp_path: Path, aprtui: Callable[..., Outcome], tiny_model: Path
) -> None:
    for name, tokens in (("long", "3,1,4,1,5"), ("short", "3,1,4")):
        aprtui("trace", tiny_model, "--tokens", tokens, "--save-tensor-dir", tmp_path / "all" / name, "--logits", "all")
    done = aprtui("parity", tmp_path / "all")
    assert done.code == 0 and "3 tokens" in done.out and "PASS  all paths agree" in done.out
    fault = "layer=1,stage=ffn_up,kind=scale,magnitude=0.1"
    wrong = tmp_path / "all" / "wrong"
    aprtui("trace", tiny_model, "--tokens", "3,1,4,1", "--save-tensor-dir", wrong, "--logits", "all", "--inject", fault)
    done = aprtui("parity", tmp_path / "all", "--tolerance", "rel_l2=1e-5")
    assert done.code == 1 and "wrong parts first, at layer 1 ffn_up" in done.out, done.out
    assert "4 tokens" in done.out


def test_positions_of_per_op_dumps_are_taken_as_captures(
    tmp_path: Path, aprtui: Callable[..., Outcome], tiny_model: Path
) -> None:
    capture = tmp_path / "whole"
    aprtui("trace", tiny_model, "--tokens", "3,1,4", "--save-tensor-dir", capture, "--logits", "all")
    for device in ("cpu", "gpu"):
        for file in sorted(capture.glob("layer-*/*.bin")):
            if file.stem in ("attn_scores", "attn_softmax"):
                continue
            rows = np.array(read_aprt(file).values).reshape(3, -1)
            for token, row in enumerate(rows):
                place = tmp_path / "dump" / device / f"pos-{token:04d}" / file.parent.name
                place.mkdir(parents=True, exist_ok=True)
                wrong = device == "gpu" and token == 2 and file.stem == "ffn_gate" and "1" in file.parent.name
                write_aprt(place / file.name, int(file.parent.name[6:]), row * (1.5 if wrong else 1))
    done = aprtui("parity", tmp_path / "dump", "--model", tiny_model)
    assert done.code == 1, done.out + done.err
    assert "gpu parts first, at layer 1 ffn_gate" in done.out
    shutil.rmtree(tmp_path / "dump" / "gpu")
    assert aprtui("parity", tmp_path / "dump").code == 2


def test_requests_that_make_no_sense_are_refused(tmp_path: Path, aprtui: Callable[..., Outcome]) -> None:
    for arguments in (
        ("--tokens", "3", "--length", "4"),
        ("--tokens", "3"),
        ("--model", "x"),
        ("--inject", "layer=0,stage=ffn_up,kind=scale"),
        ("--chat",),
    ):
        assert aprtui("parity", *arguments).code in (2, 3), arguments
