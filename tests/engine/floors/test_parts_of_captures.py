"""The measured floor between two captures that hold few stages: for exactly the stages that are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.evaluation.arithmetics import ARITHMETICS, stage_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, write_kind
from aprtui.engine.floors.criteria import criteria_by_model
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.identify import FoundEngine, identify
from aprtui.model.model import Model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.engine.embedded_captures import TOKENS
from tests.thinning import often

Values = NDArray[np.float32]
ENGINES = ("float32", "llama.cpp, f16 K/V", "bfloat16", "bfloat16, float32 residual")


@pytest.fixture(scope="module")
def floors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Floors are measured once for all tests here, and kept from those of the user."""
    folder = tmp_path_factory.mktemp("floors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aprtui.engine.floors.criteria.floor_cache", lambda: folder)
        yield


@pytest.fixture
def capture_of(model: Model, evaluators: Evaluators, tmp_path: Path, floors: None) -> Callable[..., Capture]:
    def make(
        engine: str, kind: str, at: Node | None = None, change: Callable[[Values], Values] = np.copy, seed: int = 0
    ) -> Capture:
        tensors = stage_tensors(
            ARITHMETICS[engine], model, TOKENS, evaluators, seed=seed,
            change=lambda node, values: change(values) if node == at else values,
        )  # fmt: skip
        return write_kind(CAPTURE_KINDS[kind], tensors, model.graph, TOKENS, tmp_path / f"{engine}-{seed}-{at}")

    return make


def compared(a: Capture, b: Capture, model: Model, evaluators: Evaluators) -> Comparison:
    criteria = criteria_by_model(a, b, model, TOKENS, evaluators)
    return compare_captures(a, b, DiffOptions(tokens=TOKENS), None, criteria)


PAIRS = list(combinations(ENGINES, 2))


@pytest.mark.parametrize(
    ("engines", "kind"),
    often(
        product(PAIRS, ("layer outputs", "two stages a layer", "layer outputs in bf16", "last token")),
        [(PAIRS[0], "layer outputs"), (PAIRS[1], "two stages a layer"), (PAIRS[-1], "last token")],
    ),
)
def test_two_honest_engines_are_no_divergence(
    model: Model, evaluators: Evaluators, capture_of: Callable[..., Capture], engines: tuple[str, str], kind: str
) -> None:
    a, b = (capture_of(engine, kind, seed=seed) for seed, engine in enumerate(engines))
    result = compared(a, b, model, evaluators)
    assert result.verdict is not Verdict.FAIL, result.first_divergence
    assert result.verdict is Verdict.PASS or all(result.reasons)


@pytest.mark.parametrize("engine", often(["float32", "llama.cpp, f16 K/V"], {"llama.cpp, f16 K/V"}))
def test_a_fault_is_found_at_the_output_of_its_layer(
    model: Model, evaluators: Evaluators, capture_of: Callable[..., Capture], engine: str
) -> None:
    honest = capture_of("float32", "layer outputs")
    faulty = capture_of(engine, "layer outputs", Node(2, "ffn_swigl"), lambda values: values * np.float32(3), seed=1)
    result = compared(honest, faulty, model, evaluators)
    assert result.verdict is Verdict.FAIL
    assert result.first_divergence is not None
    assert result.first_divergence.verdict.node == Node(2, "post_ffn_residual")
    assert Node(2, "ffn_swigl") in result.first_divergence.segment


def test_the_rows_of_a_capture_of_the_last_token_are_that_token(
    model: Model, evaluators: Evaluators, capture_of: Callable[..., Capture]
) -> None:
    """Its files have as many values as 13 tokens of another width would."""
    a, b = capture_of("float32", "last token"), capture_of("float32", "last token", seed=1)
    result = compared(a, b, model, evaluators)
    assert result.verdict is Verdict.PASS
    shapes = {stage.shape[0] for stage in result.stages}
    assert shapes == {1} and {stage.first_token for stage in result.stages} == {len(TOKENS) - 1}


@pytest.mark.parametrize("kind", often(["layer outputs", "last token", "complete"], {"last token"}))
def test_the_engine_of_a_side_is_found_out_once(
    model: Model, evaluators: Evaluators, capture_of: Callable[..., Capture], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The floor needs it, and the replay of the side does."""
    calls = []

    def counted(*arguments: Any, **options: Any) -> FoundEngine:
        calls.append(arguments)
        return identify(*arguments, **options)

    monkeypatch.setattr("aprtui.engine.replay.identify.identify", counted)
    result = compared(capture_of("float32", kind), capture_of("q8_1", kind, seed=1), model, evaluators)
    assert result.verdict is not Verdict.FAIL
    assert len(calls) == 2
