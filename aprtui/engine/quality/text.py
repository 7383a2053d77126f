"""How a generated text is judged: by its repeated lines, and, of Python, by whether it parses."""

from __future__ import annotations

import ast
import re
import textwrap
from collections import Counter


def repeated_lines(text: str) -> int:
    """How often the most frequent line of `text` occurs; blank lines and the whitespace around a line do not count."""
    counts = Counter(line.strip() for line in text.splitlines() if line.strip())
    return max(counts.values(), default=0)


def complete_lines(text: str) -> str:
    """`text` up to and including its last line end; empty where there is none."""
    return text[: text.rfind("\n") + 1]


def parses(text: str) -> bool:
    """Whether the complete lines of `text`, dedented, are Python, with `pass` added where a block is open."""
    source = textwrap.dedent(complete_lines(text))
    return _is_python(source) or _is_python(source + _closing_pass(source))


def _closing_pass(source: str) -> str:
    """A `pass` line one level deeper than the last line of code."""
    code = [line for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    indent = re.match(r"\s*", code[-1]) if code else None
    return f"{indent.group() if indent else ''}    pass\n"


def _is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*[\w+-]*[ \t]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_CHAT_MARK = "<|"
"""In a prompt, of a chat template: such a prompt is no part of the program."""


def extracted_python(prompt: str, completion: str) -> str:
    """The program in a completion, by this rule; empty where there is none.

    1. The first fenced block of the completion; else the prompt and the completion, or the completion alone where the
       prompt has been through a chat template.
    2. Of that, as much as ends with the last complete statement: a last line without its end, and a last statement that
       is open (a bracket, a block without its body), were cut off. Nothing else is left out, so that an error in the
       middle is an error of the program.
    """
    fenced = _FENCE.search(completion)
    whole = fenced[2] if fenced else completion if _CHAT_MARK in prompt else prompt + completion
    source = textwrap.dedent(whole)
    for text in (source, complete_lines(source)):
        if _is_python(text) and (text.strip() or _is_open(source)):
            return text
    lines = source.splitlines(keepends=True)
    for end in range(len(lines) - 1, -1, -1):
        head, tail = "".join(lines[:end]), "".join(lines[end:])
        if _is_python(head):
            return head if _is_open(tail) else source
    return source


_OPEN = ("was never closed", "unterminated", "expected an indented block", "unexpected EOF")


def _is_open(text: str) -> bool:
    """Whether the last statement of `text` was begun and not ended, rather than wrong."""
    source = textwrap.dedent(text)
    lines = source.splitlines() or [""]
    try:
        ast.parse(source)
    except SyntaxError as error:
        at_end = (error.lineno or 0, error.offset or 0) > (len(lines), len(lines[-1]))
        return at_end or lines[-1].lstrip().startswith("@") or any(words in error.msg for words in _OPEN)
    except (ValueError, RecursionError, MemoryError):
        return False
    return False
