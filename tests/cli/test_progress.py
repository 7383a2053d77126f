"""Progress on stderr: lines for people, records for a program that asks for them."""

from __future__ import annotations

from collections.abc import Iterator

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
