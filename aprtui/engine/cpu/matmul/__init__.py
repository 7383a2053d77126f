"""Matrix products of GGUF weights, as they lie in the file, with activations: the CPU backend's kernels.

Kernels are called from compiled code, with raw addresses as int64; `activation_kind`, `activation_bytes` and
`scratch_bytes` are plain Python for the side that plans the calls. Importing this package loads numba.
"""

from __future__ import annotations

from aprtui.engine.cpu.matmul.activations import INTEGERS, ActivationKind, activation_bytes, activation_kind
from aprtui.engine.cpu.matmul.dequantize import dequantize_row
from aprtui.engine.cpu.matmul.kernels import decoded_rows, matmul_kernel, multiply_integers, scratch_bytes
from aprtui.engine.cpu.matmul.panel import multiply_floats
from aprtui.engine.cpu.matmul.quantize import quantize_rows, quantize_rows_q8_0, quantize_rows_q8_k, round_rows
from aprtui.engine.cpu.tier import TIER, Tier

__all__ = [
    "INTEGERS",
    "TIER",
    "ActivationKind",
    "Tier",
    "activation_bytes",
    "activation_kind",
    "decoded_rows",
    "dequantize_row",
    "matmul_kernel",
    "multiply_floats",
    "multiply_integers",
    "quantize_rows",
    "quantize_rows_q8_0",
    "quantize_rows_q8_k",
    "round_rows",
    "scratch_bytes",
]
