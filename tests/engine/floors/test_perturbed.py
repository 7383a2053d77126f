"""Disturbed weights err as much as a quantiser does."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from aprtui.engine.floors.perturbed import PerturbedWeight
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"])
def test_a_disturbance_is_as_large_as_the_error_of_a_quantiser(name: str) -> None:
    values = np.random.default_rng(0).standard_normal((256, 512)).astype(np.float32)
    data = gguf.quants.quantize(values, gguf.GGMLQuantizationType[name])
    fields = ("w", WeightType[name], 256, 512, data)
    exact, disturbed = Weight(*fields).dequantize(), PerturbedWeight(*fields, seed=1).dequantize()
    assert np.linalg.norm(disturbed - exact) == pytest.approx(np.linalg.norm(exact - values), rel=0.1)
