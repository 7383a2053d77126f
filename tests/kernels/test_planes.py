"""Planes hold every byte of the blocks once, where the kernels look for it."""

from __future__ import annotations

import numpy as np
import pytest

from aprtui.engine.cuda.storage import in_planes, planes
from aprtui.model.weight_types import WeightType


@pytest.mark.parametrize("kind", [kind for kind in WeightType if in_planes(kind)])
def test_planes_are_the_fields_of_all_blocks_one_after_the_other(kind: WeightType) -> None:
    size = kind.format.block_bytes
    # Each byte says which byte of a block it is, and which block: what is lost or doubled shows.
    data = (np.arange(3 * 2 * size) % size).astype(np.uint8).reshape(3, 2 * size)
    data += (np.arange(3 * 2 * size) // size).astype(np.uint8).reshape(data.shape)
    packed = planes(kind, data)
    assert packed.size == data.size
    np.testing.assert_array_equal(np.sort(packed), np.sort(data.reshape(-1)))


def test_q6_k_planes_are_nibbles_pairs_scales_and_the_block_scale() -> None:
    data = np.arange(2 * 210, dtype=np.uint16).astype(np.uint8).reshape(1, 420)
    first, second = data[0, :210], data[0, 210:]
    expected = [first[:128], second[:128], first[128:192], second[128:192], first[192:208], second[192:208]]
    np.testing.assert_array_equal(planes(WeightType.Q6_K, data), np.concatenate([*expected, first[208:], second[208:]]))


@pytest.mark.parametrize("kind", [kind for kind in WeightType if not in_planes(kind)])
def test_other_types_are_copied_as_they_lie(kind: WeightType) -> None:
    data = np.arange(64, dtype=np.uint8).reshape(2, 32)
    np.testing.assert_array_equal(planes(kind, data), data.reshape(-1))
