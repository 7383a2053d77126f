"""A tensor as it is seen: zoom, cursor, rows of lines, numbers of columns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aprtui.tui.draw.viewport import NUMBER_CELLS, Viewport, rows_of_line, ruler, zoom_words

SMALL, LARGE = (9, 16), (4096, 8192)


def test_small_tensors_fill_the_room_and_large_ones_share_cells() -> None:
    small = Viewport.of(SMALL, 20, 70)
    assert (small.grain.lines, small.grain.cells) == (2, 4) and small.is_whole
    large = Viewport.of(LARGE, 20, 70)
    assert (large.grain.lines, large.grain.cells) == (0, 1) and large.is_whole
    assert zoom_words(large) == "whole, 103×118 values a cell"
    assert Viewport.of(LARGE, 20, 70, plain=True).grain.lines == 1


def test_zooming_in_ends_at_numbers_around_the_cursor_and_out_at_the_whole() -> None:
    view = Viewport.of(LARGE, 20, 70).at(2000, 5000)
    words = []
    while not view.numbers:
        view = view.closer()
        words.append(zoom_words(view))
        row, column = view.cursor_cell
        assert 0 <= row < view.room[0] and 0 <= column < view.room[1]
    assert words[-2:] == ["part, a cell a value", "numbers"] and view.room == (20, 70 // NUMBER_CELLS)
    assert view.closer() == view
    for _ in range(20):
        view = view.farther()
    assert view.is_whole and (view.row, view.column) == (2000, 5000)


moves = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["moved", "panned", "at"]), st.integers(-50, 5000), st.integers(-50, 9000)),
        st.tuples(st.just("resized"), st.integers(1, 60), st.integers(1, 200)),
        st.tuples(st.sampled_from(["closer", "farther", "fitted"]), st.just(0), st.just(0)),
    ),
    max_size=12,
)


@given(st.tuples(st.integers(1, 300), st.integers(1, 900)), moves)
def test_wherever_one_goes_the_cursor_is_in_view_and_on_a_value(
    shape: tuple[int, int], steps: list[tuple[str, int, int]]
) -> None:
    view = Viewport.of(shape, 20, 70)
    for name, first, second in steps:
        step = getattr(view, name)
        view = step(first, second) if name in ("moved", "panned", "at", "resized") else step()
        assert 0 <= view.row < shape[0] and 0 <= view.column < shape[1]
        cell = view.cursor_cell
        assert all(0 <= at < there for at, there in zip(cell, view.tiling.cells(shape, view.room), strict=True))


def test_what_is_framed_is_in_view_as_large_as_can_be() -> None:
    view = Viewport.of(LARGE, 20, 70).framed((2, 10), (5, 30))
    assert not view.is_whole
    rows, columns = view.tiling.cells(LARGE, view.room)
    seen = view.tiling.row, view.tiling.row + rows * view.tiling.rows_per_cell
    assert seen[0] <= 4 * 103 and seen[1] >= 12 * 103
    assert view.tiling.column <= 10 * 118 and view.tiling.column + columns * view.tiling.columns_per_cell >= 3600


def test_a_line_shows_one_row_or_two() -> None:
    assert [rows_of_line(Viewport.of(SMALL, 20, 70), line) for line in (0, 1, 2, 17, 18)] == [
        slice(0, 1), slice(0, 1), slice(1, 2), slice(8, 9), slice(9, 9),
    ]  # fmt: skip
    assert rows_of_line(Viewport.of(LARGE, 20, 70), 1) == slice(206, 412)


def test_column_numbers_stand_where_their_columns_begin() -> None:
    line = ruler(Viewport.of((9, 768), 20, 60), 60)
    assert line.startswith("0       104     208") and len(line) == 60
    numbers = Viewport.of((9, 768), 20, 60).written_out()
    assert ruler(numbers, 60).split() == ["0", "1", "2", "3", "4", "5"]
