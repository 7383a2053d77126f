"""Faults made outside the engine: one wrong thing in the bytes of a GGUF file, as a faulty converter would leave it.

Each function changes `path` in place (edit a copy); tensors keep their types, places and sizes. What
cannot be done to a file (another type, not square) raises `ValueError`. Q4_K blocks are as in ggml's `block_q4_K`:
float16 scale, float16 minimum, 12 bytes of 6-bit sub-block scales and minima, 128 bytes of quants.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Q4_K_BLOCK_BYTES = 144
_SCALES_AT = 4


@contextmanager
def _opened(path: Path) -> Iterator[gguf.GGUFReader]:
    reader = gguf.GGUFReader(path, "r+")
    yield reader
    reader.data.flush()


def _tensor(reader: gguf.GGUFReader, name: str) -> Any:
    for tensor in reader.tensors:
        if tensor.name == name:
            return tensor
    raise ValueError(f"{name}: no such tensor")


def _block(layer: int, name: str) -> str:
    return f"blk.{layer}.{name}"


def _exchange(reader: gguf.GGUFReader, first: str, second: str) -> None:
    a, b = _tensor(reader, first), _tensor(reader, second)
    if a.tensor_type != b.tensor_type or a.data.shape != b.data.shape:
        raise ValueError(f"{first} and {second} differ in type or shape")
    kept = a.data.copy()
    a.data[...] = b.data
    b.data[...] = kept


def _scale_metadata(path: Path, suffix: str, factor: float) -> None:
    with _opened(path) as reader:
        key = f"{reader.fields['general.architecture'].contents()}.{suffix}"
        field = reader.fields[key]
        field.parts[field.data[0]][0] *= factor


def swap_gate_and_up(path: Path, layer: int) -> None:
    """The data of `ffn_gate` and `ffn_up` of one layer change places."""
    with _opened(path) as reader:
        _exchange(reader, _block(layer, "ffn_gate.weight"), _block(layer, "ffn_up.weight"))


def zero_q_bias(path: Path, layer: int) -> None:
    """The bias of the queries of one layer is gone."""
    with _opened(path) as reader:
        _tensor(reader, _block(layer, "attn_q.bias")).data[...] = 0


def break_block_scale(path: Path, layer: int, name: str = "ffn_gate", row: int = 0, sub_block: int = 0) -> None:
    """The 6-bit scale of one of the first four sub-blocks of a row's first Q4_K block is wrong by 32."""
    with _opened(path) as reader:
        tensor = _tensor(reader, _block(layer, f"{name}.weight"))
        if tensor.tensor_type != gguf.GGMLQuantizationType.Q4_K:
            raise ValueError(f"{tensor.name} is {tensor.tensor_type.name}, not Q4_K")
        if not 0 <= sub_block < 4:
            raise ValueError(f"sub-block {sub_block}: 0 to 3 have their scale in one byte")
        tensor.data[row, _SCALES_AT + sub_block] ^= 0x20


def double_rope_base(path: Path) -> None:
    """RoPE turns with twice the base, in all layers."""
    _scale_metadata(path, "rope.freq_base", 2.0)


def enlarge_epsilon(path: Path) -> None:
    """The epsilon of all norms is 1000 times too large."""
    _scale_metadata(path, "attention.layer_norm_rms_epsilon", 1000.0)


def swap_kv_heads(path: Path, layer: int, name: str = "attn_k") -> None:
    """The rows of the first two key (or value: `attn_v`) heads change places; biases stay."""
    with _opened(path) as reader:
        tensor = _tensor(reader, _block(layer, f"{name}.weight"))
        architecture = reader.fields["general.architecture"].contents()
        heads = reader.fields[f"{architecture}.attention.head_count_kv"].contents()
        if heads < 2:
            raise ValueError(f"{heads} kv head: nothing to swap")
        rows = len(tensor.data) // heads
        tensor.data[: 2 * rows] = np.roll(tensor.data[: 2 * rows], rows, axis=0)


def scale_norm(path: Path, layer: int, name: str = "ffn_norm", factor: float = 1.01) -> None:
    """The weights of one norm are too large by `factor`."""
    with _opened(path) as reader:
        _tensor(reader, _block(layer, f"{name}.weight")).data[...] *= np.float32(factor)


def zero_row(path: Path, layer: int, name: str = "ffn_down", row: int = 0) -> None:
    """One row (output channel) of a matrix is zero: all its bytes are, which every type reads as zeros."""
    with _opened(path) as reader:
        _tensor(reader, _block(layer, f"{name}.weight")).data[row] = 0


def transpose(path: Path, layer: int, name: str = "attn_output") -> None:
    """A square matrix of float values (F32, F16) is stored transposed."""
    with _opened(path) as reader:
        data = _tensor(reader, _block(layer, f"{name}.weight")).data
        if data.dtype not in (np.float32, np.float16) or data.shape[0] != data.shape[1]:
            raise ValueError(f"{name} is no square matrix of F32 or F16 values")
        data[...] = data.T.copy()


def exchange_layers(path: Path, first: int, second: int, name: str = "attn_output") -> None:
    """One matrix of two layers changes places."""
    with _opened(path) as reader:
        _exchange(reader, _block(first, f"{name}.weight"), _block(second, f"{name}.weight"))
