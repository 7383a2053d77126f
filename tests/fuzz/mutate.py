"""Inputs that are nearly well formed: a sample with a few things wrong. A seed gives the same inputs everywhere."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from random import Random

_NUMBERS = (0, 1, 2, 7, 8, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_TEXTS = (
    b"0", b"-1", b"1e999", b"NaN", b"99999999999999999999", b"null", b"true", b"{}", b"[]", b'""', b"[[[[", b"{{{{",
    b"../", b"/", b"\0", b"\n", b"\x1b[31m", b"\xff", b"\xed\xa0\x80", b"\xe2\x80\xae", b"'", b'"', b"\\", b"%s", b":",
)  # fmt: skip
_NUMBER = re.compile(rb"\d+(?:\.\d+)?")
_LONGEST = 1 << 20

Change = Callable[[bytearray, Random, Sequence[bytes]], None]


def _place(data: bytearray, random: Random) -> int:
    """Somewhere in the data, mostly near its beginning, where headers are."""
    return random.randrange(min(len(data), random.choice((16, 64, 512, 1 << 30))) or 1)


def _flip(data: bytearray, random: Random, words: Sequence[bytes]) -> None:
    if data:
        data[_place(data, random)] ^= 1 << random.randrange(8)


def _set(data: bytearray, random: Random, words: Sequence[bytes]) -> None:
    if data:
        data[_place(data, random)] = random.choice((0, 1, 9, 10, 32, 46, 127, 128, 255, random.randrange(256)))


def _number(data: bytearray, random: Random, words: Sequence[bytes]) -> None:
    size, at = random.choice((1, 2, 4, 8)), _place(data, random)
    value = (random.choice(_NUMBERS) + random.choice((0, 0, 1, -1))) % (1 << 8 * size)
    data[at : at + size] = value.to_bytes(size, random.choice(("little", "little", "big")))


def _float(data: bytearray, random: Random, words: Sequence[bytes]) -> None:
    at, value = _place(data, random), random.choice((0.0, -1.0, float("nan"), float("inf"), 1e38, 1e-45))
    data[at : at + 4] = struct.pack("<f", value)


def _digits(data: bytearray, random: Random, words: Sequence[bytes]) -> None:
    """Another number in place of one that is written as text."""
    found = list(_NUMBER.finditer(data, 0, 1 << 14))
    if found:
        chosen = random.choice(found)
        data[chosen.start() : chosen.end()] = random.choice((str(random.choice(_NUMBERS)).encode(), b"-1", b"1e999"))


def _word(data: bytearray, random: Random, words: Sequence[bytes]) -> None:
    at = _place(data, random)
    word = random.choice(words) if words and random.random() < 0.6 else random.choice(_TEXTS)
    data[at : at + random.choice((0, len(word)))] = word


def _remove(data: bytearray, random: Random, words: Sequence[bytes]) -> None:
    at = _place(data, random)
    del data[at : at + random.choice((1, 1, 2, 4, 16, 256))]


def _repeat(data: bytearray, random: Random, words: Sequence[bytes]) -> None:
    at, size = _place(data, random), random.choice((1, 4, 16, 64))
    data[at:at] = data[at : at + size] * random.choice((1, 1, 2, 64))


def _move(data: bytearray, random: Random, words: Sequence[bytes]) -> None:
    at, to, size = _place(data, random), _place(data, random), random.choice((1, 4, 8, 32))
    piece = data[at : at + size]
    data[to : to + random.choice((0, size))] = piece


def _cut(data: bytearray, random: Random, words: Sequence[bytes]) -> None:
    del data[_place(data, random) :]


def _noise(data: bytearray, random: Random, words: Sequence[bytes]) -> None:
    at = _place(data, random)
    data[at : at + random.choice((0, 4, 16))] = random.randbytes(random.choice((1, 2, 4, 16)))


_CHANGES: tuple[Change, ...] = (
    _flip, _set, _number, _number, _float, _digits, _word, _word, _remove, _repeat, _move, _cut, _noise,
)  # fmt: skip


def mutated(random: Random, samples: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One of `samples` with one to five changes; now and then the end of another one, or nothing but noise."""
    chance = random.random()
    if chance < 0.01:
        return random.randbytes(random.randrange(64))
    data = bytearray(random.choice(samples))
    if chance < 0.05:
        other = random.choice(samples)
        data[_place(data, random) :] = other[random.randrange(len(other) + 1) :]
    for _ in range(random.choice((1, 1, 1, 2, 3, 5))):
        random.choice(_CHANGES)(data, random, words)
    return bytes(data[:_LONGEST])
