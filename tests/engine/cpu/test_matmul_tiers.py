"""Slower instruction sets give the same numbers: each other tier computes the same products in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.engine.cpu import matmul
from aprtui.engine.cpu.tier import Tier, choose_tier, supported_tiers
from aprtui.engine.protocol import Mode
from aprtui.errors import EngineError
from aprtui.model.weight_types import WeightType
from tests.engine.cpu.matmul_cases import SMALL_BLOCKS, product, quantized, random_activations, random_rows

ROWS, TOKENS = 19, 11
OFTEN = ("Q4_K", "Q6_K", "Q4_0", "Q8_0", "IQ4_XS", "F16")
"""Types of the gate, which compiles their kernels for each set anew: of most ways to compute a product, one."""


def products(types: Iterable[WeightType]) -> dict[str, NDArray[np.float32]]:
    """A product of each of the types in every mode, with rows and tokens that fill no tile."""
    results = {}
    for weight_type in types:
        columns = 864 if weight_type in SMALL_BLOCKS else 1024
        weights, x = random_rows(weight_type, ROWS, columns), random_activations(TOKENS, columns)
        for mode in Mode:
            rounded = quantized(matmul.activation_kind(weight_type, mode), x)
            results[f"{weight_type.name}-{mode}"] = product(weights, mode, rounded)
    return results


@pytest.mark.parametrize(
    "names", [OFTEN, pytest.param([t.name for t in WeightType if t.name not in OFTEN], marks=pytest.mark.slow)],
    ids=["often", "others"],
)  # fmt: skip
@pytest.mark.parametrize("tier", [tier for tier in supported_tiers() if tier is not matmul.TIER])
def test_tiers_agree(tier: Tier, names: Sequence[str], tmp_path: Path) -> None:
    code = (
        "import sys, numpy; from tests.engine.cpu.test_matmul_tiers import WeightType, matmul, products; "
        "types = [WeightType[name] for name in sys.argv[2:]]; "
        "numpy.savez(sys.argv[1], tier=str(matmul.TIER), **products(types))"
    )
    environment = os.environ | {"APRTUI_CPU_TIER": str(tier)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "products.npz"), *names], env=environment, check=True)
    theirs = np.load(tmp_path / "products.npz")
    assert str(theirs["tier"]) == tier
    for name, ours in products([WeightType[name] for name in names]).items():
        weight_type, mode = name.split("-")
        if matmul.activation_kind(WeightType[weight_type], Mode(mode)) in matmul.INTEGERS:
            np.testing.assert_array_equal(theirs[name], ours, err_msg=name)
        else:
            assert np.linalg.norm(theirs[name] - ours) <= 2e-6 * np.linalg.norm(ours), name


def test_the_fastest_supported_tier_is_the_default() -> None:
    assert choose_tier(None) is supported_tiers()[-1]
    assert choose_tier("plain") is Tier.PLAIN


def test_an_unknown_tier_is_refused_with_what_there_is() -> None:
    with pytest.raises(EngineError, match=r"APRTUI_CPU_TIER=mmx: this CPU runs plain"):
        choose_tier("mmx")
