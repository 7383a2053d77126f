"""Logits as engines serve them are judged by what both sides have; faults of logits stay faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict, parse_tolerance
from aprtui.trace.aprt import write_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import relative_path
from tests.engine.embedded_captures import TOKENS

LOGITS = Node(None, "lm_head")
Values = NDArray[np.float32]
Edit = Callable[[Values], Values]


def _put(tokens: slice | int, value: float) -> Edit:
    def edit(values: Values) -> Values:
        values = values.copy()
        values[tokens] = value
        return values

    return edit


def _as_they_are(values: Values) -> Values:
    return values


def _log_probabilities(values: Values) -> Values:
    wide = values.astype(np.float64)
    found: Values = (wide - np.log(np.exp(wide).sum())).astype(np.float32)
    return found


def _summed_in_float32(values: Values) -> Values:
    return _log_probabilities(values) + np.float32(1e-4)


def _probabilities(values: Values) -> Values:
    return np.exp(_log_probabilities(values))


def _padded(values: Values) -> Values:
    return np.pad(values, (0, 24))


def _resized(values: Values) -> Values:
    return np.concatenate([values, np.arange(24, dtype=np.float32)])


def _of_sampler(values: Values) -> Values:
    return np.where(values >= np.sort(values)[-50], values, np.float32(-np.inf))


def _masked_and_scaled(values: Values) -> Values:
    return _put(slice(-20, None), -np.inf)(values * np.float32(1.5))


@pytest.fixture
def held(exact: Path, tmp_path: Path) -> Callable[[Edit], Path]:
    """A capture of nothing but logits, as `edit` leaves them."""

    def write(edit: Edit) -> Path:
        folder = tmp_path / "served"
        folder.mkdir()
        (folder / "_PROVENANCE.txt").write_text(f"tokens: {list(TOKENS)}\n")
        values = np.asarray(Capture.open(exact).values(LOGITS)).reshape(-1)
        write_aprt(folder / relative_path(LOGITS), None, edit(values))
        return folder

    return write


SERVED = [
    pytest.param(_put(slice(-20, None), -np.inf), "20 logits (tokens 2028–2047) masked (-inf)", id="masked by −Inf"),
    pytest.param(_put(7, float(np.finfo(np.float32).min)), "1 logit (token 7) masked", id="masked by the least number"),
    pytest.param(_padded, "24 logits behind the vocabulary left out", id="padded"),
    pytest.param(_log_probabilities, "lm_head: log-probabilities", id="log-probabilities"),
    pytest.param(_summed_in_float32, "lm_head: log-probabilities", id="log-probabilities of a sum in float32"),
]


@pytest.mark.parametrize(("edit", "said"), SERVED)
def test_logits_as_engines_serve_them_pass(
    edit: Edit, said: str, held: Callable[[Edit], Path], replay: Callable[..., Comparison]
) -> None:
    result = replay(held(edit))
    assert result.verdict is Verdict.PASS, result.reasons
    assert any(said in statement for statement in result.statements)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        pytest.param(_of_sampler, "1998 of 2048 logits masked, as a sampler does: capture logits", id="of a sampler"),
        pytest.param(_probabilities, "holds probabilities: capture logits", id="probabilities"),
        pytest.param(_resized, "holds 2072 values", id="rows of another vocabulary"),
    ],
)  # fmt: skip
def test_what_logits_cannot_be_told_from_is_not_judged(
    edit: Edit, said: str, held: Callable[[Edit], Path], replay: Callable[..., Comparison]
) -> None:
    result = replay(held(edit))
    assert result.verdict is Verdict.UNKNOWN
    assert any(said in unpaired.reason for unpaired in result.skipped)


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(_put(slice(-20, None), 0.0), id="zeros of tokens in use"),
        pytest.param(_put(7, np.inf), id="Inf"),
        pytest.param(_put(7, np.nan), id="NaN"),
        pytest.param(_masked_and_scaled, id="masked, and wrong", marks=pytest.mark.slow),
    ],
)
def test_wrong_logits_are_no_served_ones(
    edit: Edit, held: Callable[[Edit], Path], replay: Callable[..., Comparison]
) -> None:
    result = replay(held(edit))
    assert result.verdict is Verdict.FAIL
    assert result.first_divergence is not None and result.first_divergence.verdict.node == LOGITS


@pytest.mark.slow
def test_a_number_that_is_large_beyond_all_others_has_no_cause(
    held: Callable[[Edit], Path], replay: Callable[..., Comparison]
) -> None:
    """Against it, whatever makes all values large leaves little."""
    result = replay(held(_put(7, 1e4)))
    assert result.verdict is Verdict.FAIL and not result.causes


@pytest.mark.parametrize(
    ("edit", "matched"),
    [
        pytest.param(_as_they_are, "the last token", id="plain"),
        pytest.param(_put(slice(-20, None), -np.inf), "20 logits (tokens 2028–2047) masked, left out", id="masked"),
        pytest.param(_padded, "the first 2048 tokens of the vocabulary", id="padded"),
        pytest.param(lambda values: values[:-20], "the first 2028 tokens of the vocabulary", id="cut"),
        pytest.param(_log_probabilities, "B holds log-probabilities", id="log-probabilities"),
    ],
)
def test_two_captures_are_compared_by_the_logits_that_both_have(
    edit: Edit, matched: str, exact: Path, held: Callable[[Edit], Path]
) -> None:
    options = DiffOptions(tolerances=(parse_tolerance("token_rel_l2=1e-5"),), allow_missing=("*",))
    result = compare_captures(Capture.open(exact), Capture.open(held(edit)), options)
    (logits,) = [stage for stage in result.stages if stage.node == LOGITS]
    assert logits.verdict.verdict is Verdict.PASS and logits.matched.endswith(matched)


@pytest.mark.parametrize(("edit", "said"), [(_of_sampler, "as a sampler does"), (_probabilities, "probabilities")])
def test_two_captures_are_not_compared_by_what_a_sampler_left(
    edit: Edit, said: str, exact: Path, held: Callable[[Edit], Path]
) -> None:
    result = compare_captures(Capture.open(exact), Capture.open(held(edit)), DiffOptions())
    (logits,) = [skipped for skipped in result.skipped if skipped.node == LOGITS]
    assert logits.reason.startswith("B holds") and said in logits.reason
