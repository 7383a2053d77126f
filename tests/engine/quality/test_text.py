"""How generated texts are judged."""

from __future__ import annotations

import pytest

from aprtui.engine.quality.text import _is_python, complete_lines, extracted_python, parses, repeated_lines


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


FIB = "def fib(n):\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)\n"


@pytest.mark.parametrize(
    ("prompt", "completion", "program"),
    [
        ("def fib(n):", FIB.removeprefix("def fib(n):"), FIB),
        ("def fib(n):", FIB.removeprefix("def fib(n):") + "print(fib(1", FIB),
        ("def fib(n):", FIB.removeprefix("def fib(n):") + "for x in range(3):\n", FIB),
        ("def fib(n):", FIB.removeprefix("def fib(n):") + "try:\n    fib(3)\n", FIB),
        ("<|im_start|>user\nfib?<|im_end|>\n", f"Sure:\n```python\n{FIB}```\nIt is slow.", FIB),
        ("<|im_start|>user\nfib?<|im_end|>\n", f"~~~\n{FIB}", FIB),
        ("x", "", "x"),
    ],
)
def test_the_program_in_a_completion_ends_with_its_last_complete_statement(
    prompt: str, completion: str, program: str
) -> None:
    assert extracted_python(prompt, completion) == program


@pytest.mark.parametrize("middle", ["def g(:\n    pass\n", "return )\n", "  x = 1\n"])
def test_an_error_in_the_middle_is_not_left_out(middle: str) -> None:
    program = extracted_python("", f"{middle}{FIB}")
    assert middle in program and not _is_python(program)
    program = extracted_python("", f"{FIB}{middle}")
    assert not _is_python(program), "a wrong last line that is complete was not cut off"
