"""Progress as a line: rate and time left from the reports alone, in every width."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from aprtui.tui.draw.progress import WorkProgress, progress_line

READING = "reading weights, MB"


def reading(*reports: tuple[int, float]) -> WorkProgress:
    """Work of 400 MB that was reported like this: MB done, and when."""
    (first, begun), *later = reports
    work = WorkProgress.new(READING, first, 400, begun)
    for done, now in later:
        work = work.taken(READING, done, 400, now)
    return work


def test_what_how_far_how_fast_how_long_yet_and_what_ends_it_are_said() -> None:
    work = reading((0, 10.0), (50, 10.5), (100, 11.0))
    assert work.rate == 100 and work.seconds_left(11.0) == 3 and work.seconds_left(12.0) == 2
    line = progress_line(work, 11.0, "c cancels", 100, ascii_only=False)
    assert line == f"reading weights {'█' * 6}{'·' * 18} 100/400 MB, 100 MB/s, 3 s left, c cancels"
    assert progress_line(work, 11.0, "c cancels", 100, ascii_only=True).count("#") == 6


def test_with_less_room_the_bar_goes_first_then_the_time_and_never_what_ends_it() -> None:
    work = reading((0, 10.0), (100, 11.0))
    lines = {width: progress_line(work, 11.0, "c cancels", width, ascii_only=False) for width in (66, 62, 55, 45)}
    assert lines == {
        66: "reading weights ██······ 100/400 MB, 100 MB/s, 3 s left, c cancels",
        62: "reading weights 100/400 MB, 100 MB/s, 3 s left, c cancels",
        55: "reading weights █▊····· 100/400 MB, 100 MB/s, c cancels",
        45: "reading weights █▊····· 100/400 MB, c cancels",
    }


def test_before_there_is_a_rate_no_time_is_claimed() -> None:
    assert reading((40, 10.0)).seconds_left(20.0) is None
    assert reading((40, 10.0), (50, 10.1)).seconds_left(10.1) is None
    line = progress_line(reading((40, 10.0)), 10.0, "c cancels", 80, ascii_only=False)
    assert "left" not in line and "40/400 MB, c cancels" in line


def test_what_was_done_before_the_first_report_does_not_count_for_the_rate() -> None:
    assert reading((300, 10.0), (350, 11.0)).rate == 50


def test_other_work_and_work_from_the_beginning_begin_anew() -> None:
    work = reading((0, 10.0), (100, 11.0))
    assert work.taken("compiling kernels", 1, 14, 12.0) == WorkProgress.new("compiling kernels", 1, 14, 12.0)
    assert work.taken(READING, 10, 400, 12.0).rate == 0
    line = progress_line(WorkProgress.new("compiling kernels", 7, 14, 1.0), 1.0, "c cancels", 80, ascii_only=False)
    assert line.endswith(" 7/14, c cancels") and line.startswith("compiling kernels ████████████····")


@given(st.integers(0, 500), st.integers(0, 500), st.floats(0, 1e6), st.integers(0, 200), st.booleans())
def test_the_line_never_exceeds_its_room(done: int, total: int, seconds: float, width: int, ascii_only: bool) -> None:
    work = WorkProgress(READING, done, total, 0.0, 0, seconds)
    line = progress_line(work, seconds, "c cancels", width, ascii_only)
    assert cell_len(line) <= width and (not ascii_only or line.replace("…", "").isascii())


@pytest.mark.parametrize(("seconds", "words"), [(5, "5 s left"), (300, "5 min left"), (9000, "2.5 h left")])
def test_long_times_are_minutes_and_hours(seconds: float, words: str) -> None:
    work = WorkProgress(READING, 10, 10 + round(seconds), 0.0, 0, 10.0)
    assert words in progress_line(work, 10.0, "c cancels", 120, ascii_only=False)
