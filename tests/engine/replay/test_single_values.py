"""What happened to a single value."""

from __future__ import annotations

import math

import pytest

from aprtui.engine.alternatives.written import _kind


@pytest.mark.parametrize(
    ("own", "found", "said"),
    [
        (1.5, -1.5, "has the other sign"), (1.5, 0.0, "is zero"), (0.1, 0.1 * 2.0**128, "one bit of its exponent"),
        (1.5, math.inf, "is Inf, and nothing"), (1.5, -math.inf, "is −Inf, and nothing"),
        (1.5, math.nan, "is NaN, and nothing"), (math.nan, math.nan, None), (1.5, 1.7, None),
    ],
)  # fmt: skip
def test_a_value_is_explained_by_a_bit_or_as_lost_or_not_at_all(own: float, found: float, said: str | None) -> None:
    kind = _kind(own, found)
    assert (kind is None) is (said is None) and (said or "") in (kind or "")
