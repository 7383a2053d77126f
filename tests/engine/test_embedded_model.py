"""The figures that the embedded model states about itself, recomputed by the product's own engine."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator

import numpy as np
import pytest

from aprtui.demo.corpus import collect, split, standard_library
from aprtui.demo.evaluate import MOST_REPEATS
from aprtui.demo.prompts import PROMPTS, SEED, TEMPERATURE, TOKENS
from aprtui.engine.generation import generate
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Engine, Logits, Mode
from aprtui.engine.quality.text import parses, repeated_lines
from aprtui.engine.sampling import Sampling
from aprtui.model.model import Model, load_model
from aprtui.resources import embedded_model

WINDOW = 1024


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(embedded_model())


@pytest.fixture(scope="module")
def engine(model: Model) -> Iterator[Engine]:
    opened = open_engine(model, mode=Mode.EXACT, context=WINDOW)
    yield opened
    opened.close()


def test_completions_of_the_fixed_prompts_are_as_stated(model: Model, engine: Engine) -> None:
    assert model.sampling_temperature == TEMPERATURE
    repeats, parsed = [], []
    for prompt in PROMPTS:
        generation = generate(
            engine, model.tokenizer, model.tokenizer.encode(prompt), max_tokens=TOKENS,
            sampling=Sampling(temperature=TEMPERATURE, seed=SEED), stop_ids=model.tokenizer.stop_ids,
        )  # fmt: skip
        text = prompt + "".join(token.text for token in generation) + generation.tail
        repeats.append(repeated_lines(text))
        parsed.append(parses(text))
    assert repeats == model.metadata["aprtui.quality.most_repeated_line"]
    assert parsed == model.metadata["aprtui.quality.parses"]
    assert sum(most <= MOST_REPEATS for most in repeats) >= 4
    assert sum(parsed) >= 3


@pytest.mark.slow
def test_bits_per_byte_of_the_held_out_text_are_as_stated(model: Model, engine: Engine) -> None:
    """Windows advance by half, each token is scored once; needs the very Python whose library was held out."""
    stated = model.metadata["aprtui.training.python_version"]
    if platform.python_version() != stated:
        pytest.skip(f"the held-out text is that of Python {stated}")
    documents = split(collect(standard_library())).held_out
    bits = sum(document_bits(model, engine, document.text) for document in documents)
    size = sum(len(document.text.encode()) for document in documents)
    assert size == model.metadata["aprtui.quality.held_out_bytes"]
    assert bits / size == pytest.approx(model.metadata["aprtui.quality.held_out_bits_per_byte"], rel=1e-3)
    assert bits / size < float(str(model.metadata["aprtui.quality.xz_bits_per_byte"]))


def document_bits(model: Model, engine: Engine, text: str) -> float:
    ids = model.tokenizer.encode(text, special=False)
    bits, scored = 0.0, 1
    while scored < len(ids):
        start = 0 if scored == 1 else scored - WINDOW // 2
        window = ids[start : start + WINDOW]
        engine.reset()
        logits = engine.forward(window[:-1], logits=Logits.ALL).astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        chosen = logits[np.arange(len(logits)), window[1:]] - np.log(np.exp(logits).sum(1))
        bits -= float(chosen[scored - start - 1 :].sum()) / math.log(2)
        scored = start + len(window)
    return bits
