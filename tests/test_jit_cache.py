"""A kernel is taken from numba's cache without what numba needs to compile one, which is there when one is compiled."""

from __future__ import annotations

import subprocess
import sys

_RULES = "numba.cpython.unicode"
"""One of the modules that numba loads before it compiles anything."""

_ENGINE = f"""
import math, sys
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Mode
from aprtui.model.model import load_model
from aprtui.resources import embedded_model
open_engine(load_model(embedded_model()), backend="cpu", mode=Mode.Q8).close()
print({_RULES!r} in sys.modules)
import numba
distance = numba.njit(lambda values: math.sqrt(sum([value * value for value in values])))
print({_RULES!r} in sys.modules, distance((3.0, 4.0)), {_RULES!r} in sys.modules)
"""


def _printed(script: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_warm_start_loads_no_rules_of_numbas_and_a_kernel_can_still_be_compiled() -> None:
    _printed(_ENGINE)  # the kernels lie in the cache after it
    assert _printed(_ENGINE) == ["False", "False 5.0 True"]
