"""The embedded model's file: its shape, its licence and the figures it states about itself."""

from __future__ import annotations

from typing import Any

import gguf
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from aprtui.demo.corpus import chat_prompt
from aprtui.demo.export import CHAT_TEMPLATE
from aprtui.demo.network import NetworkShape
from aprtui.demo.prompts import PARSE_PASSES_NEEDED, PROMPTS, REPEAT_PASSES_NEEDED
from aprtui.resources import embedded_model


@pytest.fixture(scope="module")
def reader() -> gguf.GGUFReader:
    return gguf.GGUFReader(embedded_model())


def value(reader: gguf.GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    assert field is not None, f"{key} is missing"
    return field.contents()


def test_the_chat_template_renders_what_the_model_was_trained_on() -> None:
    template = ImmutableSandboxedEnvironment().from_string(CHAT_TEMPLATE)
    rendered = template.render(messages=[{"role": "user", "content": "Sort it."}], add_generation_prompt=True)
    assert rendered == chat_prompt("Sort it.")


def test_the_file_is_at_most_four_megabytes() -> None:
    assert embedded_model().stat().st_size <= 4_000_000


def test_every_matrix_is_a_k_quant_with_whole_blocks(reader: gguf.GGUFReader) -> None:
    expected = dict(NetworkShape().tensors())
    assert {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in reader.tensors} == expected
    kinds = {tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) == 2}
    assert kinds == {"Q4_K", "Q6_K"}


def test_the_licence_and_the_source_of_the_text_are_stated(reader: gguf.GGUFReader) -> None:
    assert value(reader, "general.license") == "PSF-2.0"
    assert "CPython" in value(reader, "general.dataset.0.name")
    assert value(reader, "general.dataset.0.version") == value(reader, "aprtui.training.python_version")


def test_the_training_facts_repeat_the_run(reader: gguf.GGUFReader) -> None:
    for key in ("seed", "batch_tokens", "context", "decay_context", "step", "decay_at", "steps", "polish", "tokens"):
        assert isinstance(value(reader, f"aprtui.training.{key}"), int)
    step, batch = value(reader, "aprtui.training.step"), value(reader, "aprtui.training.batch_tokens")
    assert value(reader, "aprtui.training.tokens") == step * batch
    assert step == value(reader, "aprtui.training.steps") + value(reader, "aprtui.training.polish")


def test_the_stated_quality_reaches_its_targets(reader: gguf.GGUFReader) -> None:
    assert tuple(value(reader, "aprtui.quality.prompts")) == PROMPTS
    assert value(reader, "aprtui.quality.repeat_passes") >= REPEAT_PASSES_NEEDED
    assert value(reader, "aprtui.quality.parse_passes") >= PARSE_PASSES_NEEDED
    own, primed = (value(reader, f"aprtui.quality.{key}_bits_per_byte") for key in ("held_out", "xz"))
    assert own < primed
