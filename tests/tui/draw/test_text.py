"""Text in terminal cells."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from aprtui.tui.draw.text import clipped, clipped_start, flowed, joined, padded, visible, wrapped

WIDTHS = (6, 5, 4, 3, 1, 0)
PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=30)


@given(PRINTABLE, st.integers(0, 40))
def test_clipped_text_fits_and_padded_text_fills_its_cells(text: str, width: int) -> None:
    for short in (clipped(text, width), clipped_start(text, width)):
        assert cell_len(short) <= width
        assert short == text or cell_len(text) > width
        assert cell_len(padded(short, width)) == cell_len(padded(short, width, right=True)) == width


def test_a_wide_character_takes_two_cells_and_is_never_cut_in_half() -> None:
    assert [clipped("日本語", width) for width in WIDTHS] == ["日本語", "日本…", "日 …", "日…", "…", ""]
    assert [clipped_start("日本語", width) for width in WIDTHS] == [
        "日本語",
        "…本語",
        "…語",
        "…語",
        "…",
        "",
    ]
    assert padded("日本語", 5) == "日本 "
    assert padded("日", 4) == "日  " and padded("日", 4, right=True) == "  日"
    assert joined(["日本", "語"], 7) == "日本  …"


@pytest.mark.parametrize("sign", ["…", "~"])
def test_the_sign_says_what_is_left_out(sign: str) -> None:
    assert clipped("unfittable", 5, sign) == f"unfi{sign}"
    assert clipped_start("unfittable", 5) == "…able"


def test_what_does_not_fit_is_left_out_with_a_sign() -> None:
    assert joined(["one", "two", "three"], 15) == "one  two  three"
    assert joined(["one", "two", "three"], 14) == "one  two  …"
    assert joined(["one", "two", "three"], 10) == "one  …"
    assert joined(["unfittable"], 5) == "unfi…"


def test_blanks_and_breaks_of_a_token_are_seen() -> None:
    assert visible(" a\n\t\r\n") == "·a⏎⇥⏎" and visible("\x00\\xe2") == "�\\xe2"


def test_fields_flow_over_lines_and_stay_whole() -> None:
    assert flowed(["byte at 12", "rms 3", "of its channel 4"], 18) == ["byte at 12  rms 3", "of its channel 4"]
    assert flowed(["a long field"], 6) == ["a lon…"] and flowed([], 6) == []


def test_a_word_is_broken_over_lines_and_its_end_is_told() -> None:
    assert wrapped("function", 4, 3) == ["func", "tion"]
    assert wrapped("function", 3, 2) == ["fun", "ct…"]
    assert wrapped("日本語", 3, 3) == ["日", "本", "語"] and wrapped("abc", 1, 2) == ["a", "…"]
