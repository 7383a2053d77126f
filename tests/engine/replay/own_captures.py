"""What holds of a replay of our own engine's captures, whatever the architecture."""

from __future__ import annotations

from pathlib import Path

from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model
from aprtui.trace.capture import Capture


def replayed(model: Model, evaluators: Evaluators, directory: Path) -> Comparison:
    return replay_capture(Capture.open(directory), model, ReplayOptions(), evaluators)


def assert_exactly_zero(result: Comparison) -> None:
    assert result.verdict is Verdict.PASS and result.compared == result.expected
    assert all(stage.metrics.equal_bits == 1 for stage in result.stages)


def assert_passes_below(result: Comparison, error: float) -> None:
    assert result.verdict is Verdict.PASS
    assert max(stage.verdict.error or 0 for stage in result.stages) < error
