from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aprtui.engine.sampling import top_tokens


@given(st.integers(1, 700), st.integers(1, 12), st.integers(0, 2**32 - 1), st.booleans())
def test_the_largest_come_first_and_of_equals_the_lower_id(size: int, k: int, seed: int, few_values: bool) -> None:
    random = np.random.default_rng(seed)
    logits = random.integers(0, 4, size).astype(np.float32) if few_values else random.normal(size=size)
    expected = np.argsort(-logits, kind="stable")[:k]
    assert top_tokens(logits, k).tolist() == expected.tolist()


def test_minus_infinity_comes_last() -> None:
    logits = np.full(1000, -np.inf)
    logits[[900, 17]] = 1.0, 2.0
    assert top_tokens(logits, 3).tolist() == [17, 900, 0]
