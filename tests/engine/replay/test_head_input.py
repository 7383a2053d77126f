"""Logits tell what the input of the product that makes them was rounded to."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.engine.evaluation.arithmetics import ARITHMETICS, stage_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, write_kind
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.head_input import is_rounded_to
from aprtui.engine.replay.recompute import CapturedStages
from aprtui.model.model import Model
from tests.engine.embedded_captures import TOKENS

ENGINES = {
    "float32": set[str](),
    "llama.cpp, f16 K/V": {"q8", "int8"},  # Q6_K takes one scale for 256 channels, which are all there are
    "q8_1": {"q8_0", "q8_1"},
    "float16, float32 logits": {"f16", "tf32"},
    "float32, bf16 products": {"bf16", "f16", "tf32"},
    "fp8 a token": {"fp8_row"},
    "float32, q4_0 K/V": set[str](),
}
TRIED = ("q8", "q8_0", "q8_1", "f16", "bf16", "tf32", "fp8_row", "int8")


@pytest.mark.parametrize("engine", ENGINES)
def test_logits_tell_what_their_input_was_rounded_to(
    engine: str, model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    tensors = stage_tensors(ARITHMETICS[engine], model, TOKENS, evaluators)
    capture = write_kind(CAPTURE_KINDS["logits"], tensors, model.graph, TOKENS, tmp_path / "logits")
    stages = CapturedStages(capture, model, TOKENS)
    assert {kind for kind in TRIED if is_rounded_to(stages, kind)} == ENGINES[engine]


@pytest.mark.parametrize("engine", ["float16", "bfloat16"])
def test_logits_in_16_bits_do_not(engine: str, model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    tensors = stage_tensors(ARITHMETICS[engine], model, TOKENS, evaluators)
    capture = write_kind(CAPTURE_KINDS["logits"], tensors, model.graph, TOKENS, tmp_path / "logits")
    stages = CapturedStages(capture, model, TOKENS)
    assert {is_rounded_to(stages, kind) for kind in TRIED} == {None}


def test_a_capture_without_logits_tells_nothing(model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    tensors = stage_tensors(ARITHMETICS["float32"], model, TOKENS, evaluators)
    capture = write_kind(CAPTURE_KINDS["two layers"], tensors, model.graph, TOKENS, tmp_path / "layers")
    assert is_rounded_to(CapturedStages(capture, model, TOKENS), "q8") is None
