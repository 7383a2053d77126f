"""The judgements of the embedded model's text."""

from __future__ import annotations

import lzma

import numpy as np
import pytest

from aprtui.engine.quality.text import complete_lines, draw, parses, primed_xz_bits_per_byte, repeated_lines


def test_the_most_frequent_line_is_counted_without_blank_lines_and_indentation() -> None:
    assert repeated_lines("a\n\n\n\n  a\nb\n\ta  \n") == 3
    assert repeated_lines("") == 0
    assert repeated_lines("\n \n") == 0


def test_an_unfinished_last_line_is_left_out() -> None:
    assert complete_lines("x = 1\ny = (") == "x = 1\n"
    assert complete_lines("no line end") == ""


@pytest.mark.parametrize(
    "text",
    [
        "def fib(n):\n    return n\n\nclass A(",
        "def fib(n):\n",
        "def fib(n):\n    if n < 2:\n        # small\n",
        "    if n:\n        x = 1\n    else:\n",
        "",
    ],
)
def test_python_that_was_merely_cut_off_parses(text: str) -> None:
    assert parses(text)


@pytest.mark.parametrize(
    "text",
    [
        "def fib(n:\n    pass\n",
        "x = (1,\n",
        "return = 3\n",
        "if x:\n    y = 1\n   z = 2\n",
        "text = '''never closed\n",
        "a\0b\n",
    ],
)
def test_broken_python_does_not_parse(text: str) -> None:
    assert not parses(text)


def test_xz_pays_next_to_nothing_for_text_it_was_primed_with() -> None:
    text = np.random.default_rng(1).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    assert primed_xz_bits_per_byte(text, text) < 0.2
    assert primed_xz_bits_per_byte(b"", text) > 7.9


def test_xz_beyond_the_preset_s_dictionary_still_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def compress(content: bytes, format: int, filters: list[dict[str, int]]) -> bytes:
        sizes.append(filters[0]["dict_size"])
        return b""

    monkeypatch.setattr(lzma, "compress", compress)
    primed_xz_bits_per_byte(bytes(70 << 20), b"x")
    assert sizes == [128 << 20] * 2


def test_bits_per_byte_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        primed_xz_bits_per_byte(b"x", b"")


def test_draws_follow_the_tempered_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.25], dtype=np.float32))
    generator = np.random.Generator(np.random.PCG64(0))
    counts = np.bincount([draw(logits, 0.5, generator) for _ in range(4000)], minlength=3) / 4000
    np.testing.assert_allclose(counts, [4 / 6, 1 / 6, 1 / 6], atol=0.02)


def test_draws_depend_on_the_seed_alone() -> None:
    logits = np.random.default_rng(2).standard_normal(50).astype(np.float32)

    def draws(seed: int) -> list[int]:
        generator = np.random.Generator(np.random.PCG64(seed))
        return [draw(logits, 0.7, generator) for _ in range(20)]

    assert draws(3) == draws(3)
    assert draws(3) != draws(4)
