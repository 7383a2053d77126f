"""Statistics on the device are the sums of `aprtui.trace.stats.accumulate`."""

from __future__ import annotations

import numpy as np
import pytest

from aprtui.trace.stats import Accumulator, accumulate, causal
from tests.kernels.cases import step
from tests.kernels.emulated import DeviceStruct, Images, Out, Struct

pytestmark = pytest.mark.group("emulator")

SUMS = np.dtype(
    [
        ("total", "f8"),
        ("squares", "f8"),
        ("min", "f4"),
        ("max", "f4"),
        *((n, "u4") for n in ("count", "nan", "inf", "_")),
    ]
)


def collect(
    image_of: Images, values: np.ndarray, parts: int, *, width: int, position: int = 0, queries: int = 0
) -> Accumulator:
    """The merged sums of one record whose rows lie `values.shape[-1]` apart."""
    rows, stride = values.size // values.shape[-1], values.shape[-1]
    record = DeviceStruct(Struct((values, rows, width, stride, queries)))
    (sums,) = image_of("statistics").run(
        "stage_statistics", (1, parts), 256, record, step(position), Out((parts,), SUMS)
    )
    merged = Accumulator()
    for part in sums:
        merged.merge(
            Accumulator(*(part[name].item() for name in ("count", "nan", "inf", "min", "max", "total", "squares")))
        )
    return merged


def assert_same(found: Accumulator, expected: Accumulator) -> None:
    assert (found.count, found.nan, found.inf) == (expected.count, expected.nan, expected.inf)
    assert (found.min, found.max) == (expected.min, expected.max)
    assert found.total == pytest.approx(expected.total, rel=1e-12, abs=1e-9)
    assert found.squares == pytest.approx(expected.squares, rel=1e-12)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(("stride", "width"), [(1000, 900), (1001, 999), (9000, 8964)])
def test_sums_are_those_of_the_accumulator(image_of: Images, parts: int, stride: int, width: int) -> None:
    values = np.random.default_rng(1).standard_normal((3, stride), np.float32) + 5
    assert_same(collect(image_of, values, parts, width=width), accumulate(values[:, :width]))


def test_nan_and_inf_are_counted_and_left_out(image_of: Images) -> None:
    values = np.random.default_rng(2).standard_normal((1, 777), np.float32)
    values[0, [3, 400]], values[0, [5, 6, 776]] = np.nan, [np.inf, -np.inf, np.inf]
    assert_same(collect(image_of, values, 2, width=777), accumulate(values))


def test_nothing_finite_leaves_the_limits_open(image_of: Images) -> None:
    values = np.full((1, 40), np.nan, np.float32)
    found = collect(image_of, values, 1, width=40)
    assert (found.count, found.nan, found.min, found.max, found.total) == (40, 40, np.inf, -np.inf, 0)


def test_of_attention_maps_only_keys_up_to_the_query_count(image_of: Images) -> None:
    maps = np.random.default_rng(3).standard_normal((4, 5, 320), np.float32)
    expected = accumulate(causal(maps[..., :305], 300))
    assert_same(collect(image_of, maps, 2, width=0, position=300, queries=5), expected)
