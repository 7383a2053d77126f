"""Checksums of pieces join to that of the whole."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from aprtui.trace.checksum import combine


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_pieces_join_to_the_checksum_of_the_whole(first: bytes, second: bytes) -> None:
    assert combine(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


def test_long_pieces_join_too() -> None:
    first, second = bytes(range(256)) * 1000, b"\x01" * 12345678
    assert combine(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)
