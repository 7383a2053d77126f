"""That kernel tests can run on a device, shown on the fake one: what they find there has their emulated form."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from tests.engine.cuda.conftest import INSIDE
from tests.kernels import test_layer, test_prefill, test_sample
from tests.kernels.cases import q8_out
from tests.kernels.emulated import KernelError
from tests.kernels.on_device import DeviceKernels

pytestmark = [pytest.mark.group("pycuda"), pytest.mark.fake_driver(together=True)]


@pytest.fixture
def kernels(emulated_kernels: None) -> Iterator[DeviceKernels | None]:
    if INSIDE not in os.environ:
        yield None  # the process that runs the tests has its own
        return
    with closing(DeviceKernels()) as opened:
        yield opened


def test_kernel_tests_pass_on_a_device(kernels: DeviceKernels) -> None:
    test_layer.test_rms_norm_and_its_q8_are_those_of_the_reference(lambda source: kernels, 320)
    test_prefill.test_residual_is_added_in_float32(lambda source: kernels)
    test_sample.test_the_step_moves_behind_the_pass_and_the_ring_is_written_in_turn(lambda source: kernels)


def test_writing_behind_an_array_is_found(kernels: DeviceKernels) -> None:
    with pytest.raises(KernelError, match="quantize: wrote in front of an array of 32 bytes, or just behind it"):
        kernels.run("quantize", (1,), 256, np.ones((2, 32), np.float32), q8_out(32), 2)


def test_a_gap_in_an_output_is_found(kernels: DeviceKernels) -> None:
    with pytest.raises(AssertionError, match="quantize: output 0 differs from run to run"):
        kernels.run("quantize", (1,), 256, np.ones((1, 32), np.float32), q8_out(64), 1)
