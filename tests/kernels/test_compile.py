"""Every kernel compiles for every target, within its registers and without spills."""

from __future__ import annotations

import re
import subprocess
from itertools import product
from pathlib import Path

import pytest

from aprtui import resources
from aprtui.engine.cuda import images
from tests.kernels.compiled import compiled
from tests.kernels.emulated import kernel_names

TARGETS = [str(capability) for capability in images.TARGETS]
SOURCES = sorted(resources.kernels().glob("*.cu"))
REGISTERS, OF_ATTENTION, OF_TENSOR_CORES = 128, 224, 255
"""The most of a thread, which are given out by eight. Attention has few blocks; it trades room for others for loads
under way, or for sums."""

SAME_PRODUCTS = {"qkv", "matvec"}
"""Kernels of products that take longest to compile, and share all code that depends on the target with `gate_up`."""

_ENTRY = re.compile(r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", re.DOTALL)


@pytest.mark.slow
@pytest.mark.group("nvcc")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_kernels_compile_within_their_registers(source: Path, target: str, tmp_path: Path) -> None:
    command = ["nvcc", "-std=c++17", "-O3", "-cubin", f"-arch=sm_{target}", "-Xptxas", "-v", "-Werror", "all-warnings"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "image"), str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = {name: (int(spilt), int(registers)) for name, spilt, registers in _ENTRY.findall(done.stderr)}
    assert set(found) == set(kernel_names(source))
    for name, (spilt, registers) in found.items():
        assert spilt == 0, f"{name} spills {spilt} bytes"
        of_kind = {"attend_one": OF_ATTENTION, "attend_prompt_half": OF_TENSOR_CORES}
        most = next((most for kind, most in of_kind.items() if name.startswith(kind)), REGISTERS)
        assert registers <= most, f"{name} uses {registers} registers"


@pytest.mark.group("nvrtc")
@pytest.mark.parametrize(
    ("target", "source"),
    [
        pytest.param(target, source, id=f"{source.stem}-{target}", marks=pytest.mark.slow if is_slow else ())
        for target, source in product(["75", "90"], SOURCES)
        for is_slow in [target == "75" and source.stem in SAME_PRODUCTS]
    ],
)
def test_kernels_compile_without_the_headers_of_a_host(source: Path, target: str, image_cache: Path) -> None:
    image = compiled(source, f"sm_{target}", image_cache)
    assert all(name.encode() in image for name in kernel_names(source))
