from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from aprtui.engine.generation import PREFILL_CHUNK, Generation, StopReason, evaluate, generate
from aprtui.engine.protocol import Engine, Logits
from aprtui.errors import UsageError
from aprtui.model.tokenizer import Tokenizer
from tests.engine.fake_engine import FakeEngine, LetterTokenizer


def run(engine: FakeEngine, prompt: str = "abc", max_tokens: int = 4, **options: Any) -> tuple[str, Generation]:
    generation = generate(engine, cast(Tokenizer, LetterTokenizer()), prompt.encode(), max_tokens=max_tokens, **options)
    return "".join(token.text for token in generation), generation


def test_fake_engine_is_an_engine() -> None:
    engine: Engine = FakeEngine()
    assert engine.position == 0


def test_tokens_follow_the_logits_until_the_length_is_reached() -> None:
    text, generation = run(FakeEngine())
    assert text == "defg"
    assert generation.stop_reason is StopReason.LENGTH


def test_last_token_is_not_evaluated() -> None:
    engine = FakeEngine()
    run(engine)
    assert engine.calls == [list(b"abc"), [ord("d")], [ord("e")], [ord("f")]]


def test_stop_token_ends_the_generation_and_is_not_given_out() -> None:
    text, generation = run(FakeEngine(), stop_ids={ord("f")})
    assert text == "de"
    assert generation.stop_reason is StopReason.STOP_TOKEN


def test_full_context_ends_the_generation_without_an_error() -> None:
    text, generation = run(FakeEngine(context=5), max_tokens=50)
    assert text == "def"
    assert generation.stop_reason is StopReason.CONTEXT_FULL


def test_prompt_that_fills_the_context_still_gives_one_token() -> None:
    text, generation = run(FakeEngine(context=3), max_tokens=50)
    assert text == "d"
    assert generation.stop_reason is StopReason.CONTEXT_FULL


def test_cancelling_is_honoured_before_the_next_pass() -> None:
    engine = FakeEngine()
    text, generation = run(engine, max_tokens=50, cancelled=lambda: len(engine.calls) == 2)
    assert text == "de"
    assert generation.stop_reason is StopReason.CANCELLED


def test_long_prompt_can_be_cancelled_between_chunks() -> None:
    engine = FakeEngine(context=4 * PREFILL_CHUNK)
    text, generation = run(engine, "a" * (2 * PREFILL_CHUNK + 1), cancelled=lambda: len(engine.calls) == 1)
    assert text == ""
    assert generation.stop_reason is StopReason.CANCELLED
    assert len(engine.calls) == 1


def test_no_chunk_of_a_long_prompt_is_a_single_token() -> None:
    engine = FakeEngine(context=4 * PREFILL_CHUNK)
    run(engine, "a" * (PREFILL_CHUNK + 1), max_tokens=1)
    assert [len(call) for call in engine.calls] == [257, 256]


@pytest.mark.parametrize("prompt", ["", "abcdef"])
def test_prompt_that_does_not_fit_is_refused_before_anything_is_evaluated(prompt: str) -> None:
    engine = FakeEngine(context=5)
    with pytest.raises(UsageError, match="has no tokens" if not prompt else "6 tokens, the context has room for 5"):
        run(engine, prompt)
    assert not engine.calls


def test_asking_for_no_tokens_is_refused() -> None:
    with pytest.raises(UsageError, match="expected at least 1"):
        run(FakeEngine(), max_tokens=0)


def test_a_second_generation_starts_from_an_empty_context() -> None:
    engine = FakeEngine(context=6)
    assert run(engine)[0] == run(engine)[0] == "defg"
    assert engine.position == engine.context


def test_positions_count_on_from_the_prompt() -> None:
    tokens = list(generate(FakeEngine(), None, [1, 2, 3], max_tokens=3))
    assert [token.position for token in tokens] == [3, 4, 5]
    assert [token.text for token in tokens] == ["", "", ""]


def test_character_cut_by_the_end_is_shown_as_replacement_in_the_tail() -> None:
    class Halves(LetterTokenizer):
        def token_bytes(self, token: int) -> bytes:
            return "é".encode()[:1]

    generation = generate(FakeEngine(), cast(Tokenizer, Halves()), [1], max_tokens=1)
    assert [token.text for token in generation] == [""]
    assert generation.tail == "�"


def test_speed_counts_decode_passes_and_leaves_pauses_out() -> None:
    generation = generate(FakeEngine(delay=0.01), None, [1, 2], max_tokens=4)
    for _ in generation:
        pass
    timing = generation.timing
    assert (timing.prompt_tokens, timing.decoded_tokens) == (2, 3)
    assert timing.prefill_seconds >= 0.02
    assert 0 < timing.tokens_per_second <= 100
    assert 0 < timing.prefill_tokens_per_second <= 100


@pytest.mark.parametrize("prefill", [1, 3, 5])
def test_evaluation_prefills_k_and_decodes_the_rest(prefill: int) -> None:
    engine = FakeEngine()
    logits = evaluate(engine, [1, 2, 3, 4, 5], prefill=prefill, logits=Logits.ALL)
    assert [len(call) for call in engine.calls] == [prefill] + [1] * (5 - prefill)
    assert np.argmax(logits, axis=1).tolist() == [2, 3, 4, 5, 6]
    assert evaluate(engine, [1, 2, 3, 4, 5], prefill=prefill).shape == (1, 128)


@pytest.mark.parametrize("prefill", [0, 4])
def test_prefill_outside_the_tokens_is_a_usage_error(prefill: int) -> None:
    with pytest.raises(UsageError, match="expected 1 … 3"):
        evaluate(FakeEngine(), [1, 2, 3], prefill=prefill)
