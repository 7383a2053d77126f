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
    except (SyntaxError, ValueError):
        return False
    return True
