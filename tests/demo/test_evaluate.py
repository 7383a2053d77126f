"""The measurement of the embedded model with PyTorch: every held-out token is scored exactly once."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from aprtui.demo.corpus import Document
from aprtui.demo.evaluate import SCORING_CONTEXT, complete, held_out_bits
from aprtui.demo.network import NetworkShape, initial_weights, load_torch
from aprtui.demo.prompts import TOKENS
from aprtui.demo.vocabulary import Vocabulary, load_vocabulary, train_vocabulary

TINY = NetworkShape(vocabulary=300, hidden=64, layers=1, heads=2, kv_heads=1, feed_forward=64)


@pytest.fixture
def vocabulary(tmp_path: Path) -> Vocabulary:
    train_vocabulary(["def f(x):\n    return x\n" * 50], TINY.vocabulary).save(str(tmp_path / "tokenizer.json"))
    loaded = load_vocabulary(tmp_path / "tokenizer.json")
    assert len(loaded.tokens) <= TINY.vocabulary
    return loaded


@pytest.mark.group("torch")
def test_a_model_that_knows_nothing_needs_the_same_bits_for_every_token(vocabulary: Vocabulary) -> None:
    weights = initial_weights(TINY, seed=0)
    weights["token_embd.weight"].zero_()
    lengths = (0.4, 1.0, 1.3, 2.6)
    documents = tuple(Document(f"{n}.py", "+-" * round(n * SCORING_CONTEXT / 2)) for n in lengths)
    tokens = sum(len(vocabulary.encode(document.text)) for document in documents)
    assert tokens > 4 * SCORING_CONTEXT
    assert held_out_bits(TINY, weights, vocabulary, documents) == pytest.approx(tokens * math.log2(300), rel=1e-5)


@pytest.mark.group("torch")
def test_windows_do_not_change_what_a_short_context_model_predicts(vocabulary: Vocabulary) -> None:
    weights = initial_weights(TINY, seed=0)  # its residual outputs are zero: each token depends on the one before
    text = "def f(x):\n" * 300
    bits = held_out_bits(TINY, weights, vocabulary, (Document("a.py", text),))
    torch, embedding = load_torch(), weights["token_embd.weight"]
    ids = torch.tensor([vocabulary.end_of_text, *vocabulary.encode(text)])
    normed = torch.nn.functional.rms_norm(embedding[ids[:-1]], (TINY.hidden,), eps=TINY.norm_epsilon)
    expected = torch.nn.functional.cross_entropy(normed @ embedding.T, ids[1:], reduction="sum")
    assert bits == pytest.approx(float(expected) / math.log(2), rel=1e-5)


@pytest.mark.group("torch")
def test_a_completion_repeats_itself_and_ends_in_time(vocabulary: Vocabulary) -> None:
    weights = initial_weights(TINY, seed=0)
    first, second = (complete(TINY, weights, vocabulary, "def f(x):") for _ in range(2))
    assert first == second
    assert 0 < first.tokens <= TOKENS
