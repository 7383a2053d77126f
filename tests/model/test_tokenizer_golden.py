"""Token ids against llama.cpp's own answers (`tests/data/tokenizers`, which says how they were made)."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from aprtui.model.gguf_file import GgufFile
from aprtui.model.tokenizer import Tokenizer, build_tokenizer

DATA = Path(__file__).parent.parent / "data" / "tokenizers"
SMALL = sorted(DATA.glob("small-*.json"))
REAL = sorted(DATA.glob("ggml-vocab-*.json"))


def differences(golden: dict[str, Any], tokenizer: Tokenizer) -> list[str]:
    found = []
    for group in golden["groups"]:
        bos = None if group["add_special"] else False
        for case in group["cases"]:
            ids = tokenizer.encode(case["text"], special=group["parse_special"], bos=bos)
            if ids != case["ids"]:
                found.append(f"{group['name']}: {case['text']!r}: {ids} instead of {case['ids']}")
    return found


def check(golden_path: Path, vocabulary: Path) -> None:
    golden = json.loads(golden_path.read_text(encoding="utf-8"))
    assert hashlib.sha256(vocabulary.read_bytes()).hexdigest() == golden["sha256"], "the vocabulary is another one"
    tokenizer = build_tokenizer(vocabulary, GgufFile(vocabulary).metadata)
    wrong = differences(golden, tokenizer)
    assert sum(len(group["cases"]) for group in golden["groups"]) > 300
    assert not wrong, f"{len(wrong)} texts differ, first: {wrong[0]}"


def test_all_kinds_of_tokenizer_have_golden_ids() -> None:
    kinds = ("default", "gpt-4o", "llama-bpe", "qwen2", "qwen35", "spm", "tekken")
    assert [path.stem for path in SMALL] == [f"small-{kind}" for kind in kinds]


@pytest.mark.parametrize("golden", SMALL, ids=lambda path: path.stem)
def test_ids_of_small_vocabularies_equal_those_of_llama_cpp(golden: Path) -> None:
    check(golden, golden.with_suffix(".gguf"))


@pytest.mark.group("vocabularies")
@pytest.mark.parametrize("golden", REAL, ids=lambda path: path.stem)
def test_ids_of_real_vocabularies_equal_those_of_llama_cpp(golden: Path) -> None:
    check(golden, Path(os.environ["APRTUI_VOCABS"]) / f"{golden.stem}.gguf")


@pytest.mark.parametrize("golden", SMALL, ids=lambda path: path.stem)
def test_decoding_the_ids_of_a_plain_text_gives_the_text_again(golden: Path) -> None:
    vocabulary = golden.with_suffix(".gguf")
    tokenizer = build_tokenizer(vocabulary, GgufFile(vocabulary).metadata)
    # Around special tokens spaces are added, and a written-out "▁" is one.
    special = [*(tokenizer.vocabulary.texts[token] for token in tokenizer.vocabulary.splitting), "▁"]
    groups = json.loads(golden.read_text(encoding="utf-8"))["groups"]
    texts = [case["text"] for group in groups for case in group["cases"]]
    plain = [text for text in texts if not any(name in text for name in special)]
    assert len(plain) > 100
    for text in plain:
        assert tokenizer.decode(tokenizer.encode(text, bos=False)) == text
