"""No cause is found in what honest engines of others wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.compare.verdict import Verdict
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import load_model
from aprtui.trace.capture import Capture
from tests.engine.conformance import peer_tokens

PEERS = ("llamacpp", "transformers")


@pytest.mark.group("conformance")
@pytest.mark.parametrize(
    "name",
    [
        "qwen2-q4km",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen2-q5km", "qwen2-q8_0", "qwen3-q4km")),
    ],
)
@pytest.mark.parametrize("peer", PEERS)
def test_a_capture_of_another_engine_has_no_cause(conformance: Path, name: str, peer: str) -> None:
    model, folder = load_model(conformance / name / "model.gguf"), conformance / name / peer
    with Evaluators(model) as evaluators:
        found = replay_capture(
            Capture.open(folder), model, ReplayOptions(tokens=tuple(peer_tokens(folder))), evaluators
        )
    assert found.verdict is not Verdict.FAIL
    assert not found.causes and not any(one.is_proved for one in found.alternatives)
    assert len(found.stages) > 4 * model.graph.layers
