"""Progress on stderr: lines for people, records for a program that asks for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace

import pytest

from aprtui.cli import progress as module
from aprtui.cli.progress import ProgressLine
from aprtui.progress import RECORDS_VARIABLE, parse_progress_record, progress_record


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProgressLine]:
    """A line that has been waited for long enough to be shown."""
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.0)
    with ProgressLine() as line:
        yield line


def test_a_log_gets_a_line(late: ProgressLine, capsys: pytest.CaptureFixture[str]) -> None:
    late("comparing", 0, 54)
    assert capsys.readouterr().err == "aprtui: comparing 0/54 …\n"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that the test sets."""
    found = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: found.now))
    return found


def report(clock: SimpleNamespace, calls: Iterable[tuple[float, str, int]]) -> None:
    """Report progress at these seconds: what is being done, and how much of 9."""
    with ProgressLine() as line:
        for clock.now, what, done in calls:
            line(what, done, 9)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.removeprefix("aprtui: ") for line in capsys.readouterr().err.splitlines()]


def test_a_log_says_nothing_twice(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    report(clock, [(second, "looking for the cause,", 0) for second in range(120)])
    assert lines(capsys) == ["looking for the cause, 0/9 …"]


def test_a_log_has_a_line_every_ten_seconds_of_the_same_work(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    report(clock, [(second, "comparing", second // 4) for second in range(32)])
    assert [line.partition(",")[0].removesuffix(" …") for line in lines(capsys)] == [
        "comparing 0/9", "comparing 2/9", "comparing 5/9", "comparing 7/9"
    ]  # fmt: skip


def test_a_log_has_a_line_when_other_work_begins(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    report(clock, [(second, f"file {second // 5}", 0) for second in range(1, 15)])
    assert lines(capsys) == ["file 0 0/9 …", "file 1 0/9 …", "file 2 0/9 …"]


def test_a_program_that_asks_knows_that_the_work_goes_on(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(RECORDS_VARIABLE, "1")
    report(clock, [(second, "loading", 0) for second in range(1, 10)])
    assert len(lines(capsys)) == 5


def test_a_program_that_asks_gets_a_record(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(RECORDS_VARIABLE, "1")
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.0)
    with ProgressLine() as line:
        line("comparing", 0, 54)
    assert parse_progress_record(capsys.readouterr().err) == "comparing 0/54 …"


@pytest.mark.parametrize("line", ["", "aprtui: A has no tokens …", "{", "{}", '{"record": "stage"}', '["progress"]'])
def test_other_lines_are_no_progress(line: str) -> None:
    assert parse_progress_record(line) is None
    assert parse_progress_record(progress_record(line)) == line
