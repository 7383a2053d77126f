"""The CUDA engine on PyCUDA over the fake driver: what holds anywhere, and what only that driver can show."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from aprtui.engine.cuda import sizes
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Mode
from aprtui.errors import EngineError
from tests.engine.conformance import Recorder, relative_l2
from tests.engine.cuda.conftest import INSIDE
from tests.engine.cuda.engine_claims import *  # noqa: F403  # the tests among them run here
from tests.engine.cuda.engine_claims import everything, opened, recomputed, run
from tests.engine.tiny_model import DEVICE_MODELS, MODELS

pytestmark = [
    pytest.mark.group("pycuda"),
    pytest.mark.fake_driver(together=True),
    pytest.mark.usefixtures("nothing_left"),
]


@pytest.fixture
def nothing_left(emulated_kernels: None) -> Iterator[None]:
    """Whatever a test did, the device holds nothing when its engines are closed."""
    yield
    if INSIDE in os.environ:
        assert ctypes.CDLL("libcuda.so.1").fake_driver_remains() == 0


@pytest.mark.fake_driver(FAKE_CUDA_NO_CAPTURE="1")
def test_where_graphs_are_refused_launches_do_the_same_and_the_engine_says_so() -> None:
    model, recorder = MODELS["qwen2"](), Recorder()
    with opened(model, Mode.EXACT) as engine:
        run(engine, everything(model, recorder))
        assert engine.code_path.endswith("plain launches")
    for node in model.graph.nodes:
        assert relative_l2(recorder.tensor(node), recomputed(model, node, recorder, Mode.EXACT, KvType.F32)) <= 2e-6


@pytest.mark.fake_driver(together=True, FAKE_CUDA_MEMORY="82000000")
def test_a_model_that_does_not_fit_is_refused_with_the_numbers_and_the_context_that_does() -> None:
    model = MODELS["qwen2"]()
    with pytest.raises(
        EngineError, match=r"backend cuda: .* [MG]B \(weights .* MB, K/V cache and maps of 8192 .*\) are needed"
    ) as e:
        open_engine(model, backend="cuda", mode=Mode.EXACT, context=8192)  # type: ignore[arg-type]
    fits = sizes.fitting_context(model, Mode.EXACT, KvType.F32, 8192, 82_000_000)  # type: ignore[arg-type]
    assert f"82.0 MB are free: use --context {fits}" in str(e.value)
    with opened(model, Mode.EXACT, context=fits) as engine:
        run(engine)
    with pytest.raises(EngineError, match="are needed"):
        open_engine(model, backend="cuda", mode=Mode.EXACT, context=fits + 1)  # type: ignore[arg-type]


@pytest.mark.fake_driver(together=True, FAKE_CUDA_MEMORY="82000000")
def test_what_is_allocated_is_what_was_planned() -> None:
    for name, mode in (("qwen3", Mode.EXACT), ("qwen3", Mode.Q8), ("gemma2", Mode.Q8), ("gpt-oss", Mode.Q8)):
        model = DEVICE_MODELS[name]()
        need = sizes.memory_need(model, mode, KvType.F16, 128)  # type: ignore[arg-type]
        with opened(model, mode, KvType.F16, 128) as engine:
            run(engine, everything(model, Recorder()))  # makes room for attention maps
            driver = engine._on_device.driver
            used = 82_000_000 - engine._thread.run(driver.free_memory)
        # Counters, records of statistics, partial sums of attention: small, and not in the plan.
        assert need.total - sizes._SPARE <= used <= need.total - sizes._SPARE + 500_000


TRAPPED = """
from aprtui.cli.main import main
from tests.engine.cuda.trapping import trapping_engines
trapping_engines(3)
main(["run", "--tokens", "1,2,3", "-n", "9", "--backend", "cuda", "--json", "--repeat-penalty", "1.01"])
"""


def test_a_kernel_that_traps_ends_a_command_with_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", TRAPPED], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert len(done.stdout.splitlines()) == 3
    (line,) = [line for line in done.stderr.splitlines() if "…" not in line]
    assert re.fullmatch(r"aprtui: the device failed .*: open the engine again in a new process", line)
