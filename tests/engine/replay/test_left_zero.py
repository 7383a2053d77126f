"""A run of channels that was left zero is no rounding, and is the fault of the product that holds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from aprtui.compare.align.pairing import StagePair
from aprtui.compare.comparison import Comparison
from aprtui.compare.left_zero import left_zero
from aprtui.compare.verdict import Verdict
from aprtui.trace.graph.ops import Axis
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import relative_path
from tests.engine.embedded_captures import TOKENS, Values, edit

NODE = Node(1, "ffn_out")
OWN = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)


def _found(first: int, end: int, own: Values = OWN) -> str | None:
    found = OWN.copy()
    found[:, first:end] = 0
    verdict = left_zero(StagePair(NODE, own, found, (Axis.TOKEN, Axis.CHANNEL), 0, ""))
    return None if verdict is None else verdict.reason


def test_a_run_of_zeros_is_found() -> None:
    assert _found(56, 64) == "channels 56–63 are 0 at 3 tokens: no rounding makes them so, no stage before"


def test_few_zeros_may_be_chance() -> None:
    assert _found(57, 64) is None


def test_zeros_where_the_model_has_small_values_are_a_coarse_type() -> None:
    small = OWN.copy()
    small[:, 40:] *= 0.01
    assert _found(40, 64, small) is None and _found(40, 64) is not None


def test_zeros_among_zeros_are_a_coarse_type() -> None:
    coarse = np.where(np.abs(OWN) < 0.1, 0, OWN).astype(np.float32)
    coarse[:, 56:] = 0
    assert left_zero(StagePair(NODE, OWN, coarse, (Axis.TOKEN, Axis.CHANNEL), 0, "")) is None


def test_what_the_model_has_zero_as_well_is_no_fault() -> None:
    """As in a layer that was pruned, or NaN in what the model makes of it."""
    for own in (np.zeros_like(OWN), np.full_like(OWN, np.nan)):
        assert left_zero(StagePair(NODE, own, np.zeros_like(OWN), (Axis.TOKEN, Axis.CHANNEL), 0, "")) is None
        assert _found(56, 64, own) is None


def test_it_is_named_behind_stages_that_were_not_captured(
    without_manifest: Path, replay: Callable[..., Comparison]
) -> None:
    logits = Node(None, "lm_head")
    for path in without_manifest.rglob("*.bin"):
        if path != without_manifest / relative_path(logits) and path.name != "embedding.bin":
            path.unlink()

    def tail(values: Values) -> None:
        values[..., -40:] = 0

    edit(without_manifest, logits, tail)
    result = replay(without_manifest, tokens=TOKENS)
    divergence = result.first_divergence
    assert result.verdict is Verdict.FAIL and divergence is not None
    assert divergence.verdict.node == logits and len(divergence.segment) <= 1 and not divergence.place
    assert [cause.nodes for cause in result.causes] == [(logits,)]
