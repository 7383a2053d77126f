"""Text that trained models choose: ours, token by token the choice of transformers with the same weights."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from aprtui.engine.generation import generate
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Mode
from aprtui.model.model import Model, load_model
from aprtui.model.prompt import encode_prompt
from aprtui.oracle.transformers_model import AttentionKind, DataType, libraries, load

MODELS = sorted(Path(os.environ.get("APRTUI_REAL_MODELS", "/nowhere")).glob("*.gguf"))
TOKENS = 64
NOISE = 1e-3
"""How far apart two logits may be whose order float32 sums exchange."""
pytestmark = [pytest.mark.slow, pytest.mark.group("real_models"), pytest.mark.group("transformers")]


def chosen(model: Model, prompt: list[int]) -> tuple[list[int], str]:
    """Ids and text of what our engine generates."""
    with closing(open_engine(model, mode=Mode.EXACT, context=len(prompt) + TOKENS)) as engine:
        stop_ids = model.tokenizer.stop_ids
        found = list(generate(engine, model.tokenizer, prompt, max_tokens=TOKENS, stop_ids=stop_ids))
    return [token.id for token in found], "".join(token.text for token in found)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
@pytest.mark.parametrize("chat", [False, True])
def test_each_token_is_the_choice_of_transformers_too(path: Path, chat: bool) -> None:
    model = load_model(path)
    if chat and "tokenizer.chat_template" not in model.metadata:
        pytest.skip("the model has no chat template")
    text = "Write a Python function that adds two numbers." if chat else "def mean(values):\n"
    prompt = encode_prompt(model, text, special=True, chat=chat)
    ids, answer = chosen(model, prompt)
    torch, _ = libraries()
    module = load(model, DataType.FLOAT32, AttentionKind.EAGER, threads=None).module
    with torch.no_grad():
        logits = module(torch.tensor([[*prompt, *ids]])).logits[0].numpy()
    rows = logits[len(prompt) - 1 : -1]
    assert (rows.max(1) - rows[np.arange(len(ids)), ids]).max() < NOISE
    assert ("def " if chat else "return") in answer
