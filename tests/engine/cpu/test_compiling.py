"""Kernels are compiled by several processes, and what one of them does not deliver by this one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aprtui.engine.cpu import compiling
from aprtui.engine.cpu.operations import kernels_for
from aprtui.engine.protocol import Mode
from tests.engine.tiny_model import CPU_MODELS

_FIRST_START = """
import json, subprocess, sys
from aprtui.engine.cpu import compiling
if "broken" in sys.argv:
    compiling.sys.executable = "/bin/false"
started, popen = [], subprocess.Popen
class Counted(popen):
    def __init__(self, *args, **options):
        started.append(args)
        super().__init__(*args, **options)
compiling.subprocess.Popen = Counted
compiling.default_threads = lambda: 2
from aprtui.engine.cpu.operations import kernels_for
from aprtui.engine.protocol import Mode
from aprtui.model.model import load_model
from aprtui.resources import embedded_model
steps = []
kernels = kernels_for(load_model(embedded_model()), Mode.Q8)
compiling.compile_kernels(kernels, lambda *step: steps.append(step))
print(json.dumps([len(started), len(kernels) + 1, steps]))
"""


@pytest.mark.parametrize("name", CPU_MODELS)
def test_a_kernel_is_found_by_its_name(name: str) -> None:
    kernels = {kernel for mode in Mode for kernel in kernels_for(CPU_MODELS[name](), mode)}  # type: ignore[arg-type]
    assert [type(kernel).named(kernel.name) for kernel in kernels] == list(kernels)
    assert len({kernel.name for kernel in kernels}) == len(kernels)


def test_a_helper_says_the_name_of_each_kernel_that_it_has_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["ADD...", "interpreter", "QUANTIZE...Q8_K"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{name}\n" for name in names)))
    compiling.main()
    assert capsys.readouterr().out.splitlines() == names


@pytest.mark.slow
@pytest.mark.parametrize("how", ["shared", "broken"])
def test_a_first_start_compiles_every_kernel_with_a_helper_and_without_one_that_fails(how: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _FIRST_START, how], env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    helpers, count, steps = json.loads(ended.stdout)
    assert helpers == 1
    assert len(list(tmp_path.rglob("*.compiled"))) == count
    assert {(what, total) for what, _, total in steps} == {("compiling kernels", count)}
    done = [step[1] for step in steps]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, count)
