"""Captures that do not begin with the first token, or hold several sequences: judged where possible, never blamed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.evaluation.arithmetics import ARITHMETICS, stage_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, write_kind
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.place import position_ranges
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.engine.replay.token_ids import parts_of
from aprtui.model.model import Model
from aprtui.trace.capture import PROVENANCE, Capture
from aprtui.trace.graph.stage import Node
from tests.engine.embedded_captures import TOKENS

Array = NDArray[np.float32]
Tensors = dict[Node, Array]
MIDDLE = slice(4, 9)
NO_MAPS = "no attention maps"


@pytest.fixture
def run(model: Model, evaluators: Evaluators) -> Callable[..., Tensors]:
    def tensors(wrong: Node | None = None, arithmetic: str = "float32") -> Tensors:
        def change(node: Node, values: Array) -> Array:
            return values * np.float32(1.05) if node == wrong else values

        return stage_tensors(ARITHMETICS[arithmetic], model, TOKENS, evaluators, change=change)

    return tensors


def _rows(tensors: Tensors, rows: slice) -> Tensors:
    """The `rows` of all stages but the attention maps and the last position's logits."""
    return {node: values[rows] for node, values in tensors.items() if values.ndim == 2 and len(values) == len(TOKENS)}


@pytest.fixture
def replayed(model: Model, evaluators: Evaluators, tmp_path: Path) -> Callable[..., Comparison]:
    def replay(tensors: Tensors, kind: str, ids: Sequence[int] | None) -> Comparison:
        directory = tmp_path / "capture"
        write_kind(CAPTURE_KINDS[kind], tensors, model.graph, TOKENS, directory)
        (directory / PROVENANCE).unlink()
        options = ReplayOptions(tokens=None if ids is None else tuple(ids))
        return replay_capture(Capture.open(directory), model, options, evaluators)

    return replay


@pytest.mark.parametrize("kind", [NO_MAPS, "layer outputs", "two stages a layer"])
def test_tokens_amid_a_prompt_without_its_ids_are_not_blamed(
    run: Callable[..., Tensors], replayed: Callable[..., Comparison], kind: str
) -> None:
    result = replayed(_rows(run(), MIDDLE), kind, None)
    assert result.verdict is Verdict.UNKNOWN, result.first_divergence
    assert any("begins with the first token" in reason for reason in result.reasons)


def test_rope_tells_where_the_rows_stand(run: Callable[..., Tensors], replayed: Callable[..., Comparison]) -> None:
    assert "positions 4–8" in " ".join(replayed(_rows(run(), MIDDLE), NO_MAPS, None).reasons)


def test_ids_of_the_rows_alone_are_no_ids_of_the_prompt(
    run: Callable[..., Tensors], replayed: Callable[..., Comparison]
) -> None:
    result = replayed(_rows(run(), MIDDLE), NO_MAPS, TOKENS[MIDDLE])
    assert result.verdict is Verdict.UNKNOWN, result.first_divergence


@pytest.mark.parametrize(
    ("tokens", "parts"),
    [
        ((5, 6, 7, 8), [range(1, 3)]),
        ((6, 7, 6, 7), [range(2), range(2, 4)]),
        ((7, 6, 6, 8), []),
        ((6, 7), []),  # all of them: nothing to find
    ],
)
def test_positions_are_those_whose_tokens_the_embedding_shows(
    model: Model, tmp_path: Path, tokens: Sequence[int], parts: list[range]
) -> None:
    (table,) = model.params(Node(0, "embedding"))
    kind = CAPTURE_KINDS["stored in f16"]
    capture = write_kind(kind, {Node(0, "embedding"): table.dequantize([6, 7])}, model.graph, tokens, tmp_path)
    assert parts_of(tokens, capture, model) == parts


def test_two_sequences_in_one_capture_are_not_blamed(
    run: Callable[..., Tensors], replayed: Callable[..., Comparison]
) -> None:
    tensors = {node: np.concatenate([values, values], axis=-2) for node, values in run().items() if values.ndim == 2}
    result = replayed(tensors, NO_MAPS, None)
    assert result.verdict is Verdict.UNKNOWN, result.first_divergence
    assert "positions 0–12, 0–12" in " ".join(result.reasons)


@pytest.mark.parametrize("kind", [NO_MAPS, "layer outputs", "two stages a layer", "matrix products"])
def test_with_all_ids_tokens_amid_a_prompt_are_judged(
    run: Callable[..., Tensors], replayed: Callable[..., Comparison], kind: str
) -> None:
    result = replayed(_rows(run(), MIDDLE), kind, TOKENS)
    assert result.verdict is Verdict.PASS, (result.first_divergence, result.reasons)
    assert "the capture holds tokens 4 to 8 of the prompt" in result.statements


@pytest.mark.parametrize("kind", [NO_MAPS, "layer outputs"])
def test_a_fault_of_tokens_amid_a_prompt_is_found(
    run: Callable[..., Tensors], replayed: Callable[..., Comparison], kind: str
) -> None:
    wrong = Node(2, "post_ffn_residual" if kind == "layer outputs" else "ffn_up")
    result = replayed(_rows(run(wrong), MIDDLE), kind, TOKENS)
    assert result.verdict is Verdict.FAIL
    assert result.first_divergence is not None and result.first_divergence.verdict.node == wrong


def test_wrong_angles_everywhere_are_a_fault_where_the_attention_shows_the_place(
    run: Callable[..., Tensors], replayed: Callable[..., Comparison]
) -> None:
    """As an engine with positions off by one has them, before it captures them: what it attends to is right."""
    tensors = run()
    for node in tensors:
        if node.stage in ("q_post_rope", "k_post_rope"):
            tensors[node] = np.roll(tensors[node], 1, axis=0)
    assert replayed(tensors, "complete", None).verdict is Verdict.FAIL


def test_runs_of_positions() -> None:
    assert position_ranges((0, 1, 2, 0, 1, 5)) == "0–2, 0–1, 5"
