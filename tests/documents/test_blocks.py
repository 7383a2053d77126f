"""Every block of commands in the documents is executed, or stands in a table with the reason why it is not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from aprtui.resources import kernel_cache
from tests.cli.conftest import Outcome, aprtui  # noqa: F401  # a fixture
from tests.conftest import CHECKOUT
from tests.documents.blocks import Block, blocks, code_told
from tests.documents.shelf import Shelf
from tests.documents.shell import Reader, Run
from tests.documents.table import ELSEWHERE, PAGES, Executed
from tests.test_documents import DOCUMENTS

_DATE = re.compile(r"20\d\d-?\d\d-?\d\d(T\d{6}Z)?")
_NUMBER = re.compile(r"\d*\.\d+(e[-+]\d+)?|\d+e[-+]\d+")

Value = TypeVar("Value")


def placed() -> Iterator[tuple[Block, Executed]]:
    for page, rows in PAGES.items():
        for block, row in zip(blocks(CHECKOUT / page), rows, strict=False):
            if isinstance(row, Executed):
                yield block, row


def marked(block: Block, row: Executed) -> object:
    marks = [pytest.mark.gate if row.in_gate else pytest.mark.slow]
    marks += [pytest.mark.group(group) for group in row.groups]
    return pytest.param(block, row, marks=marks, id=f"{block.page}: {row.starts}")


def test_every_block_is_executed_or_says_why_not() -> None:
    found = {str(document.relative_to(CHECKOUT)): tuple(blocks(document)) for document in DOCUMENTS}
    found = {page: each for page, each in found.items() if each and page not in ELSEWHERE}
    assert found.keys() == PAGES.keys()
    for page, each in found.items():
        starts = [row.starts for row in PAGES[page]]
        assert len(each) == len(starts), f"{page} has {len(each)} blocks, the table {len(starts)}"
        for block, start in zip(each, starts, strict=True):
            assert block.text.startswith(start), f"{page}:{block.line} begins otherwise than the table: {start}"
    for page, test in ELSEWHERE.items():
        assert (CHECKOUT / page).exists() and (CHECKOUT / test).exists()


def test_lines_that_are_left_out_and_codes_that_are_stated_are_of_the_block() -> None:
    for block, row in placed():
        for start in (*row.left_out, *row.codes, *row.shown):
            assert any(line.startswith(start) for line in block.lines), f"{block.page}:{block.line}: {start}"


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def reader(tmp_path: Path, aprtui: Run, monkeypatch: pytest.MonkeyPatch) -> Reader:  # noqa: F811
    monkeypatch.setenv("APRTUI_CACHE_DIR", str(kernel_cache().parent))
    monkeypatch.setenv("APRTUI_STATE_DIR", str(tmp_path / ".state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (folder := tmp_path / "reader").mkdir()
    monkeypatch.chdir(folder)
    return Reader(folder, aprtui)


@pytest.mark.parametrize(("block", "row"), [marked(block, row) for block, row in placed()])
def test_a_block_does_what_its_page_says(block: Block, row: Executed, reader: Reader, shelf: Shelf) -> None:
    for name, maker in row.names.items():
        shelf.put(maker, reader.folder / name)
    reader = replace(reader, in_process="transformers" not in row.groups)
    printed = ""
    for line in block.lines:
        if any(line.startswith(start) for start in row.left_out):
            continue
        told = code_told(line)
        expected = of_line(row.codes, line, told or 0)
        assert told in (None, expected), f"the page says exit code {told}, the table {expected}: {line}"
        done = reader.types(row.typed(line), of_line(row.shown, line, r"1 Live +2 Browse"))
        assert done.code == expected, (line, done.code, done.out[-3000:], done.err[-3000:])
        assert "Traceback" not in done.err, done.err
        assert told != 1 or named(line) in words(done), (line, done.out)
        printed += done.out
    shown = [part for line in block.printed for part in line.split("…") if part.strip()]
    missing = [part for part in shown if squeezed(part) not in squeezed(printed)]
    assert not missing, f"not printed: {missing}\n{printed}"


def of_line(table: Mapping[str, Value], line: str, otherwise: Value) -> Value:
    """What a table has for lines that begin so."""
    return next((value for start, value in table.items() if line.startswith(start)), otherwise)


def named(line: str) -> str:
    """What a comment says that FAILs."""
    return line.partition("# FAIL")[2].strip(": ").partition(",")[0]


def words(done: Outcome) -> str:
    return " ".join(done.out.split())


def squeezed(text: str) -> str:
    """Words without the width of columns, without dates, and without what rounding leaves."""
    return " ".join(_NUMBER.sub("#", _DATE.sub("#", text)).split())
