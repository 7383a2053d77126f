"""Texts as pre-tokenizers of DeepSeek and Kimi divide them, by llama.cpp and here: no merge goes across a boundary."""

from __future__ import annotations

import importlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprtui.model.byte_pair import byte_of_character
from aprtui.model.model import load_model
from tests.model.gguf_files import SPECIAL_TOKENS, Tensor, model_file

_CHARACTERS = (
    *" aBäé129.!_-'xImsreLΩσ中あ가½😀\n\r\t",
    *("\u0308", "\u3000", "\u3002", "\u00a0", "\u3007", "\u2e80", "\uf900", "\U00020000"),
)  # fmt: skip


def _write_joining_all(path: Path, pre_tokenizer: str) -> Path:
    """A model whose vocabulary joins any two of those characters that stand in one piece."""
    spelt = {byte: character for character, byte in byte_of_character().items()}
    texts, merges = [*byte_of_character()], list[str]()

    def join(first: str, second: str) -> None:
        if first + second not in texts:
            merges.append(f"{first} {second}")
            texts.append(first + second)

    words = ["".join(spelt[byte] for byte in character.encode()) for character in _CHARACTERS]
    for word in words:
        for end in range(1, len(word)):
            join(word[:end], word[end])
    for first in words:
        for second in words:
            join(first, second)
    file, plain = model_file(), len(texts)
    file.metadata |= {
        "tokenizer.ggml.pre": pre_tokenizer, "tokenizer.ggml.tokens": [*texts, *SPECIAL_TOKENS],
        "tokenizer.ggml.token_type": [1] * plain + [3] * len(SPECIAL_TOKENS), "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": plain, "tokenizer.ggml.eos_token_id": plain + 2,
    }  # fmt: skip
    for name in ("token_embd.weight", "output.weight"):
        table = file.tensors[name]
        rows = np.resize(table.data, (plain + len(SPECIAL_TOKENS), table.data.shape[1]))
        file.tensors[name] = Tensor(rows, table.type)
    return file.write(path)


def _by_llama_cpp(path: Path, texts: Sequence[str]) -> list[list[int]]:
    llama: Any = importlib.import_module("llama_cpp")
    parameters = llama.llama_model_default_params()
    parameters.vocab_only = True
    model = llama.llama_model_load_from_file(str(path).encode(), parameters)
    vocabulary, room = llama.llama_model_get_vocab(model), (llama.llama_token * 256)()
    found = []
    for text in texts:
        data = text.encode()
        count = llama.llama_tokenize(vocabulary, data, len(data), room, len(room), False, False)
        found.append(list(room[:count]))
    llama.llama_model_free(model)
    return found


@pytest.mark.group("llama_cpp")
@pytest.mark.parametrize("pre_tokenizer", ["deepseek-llm", "deepseek-v3", "kimi-k2"])
def test_texts_are_divided_as_llama_cpp_divides_them(tmp_path: Path, pre_tokenizer: str) -> None:
    path = _write_joining_all(tmp_path / "model.gguf", pre_tokenizer)
    chosen = random.Random(1)
    texts = ["".join(chosen.choices(_CHARACTERS, k=chosen.randint(1, 14))) for _ in range(2000)]
    tokenizer = load_model(path).tokenizer
    ours = [list(tokenizer.encode(text)) for text in texts]
    theirs = _by_llama_cpp(path, texts)
    assert [text for text, a, b in zip(texts, ours, theirs, strict=True) if a != b] == []
    assert len({token for found in ours for token in found}) > 150
