"""Stages before the first wrong one are proven by a replay: no floor blames one of them for what comes later."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.floors.own_errors import own_errors
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Mode
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.identify import identify_capture
from aprtui.engine.replay.recompute import CapturedStages
from aprtui.model.model import Model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.engine.embedded_captures import TOKENS, evaluators, model

__all__ = ["evaluators", "model"]

FAULT = Node(1, "attn_out")


@pytest.mark.parametrize("fault", [None, f"layer=1,stage={FAULT.stage},kind=scale,magnitude=0.5"])
def test_stages_before_a_fault_are_proven_and_none_behind_it(
    model: Model, evaluators: Evaluators, tmp_path: Path, fault: str | None
) -> None:
    injector = FaultInjector(model, Mode.Q8, [parse_fault(fault, model)]) if fault else None
    tokens = TOKENS[:6]
    with closing(open_engine(model, mode=Mode.Q8, context=64, intervention=injector)) as engine:
        write_capture(engine, model, CaptureRequest(tokens, None, frozenset(model.graph.nodes)), tmp_path / "capture")
    stages = CapturedStages(Capture.open(tmp_path / "capture"), model, tokens, last=len(tokens))
    found = own_errors("B", identify_capture(stages, {}, evaluators), evaluators, None)
    order = model.graph.order
    expected = {node for node in model.graph.nodes if fault is None or order[node] < order[FAULT]}
    assert found.proven == expected
    assert set(found.failed) == ({FAULT} if fault else set())
