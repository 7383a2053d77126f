"""How generated texts are judged."""

from __future__ import annotations

import pytest

from aprtui.engine.quality.text import complete_lines, parses, repeated_lines


def test_the_most_frequent_line_is_counted_without_blank_lines_and_indentation() -> None:
    assert repeated_lines("a\n\n\n\n  a\nb\n\ta  \n") == 3
    assert repeated_lines("") == 0
    assert repeated_lines("\n \n") == 0


def test_an_unfinished_last_line_is_left_out() -> None:
    assert complete_lines("x = 1\ny = (") == "x = 1\n"
    assert complete_lines("no line end") == ""


@pytest.mark.parametrize(
    "text",
    [
        "def fib(n):\n    return n\n\nclass A(",
        "def fib(n):\n",
        "def fib(n):\n    if n < 2:\n        # small\n",
        "    if n:\n        x = 1\n    else:\n",
        "",
    ],
)
def test_python_that_was_merely_cut_off_parses(text: str) -> None:
    assert parses(text)


@pytest.mark.parametrize(
    "text",
    [
        "def fib(n:\n    pass\n",
        "x = (1,\n",
        "return = 3\n",
        "if x:\n    y = 1\n   z = 2\n",
        "text = '''never closed\n",
        "a\0b\n",
    ],
)
def test_broken_python_does_not_parse(text: str) -> None:
    assert not parses(text)
