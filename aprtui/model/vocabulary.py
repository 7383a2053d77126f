"""The vocabulary of a GGUF file: token texts and types, and which tokens begin, end and stop a text.

GGUF names few of the special tokens, so some are known by their text. The texts, the types they are given, and the
defaults are those of llama.cpp's `llama-vocab.cpp`: a text must give the same ids here as there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from aprtui.errors import UnreadableError
from aprtui.model.gguf_file import StringArray


class TokenType(IntEnum):
    """What a token stands for, with the numbers that GGUF gives the types."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class VocabularyKind(StrEnum):
    """How a vocabulary splits text, as `tokenizer.ggml.model` names it."""

    BYTE_PAIR = "gpt2"
    SENTENCE_PIECE = "llama"


_STOPS = frozenset(
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
        "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
        "<end_of_utterance>", "<eos>", "<｜end▁of▁sentence｜>",
    }
)  # fmt: skip
"""Texts that end a turn or a text."""

_MESSAGE_END = "<|end|>"
"""Of these, what ends a message only, where a turn may have several (gpt-oss): then it is an ordinary added token."""

_ADDED = frozenset({"<|start|>", "<|message|>", "<|channel|>", "<|constrain|>"})
"""Texts (of gpt-oss) that are ordinary added tokens, even where the file calls them control tokens."""

_INFILL_STOPS = frozenset(
    {
        "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]",
        "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
    }
)  # fmt: skip
"""Texts that separate files in infill training; a model that writes one has finished."""

_INFILL = frozenset(
    {
        "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
        "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<SUF>", "▁<SUF>", "<|code_suffix|>",
        "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<MID>", "▁<MID>", "<|code_middle|>",
    }
)  # fmt: skip
"""Texts that are control tokens even where the file gives them another type, as all of the above are."""

_STOP_KEYS = ("eot", "eom", "fim_pad", "fim_rep", "fim_sep")
_BEGIN_WITH_BOS = frozenset({"llama3", "llama-v3", "llama-bpe", "tekken"})
"""Pre-tokenizers whose texts begin with BOS where a file does not say otherwise."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens by id.

    `texts` are as stored: byte-level alphabet for BYTE_PAIR, `▁` for spaces for SENTENCE_PIECE. `splitting` are the ids
    whose texts are cut out of a text before anything else, longest first.
    """

    origin: str
    kind: VocabularyKind
    texts: tuple[str, ...]
    types: tuple[TokenType, ...]
    bos: int | None
    eos: int | None
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    stop_ids: frozenset[int]
    splitting: tuple[int, ...]

    def is_special(self, token: int) -> bool:
        return self.types[token] in (TokenType.CONTROL, TokenType.UNKNOWN)

    @property
    def in_use(self) -> int:
        """How many tokens there are without the last ones that no text has, which make the number round."""
        return len(self.types) - sum(1 for _ in takewhile(TokenType.UNUSED.__eq__, reversed(self.types)))


def read_vocabulary(path: Path, metadata: Mapping[str, Any]) -> Vocabulary:
    """Vocabulary of a file's metadata; raises `UnreadableError` where a key is missing, malformed or not supported."""
    kind = _kind(path, metadata)
    texts = _texts(path, metadata)
    types = _types(path, metadata, texts)
    is_sentence_piece = kind is VocabularyKind.SENTENCE_PIECE
    bos = _special_id(metadata, "bos", len(texts), 1 if is_sentence_piece else None)
    eos = _special_id(metadata, "eos", len(texts), 2 if is_sentence_piece else None)
    known = {eos, *(_special_id(metadata, name, len(texts), None) for name in _STOP_KEYS)}
    stops = (_STOPS | _INFILL_STOPS) - _of_messages(texts)
    by_text = {token for token, text in enumerate(texts) if text in stops}
    adds_bos = is_sentence_piece or str(metadata.get("tokenizer.ggml.pre")) in _BEGIN_WITH_BOS
    split = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
    return Vocabulary(
        origin=str(path),
        kind=kind,
        texts=texts,
        types=types,
        bos=bos,
        eos=eos,
        add_bos=_flag(metadata, "add_bos_token", adds_bos) and bos is not None,
        add_eos=_flag(metadata, "add_eos_token", False) and eos is not None,
        add_space_prefix=is_sentence_piece and _flag(metadata, "add_space_prefix", True),
        stop_ids=frozenset(token for token in known | by_text if token is not None),
        splitting=tuple(
            sorted(
                (token for token, kind_of_token in enumerate(types) if kind_of_token in split),
                key=lambda token: -len(texts[token].encode()),
            )
        ),
    )


def _kind(path: Path, metadata: Mapping[str, Any]) -> VocabularyKind:
    name = metadata.get("tokenizer.ggml.model")
    if name is None:
        raise UnreadableError(f"{path}: the model has no tokenizer (tokenizer.ggml.model); give token ids")
    try:
        return VocabularyKind(str(name))
    except ValueError:
        supported = ", ".join(VocabularyKind)
        raise UnreadableError(
            f"{path}: tokenizer.ggml.model is {str(name)[:40]!r}, supported are {supported}; give token ids"
        ) from None


def _texts(path: Path, metadata: Mapping[str, Any]) -> tuple[str, ...]:
    texts = read_strings(path, metadata, "tokenizer.ggml.tokens")
    named = tuple(text or f"[EMPTY_{token}]" for token, text in enumerate(texts))
    if len(set(named)) != len(named):
        raise UnreadableError(f"{path}: tokenizer.ggml.tokens holds the same text twice; convert the model again")
    return named


def read_strings(path: Path, metadata: Mapping[str, Any], key: str) -> list[str]:
    """An array of texts; raises `UnreadableError` where it is missing, of another type, or not UTF-8."""
    array = metadata.get(key)
    if not isinstance(array, StringArray):
        what = "is missing" if array is None else "is no array of strings"
        raise UnreadableError(f"{path}: {key} {what}; convert the model again, or give token ids instead of text")
    try:
        return [text.decode() for text in array.read()]
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{path}: {key} holds a text that is not UTF-8: {error.object[:20]!r}") from error


def _types(path: Path, metadata: Mapping[str, Any], texts: tuple[str, ...]) -> tuple[TokenType, ...]:
    stored = metadata.get("tokenizer.ggml.token_type")
    if stored is None:
        stored = np.full(len(texts), TokenType.NORMAL)
    if not isinstance(stored, np.ndarray) or len(stored) < len(texts):
        raise UnreadableError(f"{path}: tokenizer.ggml.token_type is not one number for each of {len(texts)} tokens")
    types = {int(kind): kind for kind in TokenType}
    control, added = _STOPS | _INFILL_STOPS | _INFILL, _ADDED | _of_messages(texts)
    forced = dict.fromkeys(control, TokenType.CONTROL) | dict.fromkeys(added, TokenType.USER_DEFINED)
    return tuple(
        forced.get(text) or types.get(number, TokenType.UNDEFINED)
        for text, number in zip(texts, stored.tolist(), strict=False)
    )


def _of_messages(texts: tuple[str, ...]) -> frozenset[str]:
    """`<|end|>`, where the vocabulary has other tokens that end a turn and a call of a tool."""
    calls, others = {"<|call|>", "<|calls|>"}, {"<|return|>", "<|flush|>"}
    found = (calls | others).intersection(texts)
    return frozenset({_MESSAGE_END} if found & calls and found & others else ())


def _special_id(metadata: Mapping[str, Any], name: str, size: int, default: int | None) -> int | None:
    """The id that the file gives a special token; ids outside the vocabulary count as not given."""
    value = metadata.get(f"tokenizer.ggml.{name}_token_id", default)
    in_range = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < size
    return value if in_range else None


def _flag(metadata: Mapping[str, Any], name: str, default: bool) -> bool:
    value = metadata.get(f"tokenizer.ggml.{name}", default)
    return value if isinstance(value, bool) else default
