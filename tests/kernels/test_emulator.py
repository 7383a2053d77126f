"""The emulator finds what goes wrong in kernels, and says what and where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.kernels.emulated import UNDEFINED_BEHAVIOUR, Image, KernelError, Out

pytestmark = pytest.mark.group("emulator")

PLANTED = Path(__file__).parent / "planted.cu"
X = np.arange(128, dtype=np.float32)


@pytest.fixture(scope="module")
def planted(build_image: Callable[..., Image]) -> Image:
    return build_image(PLANTED)


def test_mended_kernel_passes_in_all_orders(planted: Image) -> None:
    (y,) = planted.run("clean_barrier", (1,), 128, X, Out((128,)))
    np.testing.assert_array_equal(y, X[::-1])


def test_missing_barrier_is_found_by_the_order_of_threads(planted: Image) -> None:
    with pytest.raises(AssertionError, match="missing_barrier: output 0 depends on the order of threads"):
        planted.run("missing_barrier", (1,), 128, X, Out((128,)))


def test_dependence_between_blocks_is_found(planted: Image) -> None:
    with pytest.raises(AssertionError, match="depends on the order"):
        planted.run("depends_on_a_later_block", (4,), 32, Out((4,)))


def test_two_barriers_reached_in_one_block_are_found(planted: Image) -> None:
    with pytest.raises(KernelError, match="wait at different __syncthreads"):
        planted.run("different_barriers", (1,), 64, Out((64,)))


def test_warp_that_parts_between_barrier_and_shuffle_is_found(planted: Image) -> None:
    with pytest.raises(KernelError, match="deadlock: 32 threads wait at __syncthreads, 32 in a warp operation"):
        planted.run("half_of_a_warp_at_a_barrier", (1,), 64, Out((64,)))


def test_lanes_in_different_warp_operations_are_found(planted: Image) -> None:
    with pytest.raises(KernelError, match="different warp operations"):
        planted.run("lanes_in_different_operations", (1,), 32, Out((32,)))


def test_lane_that_returned_before_a_shuffle_is_found(planted: Image) -> None:
    with pytest.raises(KernelError, match="returned"):
        planted.run("lane_returned_early", (1,), 64, Out((64,)), 40)


def test_uninitialised_shared_memory_is_found_even_where_no_nan_shows(planted: Image) -> None:
    with pytest.raises(AssertionError, match="memory that was never written"):
        planted.run("uninitialised_shared", (1,), 32, Out((32,)))


def test_gap_in_an_output_is_found(planted: Image) -> None:
    with pytest.raises(AssertionError, match="memory that was never written"):
        planted.run("clean_barrier", (1,), 128, X, Out((129,)))


@pytest.mark.parametrize("count", [32, 33, 35])
def test_writing_beyond_the_end_is_found(planted: Image, count: int) -> None:
    with pytest.raises(KernelError, match=r"out of bounds.*planted\.cu:\d+.*thread|just behind it"):
        planted.run("beyond_the_end", (1,), 1, Out((count,)), count)


def test_writing_before_the_start_is_found(planted: Image) -> None:
    with pytest.raises(KernelError, match="in front of an array of 128 bytes"):
        planted.run("before_the_start", (1,), 4, Out((32,)))


def test_reading_far_out_of_bounds_is_found_with_its_source_line(planted: Image) -> None:
    with pytest.raises(KernelError, match=r"far_beyond: access out of bounds.*planted\.cu:\d+"):
        planted.run("far_beyond", (1,), 32, X, Out((32,)))


def test_index_beyond_a_shared_array_is_found(planted: Image) -> None:
    with pytest.raises(KernelError, match=r"shared array kept of 32 is indexed at 32 \(block 0,0,0 thread 31,0,0\)"):
        planted.run("beyond_shared", (1,), 32, Out((32,)))


def test_misaligned_vector_load_is_found(planted: Image, build_image: Callable[..., Image]) -> None:
    checked = build_image(PLANTED, UNDEFINED_BEHAVIOUR)
    with pytest.raises(KernelError, match=r"undefined behaviour trapped|misaligned"):
        checked.run("misaligned", (1,), 4, np.zeros(256, np.uint8), Out((4,), np.int32))


def test_undefined_shift_traps_in_the_checked_build(build_image: Callable[..., Image]) -> None:
    checked = build_image(PLANTED, UNDEFINED_BEHAVIOUR)
    with pytest.raises(KernelError, match=r"undefined_shift: undefined behaviour trapped.*thread 2,0,0"):
        checked.run("undefined_shift", (1,), 4, np.array([1, 2, 40, 3], np.int32), Out((4,), np.int32))


def test_a_launch_after_a_fault_is_clean(planted: Image) -> None:
    with pytest.raises(KernelError, match="division by zero"):
        planted.run("divides_by_zero", (1,), 4, np.zeros(4, np.int32), Out((4,), np.int32))
    (y,) = planted.run("clean_barrier", (1,), 128, X, Out((128,)))
    np.testing.assert_array_equal(y, X[::-1])


def test_block_too_large_is_refused(planted: Image) -> None:
    with pytest.raises(KernelError, match="blocks of 2048 threads"):
        planted.run("clean_barrier", (1,), 2048, X, Out((128,)))
