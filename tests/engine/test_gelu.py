"""GELU: its definition, and the table in which ggml's CPU backend looks it up."""

from __future__ import annotations

import math

import numpy as np

from aprtui.engine.gelu import gelu_f16, gelu_table, gelu_tanh


def test_gelu_is_the_approximation_by_tanh() -> None:
    for x in (-4.0, -0.5, 0.0, 0.3, 2.0, 30.0):
        expected = 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        assert math.isclose(gelu_tanh(np.array([x]))[0], expected, rel_tol=1e-9, abs_tol=1e-12)


def test_results_looked_up_are_near_in_float16_and_exact_at_the_ends() -> None:
    x = np.linspace(-12, 12, 4801).astype(np.float32)
    found = gelu_f16(x)
    np.testing.assert_allclose(found, gelu_tanh(x.astype(np.float64)), rtol=2e-3, atol=5e-4)
    assert (found[x <= -10] == 0).all()
    np.testing.assert_array_equal(found[x >= 10], x[x >= 10])
    assert np.isnan(gelu_f16(np.array([np.nan], np.float32))).all()


def test_the_table_holds_what_ggml_computes() -> None:
    """Entries of `ggml_table_gelu_f16` of llama.cpp; the first needs 1 + a·x² to be rounded once."""
    patterns = {-1.9990234375: -0.045501708984375, 1.0: 0.84130859375, -1.0: -0.158813476562, 0.5: 0.345703125}
    for x, expected in patterns.items():
        pattern = np.array([x], np.float16).view(np.uint16)[0]
        assert math.isclose(gelu_table()[pattern], expected, rel_tol=1e-6), x
