"""Tokens → text as they come, without ever emitting half a character."""

from __future__ import annotations

import codecs

from aprtui.model.tokenizer import Tokenizer


class StreamDecoder:
    """Text of a growing sequence of tokens.

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
