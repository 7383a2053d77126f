"""Keys and values may be cached in types of their own, and a softmax be kept in 16 bits, without rounding the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.evaluation.arithmetics import ARITHMETICS, stage_tensors
from aprtui.engine.evaluation.capture_kinds import CAPTURE_KINDS, write_kind
from aprtui.engine.replay.arithmetic import UNROUNDED, Recomputation, parse_rounding
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.engine.rounding import ROUND
from aprtui.model.model import Model
from aprtui.trace.graph.stage import Node
from tests.engine.embedded_captures import TOKENS

Array = NDArray[np.float32]


class Inputs:
    """An evaluator that keeps what it is given."""

    def __init__(self) -> None:
        self.seen: list[Sequence[Array]] = []

    def evaluate(self, node: Node, inputs: Sequence[Array], *, tokens: Sequence[int], position: int) -> Array:
        self.seen.append(inputs)
        return np.zeros((1, 1), np.float32)

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("stated", "queries", "keys", "probabilities", "values"),
    [
        ("kv_cache=q8_0+f16", "none", "q8_0", "none", "f16"),
        ("kv_cache=q4_0+f32", "none", "q4_0", "none", "none"),
        ("softmax=bf16_kept", "none", "none", "bf16", "none"),
        ("kv_cache=f16,softmax=f16", "f16", "f16", "f16", "f16"),
    ],
)
def test_each_factor_is_rounded_to_its_own_type(
    model: Model, stated: str, queries: str, keys: str, probabilities: str, values: str
) -> None:
    engine = Inputs()
    rounding = replace(UNROUNDED, **parse_rounding(stated))
    recomputation = Recomputation(model, rounding, lambda angles: engine)
    random = np.random.default_rng(1)
    factors = [random.standard_normal((len(TOKENS), 128)).astype(np.float32) for _ in range(2)]
    for stage, kinds in (("attn_scores", (queries, keys)), ("attention", (probabilities, values))):
        recomputation.evaluate(Node(0, stage), factors, TOKENS)
        for found, factor, kind in zip(engine.seen[-1], factors, kinds, strict=True):
            np.testing.assert_array_equal(found, ROUND[kind](factor))


@pytest.mark.parametrize("kind", ["no attention maps", "layer outputs", "two stages a layer", "logits"])
@pytest.mark.parametrize("arithmetic", ["float32, bf16 softmax", "float32, f16 softmax"])
def test_a_softmax_kept_in_16_bits_is_found_out_where_no_maps_show_it(
    model: Model, evaluators: Evaluators, tmp_path: Path, arithmetic: str, kind: str
) -> None:
    tensors = stage_tensors(ARITHMETICS[arithmetic], model, TOKENS, evaluators)
    capture = write_kind(CAPTURE_KINDS[kind], tensors, model.graph, TOKENS, tmp_path / "capture")
    result = replay_capture(capture, model, ReplayOptions(), evaluators)
    assert result.verdict is Verdict.PASS, result.reasons
    assert f"softmax={'bf16' if 'bf16' in arithmetic else 'f16'}_kept" in result.statements[0]


def without_scores(
    model: Model, evaluators: Evaluators, folder: Path, arithmetic: str, faulty: Sequence[int] = (), factor: float = 1.0
) -> Comparison:
    """The replay of a capture as hooks in PyTorch leave it: probabilities and no scores. Those of the `faulty` layers
    are of scores times `factor`."""

    def change(node: Node, values: Array) -> Array:
        return values * np.float32(factor) if node.stage == "attn_scores" and node.layer in faulty else values

    tensors = stage_tensors(ARITHMETICS[arithmetic], model, TOKENS, evaluators, change=change)
    held = {node: values for node, values in tensors.items() if node.stage != "attn_scores"}
    capture = write_kind(CAPTURE_KINDS["complete"], held, model.graph, TOKENS, folder / "capture")
    return replay_capture(capture, model, ReplayOptions(), evaluators)


@pytest.mark.parametrize("faulty", [(2,), (0, 1, 2, 3)])
def test_probabilities_tell_the_type_of_keys_where_scores_were_not_captured(
    model: Model, evaluators: Evaluators, tmp_path: Path, faulty: Sequence[int]
) -> None:
    """A wrong scale is no type of keys, in one layer or in all."""
    result = without_scores(model, evaluators, tmp_path, "float32", faulty, 0.95)
    assert result.first_divergence is not None
    assert result.first_divergence.verdict.node == Node(faulty[0], "attn_softmax")


@pytest.mark.parametrize("arithmetic", ["float32, q4_0 K/V", "float32, f16 attention", "llama.cpp, f16 K/V"])
def test_an_honest_engine_passes_without_scores(
    model: Model, evaluators: Evaluators, tmp_path: Path, arithmetic: str
) -> None:
    assert without_scores(model, evaluators, tmp_path, arithmetic).verdict is Verdict.PASS
