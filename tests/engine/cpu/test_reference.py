"""The numpy reference rounds as the kernels do, and a replay knows of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.verdict import Verdict
from aprtui.engine.cpu import matmul
from aprtui.engine.protocol import Mode
from aprtui.engine.reference import ops
from aprtui.engine.reference.evaluate import NumpyNodes
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.engine.rounding import ARITHMETIC
from aprtui.model.model import load_model
from aprtui.model.weight_types import WeightType
from aprtui.trace.capture import Capture
from tests.engine.cpu.matmul_cases import by_kernel, product, quantized, random_activations, random_rows
from tests.engine.embedded_captures import captured
from tests.model.gguf_files import write_model


@pytest.mark.parametrize(("kind", "mode"), by_kernel((kind,) for kind in WeightType))
def test_a_product_of_the_reference_is_that_of_the_kernels(kind: WeightType, mode: Mode) -> None:
    weights, x = random_rows(kind, 33, 512), random_activations(9, 512)
    kernels = product(weights, mode, quantized(matmul.activation_kind(kind, mode), x))
    reference = ops.matmul(x, [weights.weight], ARITHMETIC[mode].matmul_input)
    assert np.linalg.norm(kernels - reference) <= 4e-7 * np.linalg.norm(reference)


@pytest.mark.parametrize("kind", [WeightType.Q4_1, WeightType.Q5_1], ids=lambda kind: kind.name)
def test_a_replay_knows_the_sums_of_q8_1(kind: WeightType, tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "model.gguf", weight_type=kind))
    directory = captured(model, tmp_path / "q8", Mode.Q8, tokens=range(1, 12))
    result = replay_capture(Capture.open(directory), model, ReplayOptions(), lambda angles: NumpyNodes(model, angles))
    assert result.verdict is Verdict.PASS
    assert max(stage.verdict.error or 0 for stage in result.stages) < 1e-6
