"""Text ↔ token ids, as in llama.cpp: special tokens are cut out of the text, the vocabulary encodes what is left."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aprtui.errors import UnreadableError, UsageError
from aprtui.model import byte_pair, sentence_piece
from aprtui.model.vocabulary import TokenType, Vocabulary, VocabularyKind, read_strings, read_vocabulary


class Tokenizer:
    def __init__(self, vocabulary: Vocabulary, encode: Callable[[str], list[int]]) -> None:
        self.vocabulary, self.size, self.stop_ids = vocabulary, len(vocabulary.texts), vocabulary.stop_ids
        self._encode = encode

    @property
    def bos_text(self) -> str | None:
        return self._text(self.vocabulary.bos)

    @property
    def eos_text(self) -> str | None:
        return self._text(self.vocabulary.eos)

    def _text(self, token: int | None) -> str | None:
        return None if token is None else self.vocabulary.texts[token]

    def encode(self, text: str, *, special: bool = True, bos: bool | None = None) -> list[int]:
        """Token ids of `text`.

        `special` reads control tokens in the text as such (user-defined tokens always are); `bos` adds the tokens that
        begin and end a text (None: as the file says). Raises `UsageError` for text that is not Unicode.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"the text holds bytes that are not UTF-8 (at character {error.start}); pass it as UTF-8"
            ) from error
        vocabulary = self.vocabulary
        begins = vocabulary.add_bos if bos is None else bos and vocabulary.bos is not None
        ids: list[int] = [vocabulary.bos] if begins and vocabulary.bos is not None else []
        after_special = True
        for part in self._split(text, special):
            if isinstance(part, int):
                ids.append(part)
                after_special = True
            else:
                prefix = " " if vocabulary.add_space_prefix and after_special else ""
                ids.extend(self._encode(prefix + part))
                after_special = False
        if vocabulary.add_eos and bos is None and vocabulary.eos is not None:
            ids.append(vocabulary.eos)
        return ids

    def _split(self, text: str, special: bool) -> list[str | int]:
        """Texts and the ids between them: longest special token first, each taking what the longer ones left."""
        parts: list[str | int] = [text] if text else []
        for token in self.vocabulary.splitting:
            if not special and self.vocabulary.types[token] is not TokenType.USER_DEFINED:
                continue
            name = self.vocabulary.texts[token]
            if name in text:
                parts = [found for part in parts for found in _cut(part, name, token)]
        return parts

    def has_special(self, text: str) -> bool:
        """Whether a control token is written out in `text`."""
        return any(isinstance(part, int) and self.is_special(part) for part in self._split(text, special=True))

    def is_special(self, token: int) -> bool:
        """Whether the token steers the model rather than standing for text; raises `UsageError` for an unknown id."""
        self._check(token)
        return self.vocabulary.is_special(token)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token, which may be part of a character; of special tokens their visible text.

        Raises `UsageError` for an unknown id.
        """
        self._check(token)
        text, kind = self.vocabulary.texts[token], self.vocabulary.types[token]
        if self.vocabulary.kind is VocabularyKind.SENTENCE_PIECE:
            return sentence_piece.token_bytes(text, kind)
        return byte_pair.token_bytes(text) if kind is TokenType.NORMAL else text.encode()

    def piece(self, token: int) -> str:
        """The text of one token by itself; bytes that are no UTF-8, such as half a character, as `\\xe2`.

        Raises `UsageError` for an unknown id.
        """
        return self.token_bytes(token).decode(errors="backslashreplace")

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens included; bytes that are no UTF-8 become U+FFFD.

        The space that `encode` puts before a text is taken off again.
        """
        ids = list(ids)
        data = b"".join(map(self.token_bytes, ids))
        if self.vocabulary.add_space_prefix and ids and not self.is_special(ids[0]):
            data = data.removeprefix(b" ")
        return data.decode(errors="replace")

    def _check(self, token: int) -> None:
        if not 0 <= token < self.size:
            raise UsageError(f"token id {token} does not exist; the vocabulary has 0 to {self.size - 1}")


class StreamDecoder:
    """Text of a growing sequence of tokens, without ever half a character.

    Bytes that may still become a character are held back; bytes that no longer can become U+FFFD at that point.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is unfinished."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """What is left at the end: nothing, or U+FFFD for an unfinished character. A new text may follow."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def _cut(part: str | int, name: str, token: int) -> Iterator[str | int]:
    """`part` with `token` in place of each occurrence of its `name`."""
    if isinstance(part, int):
        yield part
        return
    first, *others = part.split(name)
    if first:
        yield first
    for other in others:
        yield token
        if other:
            yield other


def build_tokenizer(path: Path, metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer in the metadata of a GGUF file; raises `UnreadableError` where it is missing or not supported."""
    vocabulary = read_vocabulary(path, metadata)
    if vocabulary.kind is VocabularyKind.SENTENCE_PIECE:
        return Tokenizer(vocabulary, sentence_piece.build_encoder(vocabulary, _scores(path, metadata, vocabulary)))
    merges = read_strings(path, metadata, "tokenizer.ggml.merges")
    pre_tokenizer = str(metadata.get("tokenizer.ggml.pre", "")) or "default"
    return Tokenizer(vocabulary, byte_pair.build_encoder(vocabulary, merges, pre_tokenizer))


def _scores(path: Path, metadata: Mapping[str, Any], vocabulary: Vocabulary) -> list[float]:
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or len(scores) < len(vocabulary.texts):
        raise UnreadableError(
            f"{path}: tokenizer.ggml.scores is not one number for each of {len(vocabulary.texts)} tokens"
        )
    return [float(score) for score in scores]
