"""What logits that are served leave out, and of which tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.align.pairing import StagePair, Unpaired
from aprtui.compare.align.served_logits import ServedLogits, served_alike, served_logits
from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict, parse_tolerance
from aprtui.model.vocabulary import TokenType, Vocabulary, VocabularyKind
from aprtui.trace.aprt import write_aprt
from aprtui.trace.capture import Capture
from aprtui.trace.graph.ops import Axis
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import relative_path

NODE = Node(None, "lm_head")
VOCABULARY = 40
UNUSED = range(36, VOCABULARY)
LOGITS = np.random.default_rng(0).normal(0, 4, (3, VOCABULARY)).astype(np.float32)


def _served(values: np.ndarray, unused: range = UNUSED) -> ServedLogits | str | None:
    return served_logits(values.reshape(-1), VOCABULARY, (1, 3), unused)


def test_plain_logits_are_left_as_they_are() -> None:
    assert _served(LOGITS) is None


def test_tokens_that_are_not_in_use_may_be_cut_off_or_zero() -> None:
    zero = LOGITS.copy()
    zero[:, 36:] = 0
    for values, said in ((LOGITS[:, :36], "4 logits of tokens that are not in use left out"), (zero, "12 logits")):
        served = _served(values)
        assert isinstance(served, ServedLogits) and served.words.startswith(said)
        assert np.array_equal(np.flatnonzero(served.left_out[0]), UNUSED)
        assert np.array_equal(served.values, zero) and np.array_equal(served.alike(LOGITS), zero)
        assert np.array_equal(served.alike(LOGITS[-1:]), zero[-1:])


def test_tokens_that_are_in_use_may_not() -> None:
    zero = LOGITS.copy()
    zero[:, 36:] = 0
    assert _served(LOGITS[:, :35]) is None and _served(zero, range(37, 40)) is not None
    assert _served(zero, range(40, 40)) is None


def test_a_mask_may_differ_from_token_to_token() -> None:
    masked = LOGITS.copy()
    masked[0, 3], masked[2, 5] = -np.inf, -np.inf
    served = _served(masked)
    assert isinstance(served, ServedLogits) and served.words == "2 logits (tokens 3 … 5) masked (-inf)"
    assert served.left_out.sum() == 2 and np.array_equal(served.alike(LOGITS)[1], LOGITS[1])


def test_a_row_that_is_lost_is_no_mask() -> None:
    lost = LOGITS.copy()
    lost[1] = -np.inf
    said = "holds 40 of 120 logits masked, as a sampler does: capture logits (transformers: output_logits=True)"
    assert _served(lost) == said


def test_values_that_overflowed_are_no_mask() -> None:
    large = LOGITS * 1e4
    assert _served(large) is None


def test_log_probabilities_of_all_but_masked_tokens() -> None:
    masked = np.where(np.arange(VOCABULARY) < 2, -np.inf, LOGITS)
    found = masked - np.log(np.exp(masked).sum(1, keepdims=True))
    served = _served(found.astype(np.float16).astype(np.float32))
    assert isinstance(served, ServedLogits) and served.is_log_probability
    np.testing.assert_allclose(served.alike(LOGITS), np.where(np.isinf(found), 0, found), atol=2e-3)


def test_logits_whose_powers_add_up_to_nearly_1_stay_logits() -> None:
    """As those of models that were trained to have it so (z-loss)."""
    near = LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True)) + np.float32(0.03)
    served = _served(near)
    assert isinstance(served, ServedLogits)
    np.testing.assert_array_equal(served.alike(near), near)
    pair = served_alike(_pair(near, near + np.float32(0.025)))
    assert isinstance(pair, StagePair) and np.array_equal(pair.a, near) and pair.matched == ""


@pytest.mark.parametrize("lost", [slice(20, 40), slice(30, 40)], ids=["half", "a quarter"])
def test_a_part_that_was_lost_of_a_vocabulary_that_is_split_is_no_mask(lost: slice) -> None:
    masked = LOGITS.copy()
    masked[:, lost] = -np.inf
    served, pair = _served(masked), served_alike(_pair(LOGITS, masked))
    assert isinstance(served, str) and isinstance(pair, Unpaired) and pair.reason == f"B {served}"


def _pair(a: np.ndarray, b: np.ndarray) -> StagePair:
    return StagePair(NODE, a, b, (Axis.TOKEN, Axis.VOCABULARY), 0, "")


def _masked(values: np.ndarray, mask: float) -> np.ndarray:
    return np.where(np.arange(values.shape[-1]) >= values.shape[-1] - 2, np.float32(mask), values)


@pytest.mark.parametrize("masks", [(-np.inf, -1e9), (-1e9, -1e9), (-np.inf, 0.5)])
def test_what_is_masked_counts_on_neither_side(masks: tuple[float, float]) -> None:
    pair = served_alike(_pair(_masked(LOGITS, masks[0]), _masked(LOGITS, masks[1])))
    assert isinstance(pair, StagePair) and pair.matched == "; 6 logits (tokens 38–39) masked, left out"
    zero = _masked(LOGITS, 0)
    assert np.array_equal(pair.a, zero) and np.array_equal(pair.b, zero)


def _compared(folder: Path, a: np.ndarray, b: np.ndarray, tokens: int) -> Comparison:
    """Two captures that nothing but token ids goes with."""
    for name, values in (("a", a), ("b", b)):
        (folder / name).mkdir()
        (folder / name / "_PROVENANCE.txt").write_text(f"tokens: {list(range(1, tokens + 1))}\n")
        write_aprt(folder / name / relative_path(NODE), None, values.astype(np.float32))
    options = DiffOptions(tolerances=(parse_tolerance("rel_l2=1e-3"),))
    return compare_captures(Capture.open(folder / "a"), Capture.open(folder / "b"), options)


def test_masks_of_logits_of_unknown_shape_are_left_out(tmp_path: Path) -> None:
    (logits,) = _compared(tmp_path, _masked(LOGITS[0], -np.inf), LOGITS[0], 4).stages
    assert logits.verdict.verdict is Verdict.PASS and logits.matched.endswith("unknown; 2 logits masked, left out")


def test_a_finite_mask_on_both_sides_hides_no_fault(tmp_path: Path) -> None:
    (logits,) = _compared(tmp_path, _masked(LOGITS[0], -1e30), _masked(LOGITS[0] * 1.1, -1e30), 4).stages
    assert logits.verdict.verdict is Verdict.FAIL


def test_a_padded_vocabulary_is_not_cut_where_the_rows_are_not_known(tmp_path: Path) -> None:
    """One row of 1024 and one of 1032 are as many values as four of 256 and four of 258."""
    wide = np.random.default_rng(0).normal(0, 4, 1032)
    (logits,) = _compared(tmp_path, wide[:1024], wide, 4).skipped
    assert logits.reason.startswith("A holds 1024 values, B 1032, and no token count tells")


def test_the_last_tokens_without_a_text_are_not_in_use() -> None:
    types = (TokenType.NORMAL, TokenType.UNUSED, TokenType.CONTROL, TokenType.UNUSED, TokenType.UNUSED)
    texts = ("a", "[PAD1]", "<s>", "[PAD3]", "[PAD4]")
    vocabulary = Vocabulary(
        "", VocabularyKind.BYTE_PAIR, texts, types, None, None, False, False, False, frozenset(), ()
    )
    assert vocabulary.in_use == 3
