"""Streaming text: whole characters only."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from hypothesis import example, given
from hypothesis import strategies as st

from aprtui.model.tokenizer import StreamDecoder, Tokenizer


class Chunks:
    """A tokenizer whose token `i` stands for the bytes `chunks[i]`."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks

    def token_bytes(self, token: int) -> bytes:
        return self.chunks[token]


def stream(chunks: list[bytes]) -> list[str]:
    decoder = StreamDecoder(cast(Tokenizer, Chunks(chunks)))
    return [*(decoder.push(token) for token in range(len(chunks))), decoder.finish()]


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


@given(st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.integers(0, 1000)))
@example("👩‍👩‍👧 é 日本", list(range(1000)))
def test_any_split_of_a_text_gives_the_text_in_whole_characters(text: str, cuts: list[int]) -> None:
    parts = stream(split(text.encode(), cuts))
    assert "".join(parts) == text
    assert "".join(parts[:-1]) == text, "nothing is left for the end"
    assert "\ufffd" not in parts or "\ufffd" in text


@given(st.binary(), st.lists(st.integers(0, 100)))
def test_any_bytes_give_what_decoding_them_at_once_gives(data: bytes, cuts: list[int]) -> None:
    assert "".join(stream(split(data, cuts))) == data.decode(errors="replace")


def test_a_character_is_held_back_until_its_last_byte() -> None:
    assert stream([b"a\xe6", b"\x97", b"\xa5b"]) == ["a", "", "日b", ""]


def test_bytes_that_can_become_no_character_are_replaced_as_soon_as_that_is_known() -> None:
    assert stream([b"\xe6\x97", b"x", b"\xff", b"y"]) == ["", "\ufffdx", "\ufffd", "y", ""]


def test_an_unfinished_character_is_replaced_at_the_end() -> None:
    assert stream([b"a", b"\xf0\x9f"]) == ["a", "", "\ufffd"]


def test_a_new_text_may_follow_the_end() -> None:
    decoder = StreamDecoder(cast(Tokenizer, Chunks([b"\xe6", b"b"])))
    assert [decoder.push(0), decoder.finish(), decoder.push(1), decoder.finish()] == ["", "\ufffd", "b", ""]
