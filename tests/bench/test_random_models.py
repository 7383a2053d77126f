"""Models of random numbers open, and their numbers stay in range."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.bench.random_data import Shape, write_random_model
from aprtui.engine.opening import open_engine
from aprtui.model.model import load_model

DENSE = Shape(256, 2, 4, 2, 512, 512)
EXPERTS = Shape(256, 2, 4, 2, 256, 512, tied=False, experts=4, chosen=2, head_size=128)


@pytest.mark.parametrize("shape", [DENSE, EXPERTS])
def test_a_random_model_runs(shape: Shape, tmp_path: Path) -> None:
    path = tmp_path / "random.gguf"
    write_random_model(path, shape)
    model = load_model(path)
    assert (model.config.graph.architecture, model.config.graph.head_dim) == (shape.architecture, shape.head_width)
    engine = open_engine(model, backend="numpy", context=16)
    try:
        logits = engine.forward([1, 2, 3, 4])
    finally:
        engine.close()
    assert logits.shape == (1, shape.vocabulary) and 0.1 < logits.std() < 30
