"""Which instruction set the kernels are built for, decided once per process.

The kernels are vector IR and run on any CPU that LLVM knows; a tier says which multiply-add instructions of x86 they
may name. `APRTUI_CPU_TIER` picks a lower tier than the CPU has, to test it or to rule the kernels out as a suspect.
"""

from __future__ import annotations

import os
from enum import StrEnum

from llvmlite import binding

from aprtui.errors import EngineError

_AVX2 = ("avx2", "fma", "f16c")
_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni")


class Tier(StrEnum):
    """Instruction sets, slowest first."""

    PLAIN = "plain"
    AVX2 = "avx2"
    AVX512 = "avx512"


def supported_tiers() -> tuple[Tier, ...]:
    """The tiers that this CPU runs, slowest first."""
    features = binding.get_host_cpu_features()
    tiers = [Tier.PLAIN]
    if all(features.get(name) for name in _AVX2):
        tiers.append(Tier.AVX2)
        if all(features.get(name) for name in _AVX512):
            tiers.append(Tier.AVX512)
    return tuple(tiers)


def choose_tier(wish: str | None) -> Tier:
    """The fastest supported tier, or the one wished for; `EngineError` where the CPU or the name is wrong."""
    supported = supported_tiers()
    if not wish:
        return supported[-1]
    if wish not in supported:
        names = ", ".join(supported)
        raise EngineError(f"APRTUI_CPU_TIER={wish}: this CPU runs {names}; unset it or choose one of these")
    return Tier(wish)


TIER: Tier = choose_tier(os.environ.get("APRTUI_CPU_TIER"))
