"""The steps that add a weight type, taken in a copy of the package: a row, and a function that unpacks a block.

Q4_1 is the example: float16 scale and minimum, then 16 bytes of quants, `value = scale · quant + minimum`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worked_example import Step, copy_with, run_in

ROW = """\
    Q4_1 = 3, WeightFormat(
        32, 20, InputRounding.NONE, None, sub_block=32, levels=(0, 15),
        fields=(_SCALE, _MINIMUM, _quants(16)),
    )  # fmt: skip
"""
ONLY_COMPARED = """\
        "Q4_1": WeightFormat(
            32, 20, InputRounding.NONE, None, sub_block=32, levels=(0, 15),
            fields=(_SCALE, _MINIMUM, _quants(16)),
        ),
"""
UNPACK = '''\
def _unpack_q4_1(e: Emitter, w: Value) -> Unpacked:
    """d, m (f16), 16 bytes as in Q4_0. What is added is a minimum below zero, once for the whole block."""
    d, m = _two_halves_at(e, w)
    low, high = _nibbles(e, e.load(e.at(w, 4), vector(I8, 16)))
    return Unpacked([e.concatenate(low, high)], d, dmin=e.builder.fneg(m), minimums=constant(vector(I16, 2), 1))


'''

STEPS = (
    Step("aprtui/model/weight_types.py", ONLY_COMPARED, ""),
    Step("aprtui/model/weight_types.py", "    Q5_0 = 6, WeightFormat(\n", f"{ROW}    Q5_0 = 6, WeightFormat(\n"),
    Step("aprtui/engine/cpu/matmul/formats.py", "_UNPACK: dict[", f"{UNPACK}_UNPACK: dict["),
    Step(
        "aprtui/engine/cpu/matmul/formats.py",
        "    WeightType.Q5_0: _unpack_q5_0,\n",
        "    WeightType.Q4_1: _unpack_q4_1,\n    WeightType.Q5_0: _unpack_q5_0,\n",
    ),
)

VALUES = """
import numpy as np, gguf
from aprtui.engine.opening import open_engine
from aprtui.engine.cpu.matmul import decoded_rows
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight
blocks = np.random.default_rng(0).integers(0, 256, (8, 3 * 20), np.uint8)
blocks.reshape(-1, 20)[:, :4] = np.random.default_rng(1).normal(0, 1, (24, 2)).astype(np.float16).view(np.uint8)
weight = Weight("w", WeightType.Q4_1, 8, 96, blocks)
expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_1)
assert expected.tobytes() == weight.dequantize().tobytes() == decoded_rows(weight, 0, 8).tobytes()
"""

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
model = load_model(gguf_files.write_model(sys.argv[1], weight_type=WeightType.Q4_1))
assert model.quantization == "Q4_1"
for mode in Mode:
    logits = []
    for backend in ("numpy", "cpu"):
        engine = open_engine(model, backend=backend, mode=mode, context=64)
        assert engine.rounding.matmul_input == "none"
        logits.append([engine.forward(range(1, 12)), engine.forward([7])])
        engine.close()
    for expected, found in zip(*logits):
        assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
with pytest.raises(EngineError, match="stored as Q4_1"):
    require_supported(model)
"""


def test_a_weight_type_takes_a_row_and_a_function_in_two_files() -> None:
    assert len({step.file for step in STEPS}) == 2


def test_both_decoders_give_the_values_of_the_reference(tmp_path: Path) -> None:
    run_in(copy_with(STEPS, tmp_path), VALUES)


@pytest.mark.slow
def test_the_engines_of_the_cpu_agree_and_cuda_refuses_it_by_name(tmp_path: Path) -> None:
    run_in(copy_with(STEPS, tmp_path), ENGINES, str(tmp_path / "model.gguf"))
