"""SentencePiece vocabularies (`llama`): pieces with scores, spaces as `▁`, byte tokens `<0xNN>` for everything else.

Merging follows llama.cpp: of all neighbours whose concatenation is a token, the one with the best score goes first, the
leftmost among equals. The `tokenizers` library ranks *pairs of tokens* instead. With the scores of real Llama
vocabularies both give the same ids; where scores are equal, or a character occurs only inside longer tokens, the
library's ids differ from llama.cpp's on nearly every text. Hence the merge loop here, at 4 µs a character.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable

from aprtui.errors import UnreadableError
from aprtui.model.vocabulary import TokenType, Vocabulary

SPACE = "▁"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def build_encoder(vocabulary: Vocabulary, scores: list[float]) -> Callable[[str], list[int]]:
    """A function from a text without special tokens to ids; `scores` has one number for each token."""
    ids = {text: token for token, text in enumerate(vocabulary.texts)}
    if any(f"<0x{byte:02X}>" not in ids for byte in range(256)):
        raise UnreadableError(f"{vocabulary.origin}: the vocabulary lacks some of the byte tokens <0x00> to <0xFF>")

    def encode(text: str) -> list[int]:
        output: list[int] = []
        for piece in _merge(text.replace(" ", SPACE), ids, scores):
            token = ids.get(piece)
            output.extend([token] if token is not None else (ids[f"<0x{byte:02X}>"] for byte in piece.encode()))
        return output

    return encode


def _merge(text: str, ids: dict[str, int], scores: list[float]) -> list[str]:
    """Pieces of `text` after all merges, in order."""
    pieces = list(text)
    following = [*range(1, len(pieces)), -1] if pieces else []
    preceding = list(range(-1, len(pieces) - 1))
    queue: list[tuple[float, int, int, int]] = []

    def offer(left: int, right: int) -> None:
        if left < 0 or right < 0:
            return
        merged = pieces[left] + pieces[right]
        token = ids.get(merged)
        if token is not None:
            heapq.heappush(queue, (-scores[token], left, right, len(merged)))

    for left in range(len(pieces) - 1):
        offer(left, left + 1)
    while queue:
        _, left, right, length = heapq.heappop(queue)
        # A piece that has since been merged is empty or longer: the entry is out of date.
        if not pieces[left] or not pieces[right] or len(pieces[left]) + len(pieces[right]) != length:
            continue
        pieces[left] += pieces[right]
        pieces[right] = ""
        after = following[left] = following[right]
        if after >= 0:
            preceding[after] = left
        offer(preceding[left], left)
        offer(left, after)
    return [piece for piece in pieces if piece]


def token_bytes(text: str, kind: TokenType) -> bytes:
    if kind is TokenType.BYTE and (number := _BYTE_TOKEN.fullmatch(text)):
        return bytes.fromhex(number[1])
    return (text.replace(SPACE, " ") if kind is TokenType.NORMAL else text).encode()
