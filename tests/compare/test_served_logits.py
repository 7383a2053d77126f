"""What logits that are served leave out, and of which tokens."""

from __future__ import annotations

import numpy as np

from aprtui.compare.align.served_logits import ServedLogits, served_logits
from aprtui.model.vocabulary import TokenType, Vocabulary, VocabularyKind

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
    np.testing.assert_allclose(served.alike(LOGITS), np.where(np.isinf(found), 0, found), atol=1e-5)


def test_the_last_tokens_without_a_text_are_not_in_use() -> None:
    types = (TokenType.NORMAL, TokenType.UNUSED, TokenType.CONTROL, TokenType.UNUSED, TokenType.UNUSED)
    texts = ("a", "[PAD1]", "<s>", "[PAD3]", "[PAD4]")
    vocabulary = Vocabulary(
        "", VocabularyKind.BYTE_PAIR, texts, types, None, None, False, False, False, frozenset(), ()
    )
    assert vocabulary.in_use == 3
