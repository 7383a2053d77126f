"""Tensor core products against the figures of the PTX ISA: which lane holds which element.

`mma.m16n8k16` and `mma.m16n8k32` with .s8 elements. The tables are written down from the manual, not from our kernels;
with g = lane / 4 and t = lane % 4, element i of a lane stands at:

    A of k16   row g (i < 4) or g + 8                    column 4t + i % 4
    A of k32   row g (i < 4, 8 <= i < 12) or g + 8       column 4t + i % 4 (i < 8) or 4t + i % 4 + 16
    B of k16   row 4t + i                                column g
    B of k32   row 4t + i % 4 (i < 4) or 4t + i % 4 + 16 column g
    C and D    row g (i < 2) or g + 8                    column 2t + i % 2

`mma.m16n8k16` with .f16 elements, and C and D as above:

    A          row g (i < 2, 4 <= i < 6) or g + 8        column 2t + i % 2 (i < 4) or 2t + i % 2 + 8
    B          row 2t + i % 2 (i < 2) or 2t + i % 2 + 8  column g
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from aprtui import resources
from tests.kernels.conftest import Images
from tests.kernels.emulated import Out

LANES = np.arange(32)
G, T = LANES[:, None] // 4, LANES[:, None] % 4


def places(depth: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Rows and columns `[32, elements]` of the fragments of A, B, and D."""
    a, b, d = np.arange(depth // 2), np.arange(depth // 4), np.arange(4)
    low = (a % 8 < 4) if depth == 32 else (a < 4)
    of_a = np.where(low, G, G + 8), 4 * T + a % 4 + np.where(a < 8, 0, 16)
    of_b = 4 * T + b % 4 + np.where(b < 4, 0, 16), G + 0 * b
    of_d = np.where(d < 2, G, G + 8), 2 * T + d % 2
    return of_a, of_b, of_d


@pytest.mark.group("emulator")
@pytest.mark.parametrize(("kernel", "depth"), [("shallow", 16), ("deep", 32)])
def test_lanes_hold_what_the_manual_says_they_hold(build_image: Images, kernel: str, depth: int) -> None:
    random = np.random.default_rng(depth)
    a, b = random.integers(-128, 128, (16, depth), np.int8), random.integers(-128, 128, (depth, 8), np.int8)
    of_a, of_b, of_d = places(depth)
    fragments = [np.ascontiguousarray(matrix[place]).view(np.int32) for matrix, place in ((a, of_a), (b, of_b))]
    (found,) = build_image(Path(__file__).parent / "fragments.cu").run(
        kernel, (1,), 32, *fragments, Out((32, 4), np.int32)
    )
    product = np.full((16, 8), 1 << 30, np.int32)
    product[of_d] = found
    np.testing.assert_array_equal(product, a.astype(np.int32) @ b.astype(np.int32))


def places_of_halves() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """The same of halves."""
    a, b = np.arange(8), np.arange(4)
    of_a = np.where(a % 4 < 2, G, G + 8), 2 * T + a % 2 + np.where(a < 4, 0, 8)
    of_b = 2 * T + b % 2 + np.where(b < 2, 0, 8), G + 0 * b
    return of_a, of_b, places(16)[2]


def products_of_halves(build_image: Images, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """c + a b by the emulated instruction, `[16, 8]`."""
    of_a, of_b, of_d = places_of_halves()
    fragments = [np.ascontiguousarray(matrix[place]).view(np.int32) for matrix, place in ((a, of_a), (b, of_b))]
    (found,) = build_image(Path(__file__).parent / "fragments.cu").run(
        "halves", (1,), 32, *fragments, np.ascontiguousarray(c[of_d]), Out((32, 4))
    )
    product = np.full((16, 8), np.nan, np.float32)
    product[of_d] = found
    return product


@pytest.mark.group("emulator")
def test_lanes_hold_halves_where_the_manual_says_they_hold_them(build_image: Images) -> None:
    random = np.random.default_rng(3)
    a, b, c = (random.integers(-99, 99, shape).astype("f2") for shape in ((16, 16), (16, 8), (16, 8)))
    c = c.astype("f4")
    np.testing.assert_array_equal(products_of_halves(build_image, a, b, c), a.astype("f4") @ b.astype("f4") + c)


@pytest.mark.group("emulator")
def test_sums_of_halves_are_cut_off_not_rounded(build_image: Images) -> None:
    a, b, c = np.ones((16, 16), "f2"), np.zeros((16, 8), "f2"), np.full((16, 8), 1, "f4")
    b[0, :4] = 2.0**-24  # half of the last place of 1: kept until the result is cut off
    b[1, :2] = 2.0**-24  # a second half: both make a whole
    b[1, 3] = -(2.0**-24)
    b[:, 4] = 2.0**-24  # sixteen halves make eight places
    a2 = a * np.float16(0.5)  # quarters are lost one by one
    found = products_of_halves(build_image, a, b, c)[0]
    np.testing.assert_array_equal((found.astype("f8") - 1) * 2**23, [1, 1, 0, 0, 8, 0, 0, 0])
    found = products_of_halves(build_image, a2, b, c)[0]
    np.testing.assert_array_equal(found, c[0])
    b[0, 5], b[1, 5] = np.inf, np.nan
    found = products_of_halves(build_image, a, b, c)[0]
    assert np.isnan(found[5])
    assert np.isfinite(found[:5]).all()


def test_every_element_has_one_place() -> None:
    for depth, found in ((16, places(16)), (32, places(32)), (16, places_of_halves())):
        for (rows, columns), shape in zip(found, ((16, depth), (depth, 8), (16, 8)), strict=True):
            counted = np.zeros(shape, int)
            np.add.at(counted, (rows, columns), 1)
            assert (counted == 1).all()


def test_the_instructions_get_the_registers_in_the_order_of_the_manual() -> None:
    text = (resources.kernels() / "mma.cuh").read_text()
    deep = re.search(r"m16n8k32\.row\.col\.s32\.s8\.s8\.s32 (.*?)\);", text, re.DOTALL)
    assert deep is not None
    # {d}, {a of rows g, g + 8 of k 0-15, then of k 16-31}, {b of k 0-15, then of k 16-31}, {c}
    assert "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10}" in deep[1]
    assert re.findall(r'"r"\(([\w.]+)\)', deep[1]) == ["a_low.x", "a_low.y", "a_high.x", "a_high.y", "b.x", "b.y", "0"]
    shallow = re.search(r"m16n8k16\.row\.col\.s32\.s8\.s8\.s32 (.*?)\);", text, re.DOTALL)
    assert shallow is not None
    assert "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %7, %7, %7}" in shallow[1]
    assert re.findall(r'"r"\(([\w.]+)\)', shallow[1]) == ["a.x", "a.y", "b", "0"]
    halves = re.search(r"m16n8k16\.row\.col\.f32\.f16\.f16\.f32 (.*?)\);", text, re.DOTALL)
    assert halves is not None
    # {d}, {a of rows g, g + 8 of k 0-7, then of k 8-15}, {b of k 0-7, then of k 8-15}, {c}
    assert "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13}" in halves[1]
    assert re.findall(r'"[rf]"\(([\w.]+)\)', halves[1]) == [
        *("a.x", "a.y", "a.z", "a.w"),
        *("b.x", "b.y"),
        *("c.x", "c.y", "c.z", "c.w"),
    ]
    of_turing = re.search(r"m16n8k8\.row\.col\.f32\.f16\.f16\.f32 (.*?)\);", text, re.DOTALL)
    assert of_turing is not None
    assert "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %7, %7, %7}" in of_turing[1]
    assert re.findall(r'"[rf]"\(([\w.]+)\)', of_turing[1]) == ["a", "a_below", "b", "0.0f"]
