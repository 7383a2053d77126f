"""What a golden file lets pass: the last digit of a decimal number, and nothing else."""

from __future__ import annotations

import pytest

from tests.tui.widgets import golden


@pytest.mark.parametrize(
    ("now", "same"),
    [
        ("rms 67.8m, 12 tokens", True), ("rms 67.6m, 12 tokens", True), ("rms 67.9m, 12 tokens", False),
        ("rms 6.77m, 12 tokens", False), ("rms 67.7m, 13 tokens", False), ("rms 67.7µ, 12 tokens", False),
    ],
)  # fmt: skip
def test_the_last_digit_of_a_decimal_number_may_be_off_by_one(now: str, same: bool) -> None:
    assert golden._same_but_last_digits("rms 67.7m, 12 tokens", now) is same
