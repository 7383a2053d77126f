from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aprtui.tui.draw.numbers import age_text, column_number, number, short_number, signed_short_number, size_text


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
    assert tuple(short_number(value, width) for width in (3, 4, 5)) == texts


@given(st.floats(0, 1e30), st.integers(3, 9))
def test_short_numbers_always_fit(value: float, width: int) -> None:
    assert 1 <= len(short_number(value, width)) <= width


@given(st.floats(1e-11, 1e12))
def test_short_numbers_are_true_to_their_digits(value: float) -> None:
    text = short_number(value, 6)
    scale = {"p": 1e-12, "n": 1e-9, "µ": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    number = float(text.rstrip("".join(scale))) * scale.get(text[-1], 1)
    assert number == pytest.approx(value, rel=0.006)


@given(st.floats(-1e30, 1e30), st.integers(4, 9))
def test_signed_numbers_fit_and_have_their_sign(value: float, width: int) -> None:
    text = signed_short_number(value, width)
    assert 2 <= len(text) <= width
    assert text[0] == ("−" if value < 0 else "+")
    assert text[1:] == short_number(abs(value), width - 1)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (None, 3, "–"), (math.nan, 3, "NaN"), (math.inf, 3, "Inf"), (-math.inf, 3, "−Inf"), (0.0, 3, "0"),
        (-1.23456, 3, "−1.23"), (-1.23456, 4, "−1.235"), (1e-5, 3, "1e−05"), (123456.0, 3, "1.23e+05"),
    ],
)  # fmt: skip
def test_numbers_have_their_digits_and_what_is_none_has_its_name(value: float | None, digits: int, text: str) -> None:
    assert number(value, digits) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (7.0, 3, "7.00"), (-10.0, 3, "−10.0"), (0.12, 3, "0.120"), (123.4, 3, "123"), (-15.259, 6, "−15.2590"),
        (1e-5, 3, "1.00e−05"), (0.0, 3, "0"), (math.nan, 3, "NaN"), (-math.inf, 3, "−Inf"), (None, 3, "–"),
    ],
)  # fmt: skip
def test_numbers_of_a_column_keep_the_zeros_at_their_end(value: float | None, digits: int, text: str) -> None:
    assert column_number(value, digits) == text


def test_sizes_and_ages_are_said_as_people_do() -> None:
    assert [size_text(size) for size in (0, 999, 1000, 941_012, 2_300_000, 123_456_789_000)] == [
        "0 B", "999 B", "1 kB", "941 kB", "2.3 MB", "123 GB",
    ]  # fmt: skip
    assert [age_text(age) for age in (3, 45, 90, 7200, 200_000)] == ["now", "40 s", "2 min", "2 h", "2 d"]
