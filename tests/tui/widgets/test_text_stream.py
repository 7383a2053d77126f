from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.geometry import Size
from textual.screen import Screen

from aprtui.tui.widgets.text_stream import TextStream, Wrapper, printable

CHARACTERS = st.characters(codec="utf-8", exclude_categories=["Cs"])


def rows(width: int, *pieces: str) -> list[str]:
    wrapper = Wrapper(width)
    for number, piece in enumerate(pieces):
        wrapper.add(piece, number)
    return ["".join(character for character, _ in row) for row in wrapper.rows]


def test_words_go_to_the_next_row_as_a_whole() -> None:
    assert rows(10, "one two three") == ["one two ", "three"]


def test_word_that_grows_over_the_edge_moves_with_its_beginning() -> None:
    assert rows(10, "one two", " th", "ree") == ["one two ", "three"]


def test_word_longer_than_a_row_is_cut() -> None:
    assert rows(4, "abcdefghij") == ["abcd", "efgh", "ij"]


def test_line_breaks_and_indentation_are_kept() -> None:
    assert rows(20, "if n:\n    return") == ["if n:", "    return"]


def test_wide_characters_take_two_cells() -> None:
    assert rows(4, "日本語") == ["日本", "語"]


def test_control_characters_become_visible_and_harmless() -> None:
    assert printable("a\x1b[31m\tb\r\nc\x7f\x9b\u202e") == "a␛[31m    b\nc␡��"


@given(st.lists(st.text(CHARACTERS, max_size=30)), st.integers(2, 40))
def test_wrapping_piece_by_piece_is_wrapping_at_once(pieces: list[str], width: int) -> None:
    pieces = [printable(piece) for piece in pieces]
    assert rows(width, *pieces) == rows(width, "".join(pieces))


@given(st.text(CHARACTERS, max_size=200), st.integers(2, 40))
def test_no_row_is_wider_than_the_screen_and_no_character_is_lost(text: str, width: int) -> None:
    text = printable(text)
    wrapped = rows(width, text)
    assert "".join(wrapped) == text.replace("\n", "")
    assert all(sum(cell_len(character) for character in row) <= width for row in wrapped)


class StreamApp(App[None]):
    def compose(self) -> ComposeResult:
        yield TextStream()


async def test_rows_come_without_another_layout_and_the_scroll_bar_knows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    layouts: list[bool] = []
    refresh = Screen._refresh_layout

    def counted(screen: Screen[object], size: Size | None = None, scroll: bool = False) -> None:
        layouts.append(True)
        refresh(screen, size, scroll)

    monkeypatch.setattr(Screen, "_refresh_layout", counted)
    async with StreamApp().run_test(size=(20, 8)) as pilot:
        stream = pilot.app.query_one(TextStream)
        stream.clear()
        stream.say("begin")
        for number in range(20):
            stream.add(f"\nrow {number}", None)
            await pilot.pause()
            if number == 9:
                assert stream.show_vertical_scrollbar
                layouts.clear()
        assert not layouts
        assert stream.virtual_size.height == stream.vertical_scrollbar.window_virtual_size == 21
        assert stream.scroll_offset.y == stream.max_scroll_y == 21 - 8
        assert stream.render_line(7).text.startswith("row 19")
        stream.clear()
        stream.say("again")
        await pilot.pause()
        assert not stream.show_vertical_scrollbar and stream.scroll_offset.y == 0
