"""CRC32 in pieces: the checksums of two neighbouring pieces give that of both, so threads can share a tensor.

Appending n zero bits multiplies a CRC by xⁿ modulo the CRC's polynomial, a linear map on 32 bits; powers of it come by
squaring (the method of zlib's `crc32_combine`).
"""

from __future__ import annotations

from functools import cache

_POLYNOMIAL = 0xEDB88320


def _apply(matrix: tuple[int, ...], vector: int) -> int:
    """Product of a 32 × 32 bit matrix (its columns) and a vector, over GF(2)."""
    total = 0
    for column in matrix:
        if not vector:
            break
        if vector & 1:
            total ^= column
        vector >>= 1
    return total


@cache
def _zero_bytes(power: int) -> tuple[int, ...]:
    """The map that appends 2^power zero bytes."""
    if power:
        half = _zero_bytes(power - 1)
        return tuple(_apply(half, column) for column in half)
    matrix = (_POLYNOMIAL, *(1 << bit for bit in range(31)))
    for _ in range(3):
        matrix = tuple(_apply(matrix, column) for column in matrix)
    return matrix


def combine(first: int, second: int, second_bytes: int) -> int:
    """CRC32 of two pieces in a row from those of each; `second_bytes` is the length of the second one."""
    for power in range(second_bytes.bit_length()):
        if second_bytes >> power & 1:
            first = _apply(_zero_bytes(power), first)
    return first ^ second
