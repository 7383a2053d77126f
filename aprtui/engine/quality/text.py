"""How the embedded model's text is judged: repeated lines, parseable Python, and bits per byte beside primed xz.

Pure functions of text and bytes; who generated the text does not matter here.
"""

from __future__ import annotations

import ast
import lzma
import re
import textwrap
from collections import Counter

import numpy as np
import numpy.typing as npt

MOST_REPEATS = 2


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


def primed_xz_bits_per_byte(primer: bytes, text: bytes) -> float:
    """Bits `xz` adds for each byte of `text` when it follows `primer`: preset 9 | EXTREME, one dictionary over both.

    The preset's own 64 MiB dictionary is enlarged where the texts are longer, so that none of the primer is forgotten.
    Raises ValueError for an empty `text`.
    """
    if not text:
        raise ValueError("bits per byte of an empty text are undefined")
    preset = 9 | lzma.PRESET_EXTREME
    dictionary = max(64 << 20, 1 << (len(primer) + len(text) - 1).bit_length())
    filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": dictionary}]

    def size(content: bytes) -> int:
        return len(lzma.compress(content, format=lzma.FORMAT_XZ, filters=filters))

    return 8.0 * (size(primer + text) - size(primer)) / len(text)


def draw(logits: npt.NDArray[np.floating], temperature: float, generator: np.random.Generator) -> int:
    """One token id from `logits` [vocabulary]: softmax of logits / temperature in float64, inverse CDF in id order."""
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    cumulative = np.cumsum(weights / weights.sum())
    return min(int(np.searchsorted(cumulative, generator.random(), side="right")), len(cumulative) - 1)
