"""The embedded model's byte-level BPE vocabulary: trained with `tokenizers`, split as Qwen2 splits text.

While merges are learned, line ends stand apart, so that no token holds both punctuation and a line end: a prompt that
stops at `def f(x):` then ends with the same tokens as that line has within a text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprtui.demo.corpus import END_OF_TEXT, SPECIAL_TOKENS

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class TrainedVocabulary:
    """A trained tokenizer with what a GGUF needs of it: tokens in id order (GPT-2 byte alphabet) and ranked merges."""

    tokenizer: Any
    tokens: tuple[str, ...]
    merges: tuple[str, ...]

    @property
    def end_of_text(self) -> int:
        return self.tokens.index(END_OF_TEXT)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written in it are recognised."""
        return list(self.tokenizer.encode(text).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids, special tokens included."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))


def train_vocabulary(texts: Iterable[str], size: int) -> Any:
    """Learn `size` tokens, the special ones last, and return the `tokenizers.Tokenizer`."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    as_qwen2 = pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated")
    line_ends = pre_tokenizers.Split(Regex(r"[\r\n]+"), "isolated")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([as_qwen2, line_ends, as_bytes])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learned = size - len(SPECIAL_TOKENS)
    trainer = trainers.BpeTrainer(vocab_size=learned, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([as_qwen2, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def load_vocabulary(path: Path) -> TrainedVocabulary:
    """Read a `tokenizer.json` written by `train_vocabulary(...).save`."""
    from tokenizers import Tokenizer

    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    ids: dict[str, int] = dict(model["vocab"])
    tokens = [*sorted(ids, key=ids.__getitem__), *SPECIAL_TOKENS]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return TrainedVocabulary(Tokenizer.from_file(str(path)), tuple(tokens), tuple(merges))
