"""A weight type that is added as `docs/extending.md` says runs on both engines of the CPU, and CUDA refuses it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_extending import blocks, copy, edited, sections  # noqa: F401  # `copy` is a fixture

ENGINES = """
import sys
import gguf, numpy as np, pytest
from aprtui.engine.cuda.sizes import require_supported
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Mode
from aprtui.errors import EngineError
from aprtui.model.model import load_model
from aprtui.model.weight_types import WeightType
from tests.model import gguf_files
def blocks(kind, rows, columns, generator):
    values = generator.standard_normal((rows, columns), np.float32) * columns**-0.5
    return gguf.quants.quantize(values, gguf.GGMLQuantizationType(kind))
gguf_files.random_blocks = blocks
model = load_model(gguf_files.write_model(sys.argv[1], weight_type=WeightType.TQ2_0))
assert model.quantization == "TQ2_0"
for mode in Mode:
    logits = []
    for backend in ("numpy", "cpu"):
        engine = open_engine(model, backend=backend, mode=mode, context=64)
        assert engine.rounding.matmul_input == {Mode.EXACT: "none", Mode.Q8: "q8_k"}[mode]
        logits.append([engine.forward(range(1, 12)), engine.forward([7])])
        engine.close()
    for expected, found in zip(*logits):
        # A difference in the last bit flips a rounding of q8 now and then, which moves all that follows.
        bound = {Mode.EXACT: 1e-4, Mode.Q8: 2e-2}[mode]
        assert np.linalg.norm(found - expected) < bound * np.linalg.norm(expected)
with pytest.raises(EngineError, match="stored as TQ2_0"):
    require_supported(model)
"""


@pytest.mark.slow
def test_the_engines_of_the_cpu_agree_and_cuda_refuses_it_by_name(copy: Path) -> None:  # noqa: F811
    for block in blocks(sections()["a weight type"]):
        if block.kind == "python":
            edited(copy, block)
    environment = os.environ | {"PYTHONPATH": str(copy), "APRTUI_CACHE_DIR": str(copy / "cache")}
    command = [sys.executable, "-c", ENGINES, str(copy / "model.gguf")]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
