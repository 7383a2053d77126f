"""A conversation goes on where it was: the engine evaluates what is new, and no bit shows that it kept the rest."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import numpy as np
import pytest

from aprtui.engine.generation import Generation, generate
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Engine, KvType, Mode
from aprtui.model.model import Model, load_model
from aprtui.model.prompt import ChatPrompt, Exchange, encode_chat
from aprtui.resources import embedded_model
from tests.engine.fake_engine import FakeEngine

ANSWER = 6


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(embedded_model())


def opened(model: Model, backend: str, mode: Mode, kv: KvType) -> closing[Engine]:
    return closing(open_engine(model, backend=backend, mode=mode, kv=kv, threads=1, context=256))


def answered(engine: Engine, prompt: Sequence[int], held: Sequence[int] = ()) -> tuple[list[int], Generation]:
    generation = generate(engine, None, prompt, max_tokens=ANSWER, held=held)
    return [token.id for token in generation], generation


def evaluated_passes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, np.ndarray]]:
    """The passes from now on: how many tokens each evaluated, and the logits that it gave."""
    passes: list[tuple[int, np.ndarray]] = []
    forward = engine.forward

    def counted(tokens: Sequence[int], *options: object) -> np.ndarray:
        logits = forward(tokens, *options)  # type: ignore[arg-type]
        passes.append((len(tokens), logits.copy()))
        return logits

    monkeypatch.setattr(engine, "forward", counted)
    return passes


@pytest.mark.parametrize(
    ("backend", "mode", "kv"),
    [*(("cpu", mode, kv) for mode in Mode for kv in KvType), ("numpy", Mode.EXACT, KvType.F16)],
)
def test_second_turn_evaluates_the_new_tokens_only_and_every_bit_is_that_of_a_fresh_run(
    model: Model, backend: str, mode: Mode, kv: KvType, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode_chat(model, ChatPrompt("Return the sum."))
    with opened(model, backend, mode, kv) as engine:
        answer, _ = answered(engine, first)
        before = (*first, *answer)
        text = model.tokenizer.decode(answer)
        second = encode_chat(
            model, ChatPrompt("And the product?", earlier=(Exchange("Return the sum.", text),), tokens=before)
        )
        held = before[: engine.position]
        passes = evaluated_passes(engine, monkeypatch)
        again, generation = answered(engine, second, held)
    new = len(second) - len(held)
    assert [count for count, _ in passes] == [new] + [1] * (ANSWER - 1)
    assert (generation.kept, generation.timing.prompt_tokens) == (len(held), new)
    with opened(model, backend, mode, kv) as fresh:
        np.testing.assert_array_equal(passes[0][1], fresh.forward(second))
        for token, (_, logits) in zip(again[:-1], passes[1:], strict=True):
            np.testing.assert_array_equal(logits, fresh.forward([token]))


def test_engine_goes_back_to_where_the_prompts_part() -> None:
    engine = FakeEngine()
    answered(engine, [1, 2, 3, 4])
    engine.calls.clear()
    _, generation = answered(engine, [1, 2, 9, 9, 9], held=[1, 2, 3, 4, 5])
    assert engine.calls[0] == [9, 9, 9]
    assert generation.kept == 2


def test_last_token_of_a_prompt_is_evaluated_although_the_engine_holds_it() -> None:
    engine = FakeEngine()
    answered(engine, [1, 2, 3])
    engine.calls.clear()
    _, generation = answered(engine, [1, 2, 3], held=[1, 2, 3, 4])
    assert engine.calls[0] == [3]
    assert generation.kept == 2
