"""Paths of an engine: honest ones give the same bits, a fault in one of them is put at its own stage and token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.verdict import Verdict
from aprtui.engine.faults.faults import Fault, parse_fault
from aprtui.engine.parity import prompt_of
from aprtui.engine.paths.parity import PathParity, PathRequest, measure_parity
from aprtui.engine.paths.sinks import RowDigests
from aprtui.engine.paths.table import SHORT, paths_for
from aprtui.engine.protocol import Mode
from aprtui.errors import UsageError
from aprtui.model.model import Model, load_model
from aprtui.progress import no_progress
from aprtui.trace.graph.stage import Node
from tests.model.gguf_files import model_file


def parity(model: Model, *faults: str, tokens: int = 24, backend: str = "cpu", mode: Mode = Mode.EXACT) -> PathParity:
    planted: list[tuple[str, Fault]] = []
    for text in faults:
        path, _, fault = text.partition(",")
        planted.append((path, parse_fault(fault, model)))
    return measure_parity(model, PathRequest(prompt_of(model, tokens), backend, mode, 2, planted), no_progress)


def test_honest_paths_pass(model: Model) -> None:
    found = parity(model, tokens=16, mode=Mode.Q8)
    assert found.verdict is Verdict.PASS, [one.reason for one in found.findings]
    names = [one.name for one in found.findings]
    assert {"chunks-7", "decode-1", "decode-8", "back-8", "again", "threads-1", "room-4x", "maps", "kv-q8_0"} < set(
        names
    )
    assert found.reference == "prefill" and found.first is None


def test_a_fault_in_one_path_is_put_at_its_stage_and_token(model: Model) -> None:
    found = parity(
        model, "decode-12,layer=2,stage=ffn_gate,kind=stale-row,token=15", "back-*,layer=1,stage=attention,kind=noise"
    )
    failed = {one.name: one.parting for one in found.findings if one.verdict is Verdict.FAIL}
    assert set(failed) == {"decode-12", "back-12"}
    decoded, back = failed["decode-12"], failed["back-12"]
    assert decoded is not None and (decoded.node, decoded.token) == (Node(2, "ffn_gate"), 15)
    assert decoded.error is not None and decoded.error > 0.1
    assert back is not None and back.node == Node(1, "attention")
    assert found.first is not None and found.first.name == "back-12"


def test_a_fault_of_the_plain_prefill_blames_it_and_not_the_others(model: Model) -> None:
    found = parity(model, "prefill,layer=0,stage=q_post_rope,kind=scale,magnitude=1e-6")
    assert [one.name for one in found.findings if one.verdict is Verdict.FAIL] == ["prefill"]
    assert found.reference == "chunks-2"


def test_a_fault_in_a_type_of_the_cache_is_found_by_its_replay(model: Model) -> None:
    found = parity(model, "kv-q8_0,layer=1,stage=attention,kind=scale,magnitude=1e-3", tokens=12)
    (failed,) = [one for one in found.findings if one.verdict is not Verdict.PASS]
    assert failed.name == "kv-q8_0" and failed.verdict is Verdict.FAIL and "layer 1 attention" in failed.reason


def test_an_engine_that_adds_in_other_orders_is_held_to_a_floor(tmp_path: Path) -> None:
    model = load_model(model_file().write(tmp_path / "tiny.gguf"))
    found = parity(model, "decode-4,layer=1,stage=ffn_up,kind=scale,magnitude=1e-4", tokens=8, backend="numpy")
    failed = [one for one in found.findings if one.verdict is Verdict.FAIL]
    assert [one.name for one in failed] == ["decode-4"] and failed[0].held_to == "a floor"
    assert failed[0].parting is not None and failed[0].parting.node == Node(1, "ffn_up")


def test_a_fault_of_no_path_is_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="path=nothing: there are prefill, chunks-2"):
        parity(model, "nothing,layer=0,stage=ffn_up,kind=scale")


def test_long_sequences_take_few_passes_of_many_tokens() -> None:
    names = [path.name for path in paths_for(4096, None)]
    assert names == [
        "prefill",
        "chunks-100",
        "chunks-512",
        "chunks-1000",
        "decode-4080",
        "back-2048",
        "again",
        "room-4x",
    ]
    assert not any(path.maps for path in paths_for(SHORT + 1, None))


def test_rows_that_one_side_lacks_count_for_nothing(model: Model) -> None:
    a, b = RowDigests(3), RowDigests(3)
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    gate, up = Node(0, "ffn_gate"), Node(0, "ffn_up")
    a.put(gate, 0, rows, None)
    b.put(gate, 1, rows[1:], None)
    b.put(up, 0, rows, None)
    assert a.parted(b, model.graph) is None
    b.put(gate, 2, rows[:1], None)
    assert a.parted(b, model.graph) == (gate, 2)
