"""Values as JSON can say them (RFC 8259): non-finite numbers as the strings `"nan"`, `"inf"`, `"-inf"`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def json_value(value: Any) -> Any:
    """`value` with every non-finite float, at any depth, as its string."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        return {key: json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(entry) for entry in value]
    return value


def json_number(value: Any) -> Any:
    """The number that `value`, read from JSON, stands for; `value` itself where it is no such string."""
    return float(value) if value in ("nan", "inf", "-inf") else value
