"""`aprtui scan`: what is printed, what is captured, and the exit codes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aprtui.model.model import load_model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.cli.conftest import Outcome

TOKENS = ",".join(str(7 * at % 260) for at in range(40))
FAULT = "layer=1,stage=ffn_gate,kind=stale-row,token=36"


def test_a_walk_without_a_jump_passes(aprtui: Callable[..., Outcome], tiny_model: Path) -> None:
    done = aprtui("scan", tiny_model, "--tokens", TOKENS, "-n", "4", "--against", "path=decode")
    assert done.code == 0 and "PASS  nothing jumps at 43 tokens" in done.out, done.out + done.err
    assert "another first token at 0" in done.out
    assert aprtui("scan", tiny_model, "--tokens", "1,2,3", "-n", "0", "--against", "path=decode").code == 125


def test_a_jump_is_marked_and_captured(tmp_path: Path, aprtui: Callable[..., Outcome], tiny_model: Path) -> None:
    arguments = ("scan", tiny_model, "--tokens", TOKENS, "-n", "0", "--against", "path=prefill", "--inject", FAULT)
    done = aprtui(*arguments, "--out", tmp_path / "jump", "--window", "2")
    assert done.code == 1 and "token 36" in done.out and "FAIL  error jumps first, at token 36" in done.out
    assert "aprtui diff" in done.err and "aprtui replay" in done.err
    scanned, reference = (Capture.open(tmp_path / "jump" / name) for name in ("scanned", "reference"))
    gate = Node(1, "ffn_gate")
    assert scanned.values(gate).shape[0] == 5 and len(scanned.tokens or ()) == 39
    assert np.flatnonzero((scanned.values(gate) != reference.values(gate)).any(axis=1)).tolist() == [2]
    replayed = aprtui("replay", tmp_path / "jump" / "scanned", "--model", tiny_model)
    assert replayed.code == 1 and "layer 1 ffn_gate" in replayed.out
    diffed = aprtui(
        "diff", tmp_path / "jump" / "reference", tmp_path / "jump" / "scanned", "--tolerance", "rel_l2=1e-4"
    )
    assert "layer 1 ffn_gate" in diffed.out and "token 36" in diffed.out, diffed.out
    assert aprtui(*arguments, "--out", tmp_path / "jump").code == 2
    records = [json.loads(line) for line in aprtui(*arguments, "--json").out.splitlines()]
    assert [one["position"] for one in records if one["record"] == "jump"] == [36]
    assert records[36]["record"] == "token" and records[36]["error"] > records[35]["error"]


def write_base(path: Path, tokens: list[int], logits: np.ndarray, context: int) -> None:
    """A base of llama-perplexity with one chunk, from logits `[context, V]`."""
    vocabulary = logits.shape[1]
    first = context // 2
    rows = [struct.pack("<iii", context, vocabulary, 1), np.array(tokens, "<i4").tobytes()]
    for row in logits[first : context - 1].astype(np.float64):
        log_p = row - row.max() - np.log(np.exp(row - row.max()).sum())
        least = max(log_p.min(), log_p.max() - 16)
        scale = (log_p.max() - least) / 65535
        steps = np.clip(np.rint((log_p - least) / scale), 0, 65535).astype("<u2")
        padded = np.zeros(2 * ((vocabulary + 1) // 2), "<u2")
        padded[:vocabulary] = steps
        rows.append(np.array([scale, least], "<f4").tobytes() + padded.tobytes())
    path.write_bytes(b"_logits_" + b"".join(rows))


def test_a_base_of_llama_perplexity_is_a_reference(
    tmp_path: Path, aprtui: Callable[..., Outcome], tiny_model: Path
) -> None:
    tokens = [int(token) for token in TOKENS.split(",")]
    aprtui("trace", tiny_model, "--tokens", TOKENS, "--save-tensor-dir", tmp_path / "whole", "--logits", "all")
    node = load_model(tiny_model).graph.nodes[-1]
    logits = np.array(Capture.open(tmp_path / "whole").values(node))
    logits[33] += 2 * np.random.default_rng(1).standard_normal(logits.shape[1])
    write_base(tmp_path / "base.kld", tokens, logits, len(tokens))
    done = aprtui("scan", tiny_model, "--mode", "exact", "--against", tmp_path / "base.kld")
    assert done.code == 1 and "token 33" in done.out, done.out + done.err
    done = aprtui("scan", tiny_model, "--mode", "exact", "--against", tmp_path / "whole")
    assert done.code == 0 and "40 tokens given" in done.out
    assert aprtui("scan", tiny_model, "-p", "a", "--against", tmp_path / "whole").code == 2


def test_requests_that_make_no_sense_are_refused(aprtui: Callable[..., Outcome], tiny_model: Path) -> None:
    for arguments in (("--against", "mode=fast"), ("--against", "nothing.kld"), ("-n", "-1"), ("--window", "0")):
        assert aprtui("scan", tiny_model, "--tokens", "1,2", *arguments).code == 2, arguments
    assert aprtui("scan", tiny_model).code == 2
    assert aprtui("scan", tiny_model, "--tokens", "1,2", "--against", "mode=fast", "--bisect").code == 125
