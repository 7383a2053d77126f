from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aprtui.tui.draw.levels import LEVELS, RAMP, Mark, glyph, short, signed


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (0.0, ("0", "0", "0")),
        (0.00431, ("4m", "4.3m", "4.31m")),
        (0.0431, ("43m", "43m", "43.1m")),
        (0.0997, (".10", ".10", ".10")),
        (0.431, (".43", ".43", "0.431")),
        (0.9996, ("1.0", "1.00", "1.00")),
        (1.0, ("1.0", "1.00", "1.00")),
        (9.96, ("10", "9.96", "9.96")),
        (43.1, ("43", "43.1", "43.1")),
        (431.0, ("431", "431", "431")),
        (43100.0, ("43k", "43k", "43.1k")),
        (430000.0, (".4M", "430k", "430k")),
        (1e-15, ("~0", "~0", "~0")),
        (1e20, (">T", ">T", ">T")),
        (math.nan, ("NaN", "NaN", "NaN")),
        (math.inf, ("Inf", "Inf", "Inf")),
    ],
)
def test_short_numbers_keep_as_many_digits_as_fit(value: float, texts: tuple[str, str, str]) -> None:
    assert tuple(short(value, width) for width in (3, 4, 5)) == texts


@given(st.floats(0, 1e30), st.integers(3, 9))
def test_short_numbers_always_fit(value: float, width: int) -> None:
    assert 1 <= len(short(value, width)) <= width


@given(st.floats(1e-11, 1e12))
def test_short_numbers_are_true_to_their_digits(value: float) -> None:
    text = short(value, 6)
    scale = {"p": 1e-12, "n": 1e-9, "µ": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    number = float(text.rstrip("".join(scale))) * scale.get(text[-1], 1)
    assert number == pytest.approx(value, rel=0.006)


@given(st.floats(-1e30, 1e30), st.integers(4, 9))
def test_signed_numbers_fit_and_have_their_sign(value: float, width: int) -> None:
    text = signed(value, width)
    assert 2 <= len(text) <= width
    assert text[0] == ("−" if value < 0 else "+")
    assert text[1:] == short(abs(value), width - 1)


def test_glyphs_grow_with_the_level_and_marks_have_their_own() -> None:
    glyphs = [glyph(level) for level in range(LEVELS)]
    assert "".join(dict.fromkeys(glyphs)) == RAMP
    assert [glyph(mark) for mark in Mark] == ["·", "0", "I", "X", "+", "-"]
