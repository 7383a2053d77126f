"""Numbers as text: values, values in a few cells, shares, sizes, durations, ages and shapes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

UNKNOWN = "–"
"""Stands for a number that is not known."""

_PREFIXES = {-12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}


def number(value: float | None, digits: int = 3) -> str:
    """`value` with `digits` significant digits; NaN and Inf by name, `–` for None."""
    if value is None:
        return UNKNOWN
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Inf" if value > 0 else "−Inf"
    return f"{value:.{digits}g}".replace("-", "−")


def column_number(value: float | None, digits: int = 3) -> str:
    """The same for a column of numbers, whose digits stand below each other: `7.00`, `10.0`, `−0.120`."""
    if not value or not math.isfinite(value):
        return number(value)
    return f"{value:#.{digits}g}".removesuffix(".").replace("-", "−")


def range_text(ends: tuple[float, float]) -> str:
    """Both ends of a range: `1e−05…0.002`."""
    return f"{number(ends[0])}…{number(ends[1])}"


@lru_cache(1 << 16)
def short_number(value: float, width: int) -> str:
    """`value` ≥ 0 in at most `width` ≥ 3 characters and three digits, with SI prefixes: `43m`, `.43`, `4.3`, `4k`.

    Widths below 3 give an empty text; values too small or too large for the prefixes give `~0` and `>T`.
    """
    if width < 3:
        return ""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Inf"
    if value < 1e-12 or value >= 1e15:
        return "~0" if value < 1 else ">T"
    exponent = 3 * math.floor(math.log10(value) / 3)
    for power in (0,) if exponent == -3 and value >= 0.09951 else (exponent, exponent + 3):
        for digits in (3, 2, 1):
            text = _digits(value / 10.0**power, digits) + _PREFIXES.get(power, "?")
            if len(text) <= width and "?" not in text:
                return text
    return ">T"


def signed_short_number(value: float, width: int) -> str:
    """`value` with its sign in at most `width` ≥ 4 characters, as `short_number` writes it."""
    return f"{'−' if value < 0 else '+'}{short_number(abs(value), width - 1)}"


def _digits(value: float, digits: int) -> str:
    """`value` < 1000 with `digits` significant digits and no exponent; 1000 where it rounds up to that."""
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(rounded)))
    text = f"{rounded:.{decimals}f}"
    # A leading 0 is worth its place only where it costs no digit.
    return text[1:] if digits < 3 and text.startswith("0.") else text


def size_text(count: int) -> str:
    """`count` bytes: `941 kB`, `2.3 MB`."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.3g} {unit}"


def age_text(seconds: float) -> str:
    """How long ago something was: `now`, `40 s`, `2 min`, `2 h`, `2 d`."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return "now" if seconds < 10 else f"{seconds // 10 * 10:.0f} s"


def shape_text(shape: Iterable[int]) -> str:
    """`22×256`."""
    return "×".join(map(str, shape))


def percent(share: float) -> str:
    """A share in three digits, of which two after the point at most: `71.2 %`, `0.18 %`, `<0.01 %`."""
    if math.isnan(share):
        return "unknown"
    if 0 < share < 1e-4:
        return "<0.01 %"
    return f"{100 * share:.3g} %" if share >= 0.01 or share == 0 else f"{100 * share:.2f} %"


def duration(value: float) -> str:
    """`value` seconds with three digits: `2.5 µs`, `48.1 ms`, `2.00 s`."""
    if value < 1e-6:
        return f"{value * 1e9:.3g} ns"
    if value < 1e-3:
        return f"{value * 1e6:.3g} µs"
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.2f} s"
