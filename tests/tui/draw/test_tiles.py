"""Tiles: what stands for the values of a cell, where a tiling may lie, and what a level says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aprtui.tui.draw import tiles
from aprtui.tui.draw.colours import LEVELS, ColourMap, Mark
from aprtui.tui.draw.tiles import (
    Read,
    Scale,
    ScaleKind,
    Tiling,
    finite_range,
    largest,
    panned,
    reduced,
    scale_for,
    showing,
    whole,
    zoomed,
)


def reading(array: NDArray[np.float32]) -> Read:
    return lambda rows, columns: array[rows, columns]


def expected(array: NDArray[np.float32], tiling: Tiling, room: tuple[int, int]) -> NDArray[np.float32]:
    """The same, one value at a time."""
    rows, columns = tiling.cells(array.shape, room)
    tile = np.zeros((rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            values = array[tiling.values(row, column, array.shape)].reshape(-1).tolist()
            ranks = [(2, 0.0) if np.isnan(v) else (1, 0.0) if np.isinf(v) else (0, abs(v)) for v in values]
            tile[row, column] = values[ranks.index(max(ranks))]
    return tile


numbers = st.one_of(
    st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e-40])
)


@given(st.data())
def test_a_cell_shows_the_value_of_largest_magnitude_whatever_the_values_are(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    values = data.draw(st.lists(numbers, min_size=rows * columns, max_size=rows * columns))
    array = np.array(values, np.float32).reshape(rows, columns)
    tiling = Tiling(
        data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1)),
        data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)),
    )  # fmt: skip
    room = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    found, wanted = reduced(reading(array), array.shape, tiling, room), expected(array, tiling, room)
    assert np.array_equal(np.abs(found), np.abs(wanted), equal_nan=True)


def test_the_sign_of_the_largest_value_survives() -> None:
    array = np.array([[1, -2, 3, -4], [0.5, 2.5, -3.5, 1]], np.float32)
    assert reduced(reading(array), array.shape, Tiling(0, 0, 2, 2), (8, 8)).tolist() == [[2.5, -4]]


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000, 0xFF800001, 0x7F800001])
def test_every_kind_of_nan_wins_over_infinity(bits: int) -> None:
    array = np.array([[np.inf, -np.inf, 5, 0]], np.float32)
    array.view(np.uint32)[0, 3] = bits
    assert np.isnan(reduced(reading(array), array.shape, Tiling(0, 0, 1, 4), (1, 1))).all()
    assert np.isnan(largest(reading(array), slice(0, 1), slice(0, 4))[2])


def test_one_wrong_number_among_millions_is_seen_and_found_again() -> None:
    array = np.random.default_rng(1).standard_normal((1000, 3000)).astype(np.float32)
    array[777, 2345] = -40
    tiling = whole(array.shape, (20, 70))
    tile = reduced(reading(array), array.shape, tiling, (20, 70))
    assert tile[tiling.cell(777, 2345)] == -40
    rows, columns = tiling.values(*tiling.cell(777, 2345), array.shape)
    assert largest(reading(array), rows, columns) == (777, 2345, np.float32(-40))


def test_only_what_is_seen_is_read_in_pieces_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "CHUNK", 50)
    asked: list[tuple[int, int, int, int]] = []
    array = np.zeros((100, 40), np.float32)

    def read(rows: slice, columns: slice) -> NDArray[np.float32]:
        asked.append((rows.start, rows.stop, columns.start, columns.stop))
        return array[rows, columns]

    reduced(read, array.shape, Tiling(10, 20, 3, 2), (4, 5))
    assert min(rows for rows, *_ in asked) == 10 and max(stop for _, stop, *_ in asked) == 22
    assert {(left, right) for _, _, left, right in asked} == {(20, 30)}
    reduced(read, array.shape, whole(array.shape, (2, 40)), (2, 40))
    assert max((stop - start) * (right - left) for start, stop, left, right in asked) <= 50


def test_what_is_cancelled_reads_no_more() -> None:
    asked = []

    def read(rows: slice, columns: slice) -> NDArray[np.float32]:
        asked.append(rows)
        return np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.float32)

    reduced(read, (100, 100), Tiling(), (100, 100), lambda: len(asked) >= 3)
    assert len(asked) == 3


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 0)])
def test_an_empty_array_is_an_empty_tile(shape: tuple[int, int]) -> None:
    array = np.zeros(shape, np.float32)
    tiling = whole(shape, (10, 10))
    assert reduced(reading(array), shape, tiling, (10, 10)).size == 0
    assert reduced(reading(np.zeros((3, 3), np.float32)), (3, 3), Tiling(), (0, 0)).size == 0


def test_all_of_an_array_fits() -> None:
    tiling = whole((4096, 8192), (96, 200))
    assert tiling == Tiling(0, 0, 43, 41)
    assert tiling.cells((4096, 8192), (96, 200)) == (96, 200)
    assert whole((22, 256), (96, 300)) == Tiling(0, 0, 1, 1)


def test_zooming_ends_at_single_values_and_at_the_whole() -> None:
    shape, room = (4096, 8192), (96, 200)
    tiling = whole(shape, room)
    sizes = []
    for _ in range(8):
        tiling = zoomed(tiling, shape, room, 0.5, 1000, 7000)
        sizes.append((tiling.rows_per_cell, tiling.columns_per_cell))
        row, column = tiling.cell(1000, 7000)
        assert 0 <= row < room[0] and 0 <= column < room[1]
    assert sizes[-1] == (1, 1) and sizes[0] == (22, 21)
    for _ in range(8):
        tiling = zoomed(tiling, shape, room, 2, 1000, 7000)
    assert tiling == whole(shape, room)


def test_panning_ends_where_the_array_ends() -> None:
    shape, room = (100, 100), (10, 10)
    tiling = Tiling(0, 0, 2, 3)
    assert panned(tiling, shape, room, 5, 5) == Tiling(10, 15, 2, 3)
    assert panned(tiling, shape, room, -1, -1) == tiling
    end = panned(tiling, shape, room, 500, 500)
    assert end.cells(shape, room) == room
    assert end.cell(99, 99) == (9, 9)


def test_a_value_comes_into_view_by_the_shortest_way() -> None:
    shape, room = (100, 100), (10, 10)
    assert showing(Tiling(20, 20), shape, room, 25, 25) == Tiling(20, 20)
    assert showing(Tiling(20, 20), shape, room, 30, 19) == Tiling(21, 19)
    assert showing(Tiling(20, 20), shape, room, 0, 99) == Tiling(0, 90)


def test_levels_rise_with_the_values_on_each_scale() -> None:
    values = np.array([-8, -1e-3, 1e-3, 8], np.float32)
    assert Scale(ScaleKind.LINEAR, -8, 8).levels(values).tolist() == [0, 31, 32, LEVELS - 1]
    assert Scale(ScaleKind.SYMMETRIC, 1, 8).levels(values).tolist() == [0, 31, 32, LEVELS - 1]
    logs = Scale(ScaleKind.LOG, 1e-3, 8).levels(values).tolist()
    assert logs == [LEVELS - 1, 0, 0, LEVELS - 1]
    assert Scale(ScaleKind.SYMMETRIC, 1, 8).colour_map is ColourMap.DIVERGING


def test_clipped_zero_and_nonfinite_values_are_marked() -> None:
    values = np.array([-3, 3, 0, np.inf, np.nan], np.float32)
    linear = Scale(ScaleKind.LINEAR, -1, 1).levels(values).tolist()
    assert linear == [Mark.BELOW, Mark.ABOVE, 32, Mark.INF, Mark.NAN]
    log = Scale(ScaleKind.LOG, 0.1, 1).levels(np.array([-3, 0.01, 0, -np.inf, np.nan], np.float32)).tolist()
    assert log == [Mark.ABOVE, Mark.BELOW, Mark.ZERO, Mark.INF, Mark.NAN]


@given(st.lists(st.floats(width=32), min_size=1, max_size=20), st.sampled_from(list(ScaleKind)))
def test_a_scale_made_for_some_values_clips_none_of_them_above(values: list[float], kind: ScaleKind) -> None:
    array = np.array(values, np.float32)
    levels = scale_for(kind, *finite_range(array)).levels(array)
    finite = np.isfinite(array)
    assert (levels[np.isnan(array)] == Mark.NAN).all() and (levels[np.isinf(array)] == Mark.INF).all()
    assert Mark.ABOVE not in levels
    if kind is not ScaleKind.LOG:
        assert (levels[finite] < LEVELS).all()


def test_equal_values_are_in_the_middle_and_nothing_has_a_scale_too() -> None:
    equal = np.full(3, 5, np.float32)
    assert scale_for(ScaleKind.LINEAR, *finite_range(equal)).levels(equal).tolist() == [32, 32, 32]
    nothing = np.full(2, np.nan, np.float32)
    for kind in ScaleKind:
        assert scale_for(kind, *finite_range(nothing)).levels(nothing).tolist() == [Mark.NAN] * 2
