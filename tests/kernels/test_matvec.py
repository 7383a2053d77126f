"""Matrix-vector products of all formats against float64 on the same activations.

Bound: a product of n terms in float32, joined as a tree over 32 lanes, errs by about 6e-8 · sqrt(n / 32) of the size of
its sum, where the size of a sum of random terms is the root of the sum of their squares.
"""

from __future__ import annotations

import numpy as np
import pytest

from aprtui.engine.cuda.launches import WIDEST_NORM_BEHIND, norm_threads, variant
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight
from tests.engine.tiny_model import set_halves
from tests.kernels.cases import (
    FLOAT_TYPES,
    KINDS,
    NO_NORM,
    NO_Q8,
    activations,
    matrix,
    q8_out,
    rounded,
    weight_of,
    wide,
)
from tests.kernels.emulated import Images, InOut, Out, Struct

pytestmark = pytest.mark.group("emulator")

K_TYPES = tuple(kind for kind in KINDS if kind.format.block_values == 256)
BOUND = 4e-7


def run(
    image_of: Images,
    weight: Weight,
    x: np.ndarray,
    mode: str,
    at_once: int,
    orders: int = 3,
    extra: int = 3,
) -> np.ndarray:
    """`W x` by the kernel that takes so many tokens at once, `[tokens, rows]`.

    The room between rows of the output must stay untouched.
    """
    name, rows_of_block = f"matvec_{mode}_{at_once}", 8
    if name == "matvec_q8_1":
        one = weight.type in FLOAT_TYPES
        name, rows_of_block = ("matvec_exact_1", 8) if one else (variant(name, weight.type), 16)
    grid = (-(-weight.rows // rows_of_block), -(-len(x) // at_once))
    stride = weight.rows + extra
    floats = mode == "exact" or weight.type in FLOAT_TYPES
    given = activations(x, values=floats, q8=not floats)
    room = np.full((len(x), stride), np.float32(77))
    (y,) = image_of("matvec").run(
        name,
        grid,
        256,
        matrix(weight),
        given,
        None,
        InOut(room),
        None,
        len(x),
        stride,
        *([NO_NORM] if at_once == 1 else []),
        orders=orders,
    )
    assert (y[:, weight.rows :] == 77).all(), "wrote behind a row"
    return y[:, : weight.rows]


def error(found: np.ndarray, weight: Weight, x: np.ndarray, mode: str) -> float:
    w, given = wide(weight), rounded(x, weight, mode)
    size = np.linalg.norm(np.sqrt(given**2 @ (w**2).T))
    return float(np.linalg.norm(found - given @ w.T) / size)


@pytest.mark.parametrize("mode", ["exact", "q8"])
@pytest.mark.parametrize("at_once", [1, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_product_equals_float64(image_of: Images, kind: WeightType, mode: str, at_once: int) -> None:
    columns = 1280 if kind in K_TYPES else 1120  # 40 and 35 units: some lanes have two
    weight = weight_of(kind, 19, columns)
    x = np.random.default_rng(5).standard_normal((3, columns), np.float32)
    assert error(run(image_of, weight, x, mode, at_once), weight, x, mode) <= BOUND


@pytest.mark.parametrize("mode", ["exact", "q8"])
@pytest.mark.parametrize("kind", KINDS)
def test_bits_depend_on_row_and_token_alone(image_of: Images, kind: WeightType, mode: str) -> None:
    weight = weight_of(kind, 11, 512)
    x = np.random.default_rng(6).standard_normal((9, 512), np.float32)
    together = run(image_of, weight, x, mode, 8, orders=1)
    np.testing.assert_array_equal(together, run(image_of, weight, x, mode, 1, orders=1))
    np.testing.assert_array_equal(together[8:], run(image_of, weight, x[8:], mode, 8, orders=1))


@pytest.mark.parametrize("kind", [WeightType.Q4_K, WeightType.Q8_0])
def test_one_row_and_one_block_of_columns(image_of: Images, kind: WeightType) -> None:
    columns = 256 if kind in K_TYPES else 32
    weight = weight_of(kind, 1, columns)
    x = np.random.default_rng(7).standard_normal((1, columns), np.float32)
    for mode, at_once in (("exact", 1), ("q8", 1), ("q8", 8)):
        assert error(run(image_of, weight, x, mode, at_once), weight, x, mode) <= BOUND


def test_residual_is_added_in_float32(image_of: Images) -> None:
    weight = weight_of(WeightType.Q4_K, 20, 256)
    x, residual = np.random.default_rng(8).standard_normal((2, 256), np.float32), np.full((2, 20), 0.1, np.float32)
    product, total = image_of("matvec").run(
        "matvec_q8_1_q4_k",
        (2, 2),
        256,
        matrix(weight),
        activations(x),
        residual,
        Out((2, 20)),
        Out((2, 20)),
        2,
        20,
        NO_NORM,
    )
    np.testing.assert_array_equal(total, residual + product)


@pytest.mark.parametrize(("kernel", "rows"), [("matvec_q8_1_q4_k", 320), ("matvec_exact_1", 160)])
@pytest.mark.parametrize("magnitude", [1.0, 1e-25])
def test_a_norm_of_the_sum_has_the_bits_of_its_own_launch(
    image_of: Images, kernel: str, rows: int, magnitude: float
) -> None:
    weight, random = weight_of(WeightType.Q4_K, rows, 256), np.random.default_rng(8)
    x, residual, norm = (random.standard_normal((1, size), np.float32) for size in (256, rows, rows))
    of_block = 16 if kernel.startswith("matvec_q8") else 8
    wanted = Struct((norm * np.float32(magnitude), Out((1, rows)), q8_out(rows), InOut(np.zeros(1, np.uint32)), 1e-6))
    total, normed, levels, scales, counter = image_of("matvec").run(
        kernel, (-(-rows // of_block),), 256, matrix(weight), activations(x), residual, None, Out((1, rows)), 1, rows,
        wanted,
    )  # fmt: skip
    assert not counter.any(), "it is left at 0"
    expected = image_of("norm").run(
        "rms_norm", (1,), norm_threads(rows), total, norm * np.float32(magnitude), Out((1, rows)), q8_out(rows), rows,
        1e-6, orders=1,
    )  # fmt: skip
    for found, alone in zip((normed, levels, scales), expected, strict=True):
        np.testing.assert_array_equal(found, alone)


def test_a_norm_of_the_widest_sum_has_the_bits_of_its_own_launch(image_of: Images) -> None:
    rows = WIDEST_NORM_BEHIND
    weight, random = weight_of(WeightType.Q8_0, rows, 32), np.random.default_rng(9)
    x, residual, norm = (random.standard_normal((1, size), np.float32) for size in (32, rows, rows))
    wanted = Struct((norm, Out((1, rows)), NO_Q8, InOut(np.zeros(1, np.uint32)), 1e-6))
    total, normed, _ = image_of("matvec").run(
        "matvec_q8_1_q8_0", (rows // 16,), 256, matrix(weight), activations(x), residual, None, Out((1, rows)), 1, rows,
        wanted, orders=2,
    )  # fmt: skip
    (expected,) = image_of("norm").run(
        "rms_norm", (1,), norm_threads(rows), total, norm, Out((1, rows)), NO_Q8, rows, 1e-6, orders=1
    )
    np.testing.assert_array_equal(normed, expected)


@pytest.mark.parametrize("mode", ["exact", "q8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_activation_spoils_its_own_token_only(image_of: Images, mode: str, bad: float) -> None:
    weight = weight_of(WeightType.Q4_K, 9, 512)
    x = np.random.default_rng(9).standard_normal((3, 512), np.float32)
    clean = run(image_of, weight, x, mode, 8, orders=1)
    x[1, 300] = bad
    with np.errstate(invalid="ignore"):
        spoilt = run(image_of, weight, x, mode, 8, orders=1)
    assert not np.isfinite(spoilt[1]).any()
    np.testing.assert_array_equal(spoilt[[0, 2]], clean[[0, 2]])


def extreme(kind: WeightType) -> Weight:
    """Rows of the largest and the smallest levels that there are, with scales of 1."""
    weight = weight_of(kind, 4, 256)
    weight.data[:] = np.array([[0x00], [0xFF], [0x80], [0x7F]], np.uint8)
    set_halves(kind, weight.data, 1.0)
    return weight


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in FLOAT_TYPES])
def test_extreme_levels_do_not_overflow(image_of: Images, kind: WeightType) -> None:
    weight, x = extreme(kind), np.ones((2, 256), np.float32)
    x[1] = -1
    # Of a row in which levels cancel, the terms say how far it may be off.
    most = 1e-6 * np.abs(wide(weight)).sum(1)
    for mode in ("q8", "exact"):
        assert (np.abs(run(image_of, weight, x, mode, 1) - x.astype(np.float64) @ wide(weight).T) <= most).all(), mode
