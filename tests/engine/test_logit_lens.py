from __future__ import annotations

from contextlib import closing
from typing import cast

import numpy as np
import pytest

from aprtui.engine.logit_lens import LogitLens, layer_outputs
from aprtui.engine.opening import open_engine
from aprtui.engine.process.slots import StatsTable
from aprtui.engine.sampling import GREEDY, NO_TOKEN, Sampler
from aprtui.model.model import Model, load_model
from aprtui.resources import embedded_model
from tests.engine.tiny_model import CPU_MODELS

PROMPT = [1, 20, 299, 45]


@pytest.fixture(scope="module", params=["embedded", "gemma2"])
def model(request: pytest.FixtureRequest) -> Model:
    """Gemma 2 caps its logits behind the head."""
    if request.param == "embedded":
        return load_model(embedded_model())
    return cast(Model, CPU_MODELS[request.param]())


def outputs_and_logits(model: Model, backend: str) -> tuple[np.ndarray, np.ndarray]:
    table, nodes = StatsTable(model.graph), layer_outputs(model.graph)
    with closing(open_engine(model, backend=backend, threads=1, context=8)) as engine:
        logits = engine.forward(PROMPT, table.taps_with(nodes))
    outputs = table.take_last(nodes)
    assert outputs is not None
    return outputs, logits[-1]


@pytest.mark.parametrize("backend", ["cpu", "numpy"])
def test_after_the_last_layer_the_lens_sees_what_the_model_says(model: Model, backend: str) -> None:
    outputs, logits = outputs_and_logits(model, backend)
    with closing(LogitLens(model, backend, 1)) as lens:
        looked = lens.look(outputs)
    said = Sampler(GREEDY, 1).choose(logits, PROMPT).candidates[0]
    assert len(looked) == model.graph.layers
    assert looked[-1].id == said.id
    assert looked[-1].probability == pytest.approx(said.probability, rel=1e-4)
    assert all(0 < candidate.probability <= 1 for candidate in looked)


def test_layers_are_told_apart(model: Model) -> None:
    outputs, _ = outputs_and_logits(model, "numpy")
    with closing(LogitLens(model, "numpy", 1)) as lens:
        assert lens.look(outputs[::-1])[0] == lens.look(outputs)[-1]
        assert lens.look(outputs)[0] != lens.look(outputs)[-1]


def test_layer_that_is_not_finite_names_no_token(model: Model) -> None:
    outputs, _ = outputs_and_logits(model, "numpy")
    outputs[0, 7] = np.nan
    with closing(LogitLens(model, "numpy", 1)) as lens:
        looked = lens.look(outputs)
    assert looked[0].id == NO_TOKEN
    assert np.isnan(looked[0].probability)
    assert looked[1].id != NO_TOKEN
