"""Words that verdicts, reasons and reports share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

NOTHING_COMPARED = "nothing was compared"
UNCOMPARED = "could not be compared"
"""The end of the reason for UNKNOWN where stages are missing, or cannot be read."""
UNBOUNDED = "and nothing says how much is allowed"
"""The end of the reason for UNKNOWN where stages differ that nothing judges."""


def counted(count: int, noun: str) -> str:
    """`count` with its noun: "1 stage", "2 stages"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(words: Iterable[str]) -> str:
    """`a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def first_tokens(count: int) -> str:
    return "the first token" if count == 1 else f"the first {count} tokens"


def ranges(numbers: Sequence[int]) -> str:
    """`0–3, 7` for sorted numbers."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def number_text(number: float | str | None) -> str:
    """Three significant digits; – for what is not known. Numbers that are not finite may be strings, as in JSON."""
    return "–" if number is None else f"{float(number):.3g}"


def figures_text(metric: str, error: float | None, floor: float | None, bound: float | None) -> str:
    """What was judged, and what it was held against."""
    return f"{metric} {number_text(error)}, floor {number_text(floor)}, bound {number_text(bound)}"
