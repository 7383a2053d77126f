"""Layers without RoPE: which they are, and that queries and keys go through them as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aprtui.engine.reference.evaluate import NumpyNodes
from aprtui.errors import UnreadableError
from aprtui.model.facts import described, model_facts
from aprtui.model.model import load_model
from aprtui.trace.graph.stage import Node
from tests.model.gguf_files import model_file, write_model


def test_every_fourth_layer_has_no_rope(tmp_path: Path) -> None:
    graph = load_model(write_model(tmp_path / "model.gguf", architecture="smollm3", layers=9, ffn=256)).graph
    assert graph.config is not None
    assert [layer for layer in range(9) if not graph.config.has_rope(layer)] == [3, 7]
    assert graph.layer_marks == (*"   -   - ",)
    short = load_model(write_model(tmp_path / "short.gguf", architecture="smollm3", layers=3, ffn=256)).config.graph
    assert short.no_rope == ()


def test_queries_and_keys_stay_as_they_are_there_to_the_bit(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "model.gguf", architecture="smollm3", layers=4, ffn=256))
    x = np.random.default_rng(0).standard_normal((3, model.config.graph.kv_width), np.float32)
    x[1, 2] = np.inf
    found = [
        NumpyNodes(model).evaluate(Node(layer, "k_post_rope"), [x], tokens=[1, 2, 3], position=5) for layer in (2, 3)
    ]
    assert not np.array_equal(found[0], x, equal_nan=True)
    np.testing.assert_array_equal(found[1], x)


def test_the_layers_are_listed_by_their_kind(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", architecture="smollm3", layers=5, ffn=256)
    rows = list(described(model_facts(load_model(path))))
    at = next(number for number, (name, _) in enumerate(rows) if name == "layer kinds")
    assert rows[at : at + 2] == [("layer kinds", "RoPE: 0–2, 4"), ("", "- no RoPE: 3")]


def test_a_key_that_would_set_the_scale_of_scores_is_refused_by_name(tmp_path: Path) -> None:
    file = model_file(architecture="smollm3")
    file.metadata["smollm3.attention.scale"] = 0.5
    with pytest.raises(UnreadableError, match=r"smollm3\.attention\.scale is 0\.5"):
        load_model(file.write(tmp_path / "model.gguf"))
