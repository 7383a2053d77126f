"""The measurement of the embedded model with PyTorch: every held-out token is scored exactly once."""

from __future__ import annotations

import lzma
import math
from pathlib import Path

import numpy as np
import pytest

from aprtui.demo.corpus import CorpusDocument
from aprtui.demo.evaluate import SCORING_CONTEXT, complete, draw, held_out_bits, primed_xz_bits_per_byte
from aprtui.demo.network import NetworkShape, initial_weights, load_torch
from aprtui.demo.prompts import TOKENS
from aprtui.demo.vocabulary import TrainedVocabulary, load_vocabulary, train_vocabulary

TINY = NetworkShape(vocabulary=300, hidden=64, layers=1, heads=2, kv_heads=1, feed_forward=64)


@pytest.fixture
def vocabulary(tmp_path: Path) -> TrainedVocabulary:
    train_vocabulary(["def f(x):\n    return x\n" * 50], TINY.vocabulary).save(str(tmp_path / "tokenizer.json"))
    loaded = load_vocabulary(tmp_path / "tokenizer.json")
    assert len(loaded.tokens) <= TINY.vocabulary
    return loaded


@pytest.mark.group("torch")
def test_a_model_that_knows_nothing_needs_the_same_bits_for_every_token(vocabulary: TrainedVocabulary) -> None:
    weights = initial_weights(TINY, seed=0)
    weights["token_embd.weight"].zero_()
    lengths = (0.4, 1.0, 1.3, 2.6)
    documents = tuple(CorpusDocument(f"{n}.py", "+-" * round(n * SCORING_CONTEXT / 2)) for n in lengths)
    tokens = sum(len(vocabulary.encode(document.text)) for document in documents)
    assert tokens > 4 * SCORING_CONTEXT
    assert held_out_bits(TINY, weights, vocabulary, documents) == pytest.approx(tokens * math.log2(300), rel=1e-5)


@pytest.mark.group("torch")
def test_windows_do_not_change_what_a_short_context_model_predicts(vocabulary: TrainedVocabulary) -> None:
    weights = initial_weights(TINY, seed=0)  # its residual outputs are zero: each token depends on the one before
    text = "def f(x):\n" * 300
    bits = held_out_bits(TINY, weights, vocabulary, (CorpusDocument("a.py", text),))
    torch, embedding = load_torch(), weights["token_embd.weight"]
    ids = torch.tensor([vocabulary.end_of_text, *vocabulary.encode(text)])
    normed = torch.nn.functional.rms_norm(embedding[ids[:-1]], (TINY.hidden,), eps=TINY.norm_epsilon)
    expected = torch.nn.functional.cross_entropy(normed @ embedding.T, ids[1:], reduction="sum")
    assert bits == pytest.approx(float(expected) / math.log(2), rel=1e-5)


@pytest.mark.group("torch")
def test_a_completion_repeats_itself_and_ends_in_time(vocabulary: TrainedVocabulary) -> None:
    weights = initial_weights(TINY, seed=0)
    first, second = (complete(TINY, weights, vocabulary, "def f(x):") for _ in range(2))
    assert first == second
    assert 0 < first.tokens <= TOKENS


def test_xz_pays_next_to_nothing_for_text_it_was_primed_with() -> None:
    text = np.random.default_rng(1).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    assert primed_xz_bits_per_byte(text, text) < 0.2
    assert primed_xz_bits_per_byte(b"", text) > 7.9


def test_xz_beyond_the_preset_s_dictionary_still_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def compress(content: bytes, format: int, filters: list[dict[str, int]]) -> bytes:
        sizes.append(filters[0]["dict_size"])
        return b""

    monkeypatch.setattr(lzma, "compress", compress)
    primed_xz_bits_per_byte(bytes(70 << 20), b"x")
    assert sizes == [128 << 20] * 2


def test_bits_per_byte_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        primed_xz_bits_per_byte(b"x", b"")


def test_draws_follow_the_tempered_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.25], dtype=np.float32))
    generator = np.random.Generator(np.random.PCG64(0))
    counts = np.bincount([draw(logits, 0.5, generator) for _ in range(4000)], minlength=3) / 4000
    np.testing.assert_allclose(counts, [4 / 6, 1 / 6, 1 / 6], atol=0.02)


def test_draws_depend_on_the_seed_alone() -> None:
    logits = np.random.default_rng(2).standard_normal(50).astype(np.float32)

    def draws(seed: int) -> list[int]:
        generator = np.random.Generator(np.random.PCG64(seed))
        return [draw(logits, 0.7, generator) for _ in range(20)]

    assert draws(3) == draws(3)
    assert draws(3) != draws(4)
