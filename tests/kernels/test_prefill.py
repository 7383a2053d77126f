"""Matrix products of prompts against float64 on the same activations, and against the matrix-vector product.

Bound: sums over 128 columns follow one another in float32, so the error grows as the root of their number.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from aprtui import resources
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight
from tests.kernels.cases import FLOAT_TYPES, KINDS, activations, matrix, weight_of, wide
from tests.kernels.emulated import Images, InOut, Kernels, Out, Struct
from tests.kernels.test_matvec import K_TYPES, error, extreme
from tests.kernels.test_matvec import run as matvec

pytestmark = pytest.mark.group("emulator")

QUANTISED = [kind for kind in KINDS if kind not in FLOAT_TYPES]


def normal(*shape: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def product(weight: Weight, out: Out | InOut) -> Struct:
    """`Product` of prefill.cu."""
    return Struct((matrix(weight), out, None, None))


NONE = Struct((Struct((None, 0, 0, 0)), None, None, None))
NOT_SORTED = Struct((None, None, 0, 0)), Struct((None, None, 1 << 20))  # nor split


def matmul(image: Kernels, weight: Weight, x: np.ndarray, orders: int = 3) -> np.ndarray:
    """`x Wᵀ` `[tokens, rows]`; the room between rows of the output must stay untouched."""
    grid, stride = (-(-weight.rows // 128), -(-len(x) // 64)), weight.rows + 3
    (y,) = image.run(
        "matmul_q8", grid, 256, product(weight, InOut(np.full((len(x), stride), np.float32(77)))), NONE, NONE,
        activations(x, values=False), None, None, len(x), stride, *NOT_SORTED, orders=orders,
    )  # fmt: skip
    assert (y[:, weight.rows :] == 77).all(), "wrote behind a row"
    return np.asarray(y[:, : weight.rows])


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (19, 3), (130, 66), (128, 64)])
@pytest.mark.parametrize("kind", QUANTISED)
def test_product_equals_float64(image_of: Images, kind: WeightType, rows: int, tokens: int) -> None:
    columns = 512 if kind in K_TYPES else 32 * 13  # the last chunk of 128 is ragged
    weight, x = weight_of(kind, rows, columns), normal(tokens, columns)
    assert error(matmul(image_of("prefill"), weight, x), weight, x, "q8") <= 3e-7


@pytest.mark.parametrize("kind", QUANTISED)
def test_sums_over_many_columns_stay_within_what_replay_allows(image_of: Images, kind: WeightType) -> None:
    weight, x = weight_of(kind, 12, 18_944), normal(3, 18_944)
    found = matmul(image_of("prefill"), weight, x, orders=1)
    assert error(found, weight, x, "q8") <= 5e-7
    one_by_one = matvec(image_of, weight, x, "q8", 8, orders=1)
    assert np.linalg.norm(found - one_by_one) <= 5e-7 * np.linalg.norm(one_by_one)


@pytest.mark.parametrize("kind", QUANTISED)
def test_bits_depend_on_row_and_token_alone(image_of: Images, kind: WeightType) -> None:
    weight, x = weight_of(kind, 140, 256), normal(70, 256)
    together = matmul(image_of("prefill"), weight, x, orders=1)
    np.testing.assert_array_equal(together[5:6], matmul(image_of("prefill"), weight, x[5:6], orders=1))
    np.testing.assert_array_equal(together[33:], matmul(image_of("prefill"), weight, x[33:], orders=1))


def test_residual_is_added_in_float32(image_of: Images) -> None:
    weight, x = weight_of(WeightType.Q4_K, 20, 256), normal(2, 256)
    residual = np.full((2, 20), 0.1, np.float32)
    found, total = image_of("prefill").run(
        "matmul_q8",
        (1, 1),
        256,
        product(weight, Out((2, 20))),
        NONE,
        NONE,
        activations(x),
        residual,
        Out((2, 20)),
        2,
        20,
        *NOT_SORTED,
    )
    np.testing.assert_array_equal(total, residual + found)


def test_products_of_one_input_made_together_have_the_bits_of_each_alone(image_of: Images) -> None:
    kinds, x = (WeightType.Q4_K, WeightType.Q6_K, WeightType.IQ4_XS), normal(66, 256)
    for sizes in ((130, 20, 128), (20, 130)):
        weights = [weight_of(kind, rows, 256) for kind, rows in zip(kinds, sizes, strict=False)]
        parts = [product(weight, InOut(np.full((66, 131), np.float32(77)))) for weight in weights]
        tiles = sum(-(-rows // 128) for rows in sizes)
        found = image_of("prefill").run(
            "matmul_q8",
            (tiles, 2),
            256,
            *(*parts, NONE)[:3],
            activations(x, values=False),
            None,
            None,
            66,
            131,
            *NOT_SORTED,
        )
        for weight, together in zip(weights, found, strict=True):
            np.testing.assert_array_equal(together[:, : weight.rows], matmul(image_of("prefill"), weight, x, orders=1))
            assert (together[:, weight.rows :] == 77).all(), "wrote behind a row"


@pytest.mark.parametrize(("rows", "tokens", "turns"), [(140, 66, 1), (20, 3, 2), (130, 70, 4)])
def test_parts_of_the_columns_are_added_up_in_their_order_whatever_the_tokens(
    image_of: Images, rows: int, tokens: int, turns: int
) -> None:
    weight, x, tiles = weight_of(WeightType.Q4_0, rows, 32 * 21), normal(tokens, 32 * 21), -(-rows // 128)
    parts = -(-6 // turns)

    def multiply(x: np.ndarray, orders: int) -> np.ndarray:
        grid = tiles, -(-len(x) // 64), parts
        sums = np.full((tiles * grid[1] * parts, 8, 256, 4), np.nan, "f4")
        split = Struct((InOut(sums), InOut(np.zeros(tiles * grid[1], np.uint32)), turns))
        y, residual = InOut(np.full((len(x), rows), np.float32(77))), np.full((len(x), rows), 0.1, "f4")
        found, total, _, counters = image_of("prefill").run(
            "matmul_q8", grid, 256, product(weight, y), NONE, NONE, activations(x, values=False), residual,
            Out(residual.shape), len(x), rows, NOT_SORTED[0], split, orders=orders,
        )  # fmt: skip
        assert not counters.any(), "left as they were"
        np.testing.assert_array_equal(total, residual + found)
        return np.asarray(found)

    found = multiply(x, 3)
    assert error(found, weight, x, "q8") <= 3e-7
    np.testing.assert_array_equal(multiply(x[1:3], 1), found[1:3])
    columns = [slice(128 * turns * part, 128 * turns * (part + 1)) for part in range(parts)]
    in_order = np.zeros_like(found)
    for own in columns:
        blocks = weight.data.reshape(rows, 21, -1)[:, own.start // 32 : own.stop // 32]
        of_part = Weight("part", weight.type, rows, 32 * blocks.shape[1], blocks.reshape(rows, -1))
        in_order += matmul(image_of("prefill"), of_part, np.ascontiguousarray(x[:, own]), orders=1)
    np.testing.assert_array_equal(found, in_order)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_activation_spoils_its_own_token_only(image_of: Images, bad: float) -> None:
    weight, x = weight_of(WeightType.Q4_K, 9, 512), normal(3, 512)
    clean = matmul(image_of("prefill"), weight, x, orders=1)
    x[1, 300] = bad
    with np.errstate(invalid="ignore"):
        spoilt = matmul(image_of("prefill"), weight, x, orders=1)
    assert not np.isfinite(spoilt[1]).any()
    np.testing.assert_array_equal(spoilt[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("kind", QUANTISED)
def test_extreme_levels_do_not_overflow(image_of: Images, kind: WeightType) -> None:
    weight, x = extreme(kind), np.ones((2, 256), np.float32)
    x[1] = -1
    found = matmul(image_of("prefill"), weight, x, orders=1)
    np.testing.assert_allclose(found, x.astype(np.float64) @ wide(weight).T, rtol=1e-6)


BARRIERS = {
    "before": "    __syncthreads();\n    if (busy)",
    "after": "sums);\n    __syncthreads();\n",
}


@pytest.mark.parametrize("place", list(BARRIERS))
def test_a_missing_barrier_is_found(build_image: Images, tmp_path: Path, place: str) -> None:
    source, text = (resources.kernels() / "prefill.cu").read_text(), BARRIERS[place]
    assert source.count(text) == 1
    planted = tmp_path / f"prefill_{place}.cu"
    planted.write_text(source.replace(text, text.replace("    __syncthreads();\n", "")))
    with pytest.raises(AssertionError, match="depends on the order of threads"):
        matmul(build_image(planted), weight_of(WeightType.Q4_K, 64, 512), normal(40, 512))


def ways(words: np.ndarray, width: int) -> int:
    """How often one bank of 32 is met at most by lanes that move `width` words from `words` on, `128 / width / 4` at a
    time: as many as move 128 bytes."""
    of_lanes = (words[:, None] + np.arange(width)) % 32
    phases = of_lanes.reshape(-1, 32)
    return int(max(np.bincount(phase, minlength=32).max() for phase in phases))


def test_weights_of_a_tile_are_stored_and_loaded_without_waiting_for_banks(build_image: Images) -> None:
    image = build_image(Path(__file__).with_name("banks.cu"))
    (words,) = image.run("banks", (1,), 1, Out((64, 4, 4), np.int32), orders=1)
    assert np.unique(words).size == words.size, "each has its own place"
    lanes = np.arange(32)
    for block, first in itertools.product(range(4), range(0, 64, 8)):
        assert ways(words[first + lanes // 4, block, lanes % 4], 4) == 1
    for warp, word, half in itertools.product(range(8), range(4), range(2)):
        pair, part = 8 * warp + lanes // 4, lanes % 4
        assert ways(words[pair, part, word] + 2 * half, 2) <= 2, "blocks of 32"
        of_k_quants = words[pair, part // 2 * 2 + half, word] + 2 * (part % 2)
        assert ways(of_k_quants, 2) == 1
