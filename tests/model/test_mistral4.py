"""What the metadata of Mistral Small 4 say, and what is refused of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aprtui.errors import UnreadableError
from aprtui.model.config import QueryTemperature
from aprtui.model.model import Model, load_model
from aprtui.trace.graph.config import ExpertGroups, GroupScore, Router
from tests.model.gguf_files import model_file


def opened(folder: Path, **changes: Any) -> Model:
    """A small model with other metadata; None takes a key out."""
    file = model_file(architecture="mistral4", hidden=64, query_rank=32)
    for key, value in ((name.replace("__", "."), value) for name, value in changes.items()):
        file.metadata.pop(f"mistral4.{key}", None)
        if value is not None:
            file.metadata[f"mistral4.{key}"] = value
    return load_model(file.write(folder / "model.gguf"))


def test_queries_of_latent_attention_grow_where_the_file_says_so(tmp_path: Path) -> None:
    model = opened(tmp_path, attention__temperature_scale=0.25)
    assert model.config.query_temperature == QueryTemperature(0.25, 8)
    assert [model.graph["attn_scores"].inputs[0].stage, model.graph["q_temp_scaled"].inputs[0].stage] == [
        "q_temp_scaled", "q_latent",
    ]  # fmt: skip
    graph = model.config.graph
    assert (graph.router, graph.router_bias, graph.normalised_experts) == (Router.SOFTMAX, False, True)
    for scale in (None, 0.0):
        plain = opened(tmp_path, attention__temperature_scale=scale)
        assert "q_temp_scaled" not in plain.graph and plain.config.query_temperature is None


@pytest.mark.parametrize("scale", [0.1, 0.0])
def test_groups_of_experts_are_as_good_as_their_best_two(tmp_path: Path, scale: float) -> None:
    groups = {"expert_group_count": 4, "expert_group_used_count": 2}
    model = opened(tmp_path, attention__temperature_scale=scale, **groups)
    assert model.config.graph.expert_groups == ExpertGroups(4, 2, GroupScore.TWO_LARGEST)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("attention.temperature_scale", -0.5, "is -0.5, expected a number"),
        ("attention.temperature_length", 0, "is 0, expected one whole number"),
        ("attention.temperature_length", None, "is missing"),
        ("rope.scaling.yarn_log_multiplier", 0.5, "is 0.5, expected 0.1: engines differ"),
        ("expert_gating_func", 2, "is 2"),
        ("expert_group_count", 3, "is 3, expected a divisor of the 8 experts"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, key: str, value: Any, said: str) -> None:
    with pytest.raises(UnreadableError, match=rf"mistral4\.{key.replace('.', '[.]')} {said}"):
        opened(tmp_path, **{key.replace(".", "__"): value})
