"""Every type is held against what aprender computes of it, written here once more from its description."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.errors import UnreadableError
from aprtui.model.apr.apr_file import AprFile
from aprtui.model.model import load_model
from aprtui.model.tensor_table import TensorInfo, TensorReader, summarise, tensor_table
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import stored_tensor
from tests.model.apr_files import AprModel, AprTensor, apr_model
from tests.model.gguf_files import write_model

Floats = NDArray[np.float32]
SHAPE = (6, 96)
VALUES = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def q4(values: Floats) -> tuple[bytes, Floats]:
    """Blocks of 32: a scale, then nibbles of neighbours, the first in the lower half; and what they stand for."""
    out, means = b"", np.empty_like(values).reshape(-1, 32)
    for index, block in enumerate(values.reshape(-1, 32)):
        scale = np.float16(np.abs(block).max() / 7)
        quants = np.clip(np.rint(block / np.float32(scale)), -8, 7).astype(int) + 8
        out += scale.tobytes() + bytes(quants[i] | quants[i + 1] << 4 for i in range(0, 32, 2))
        means[index] = (quants - 8) * np.float32(scale)
    return out, means.reshape(values.shape)


def q8(values: Floats) -> tuple[bytes, Floats]:
    """One scale, then a byte a value."""
    scale = np.float32(np.abs(values).max() / 127)
    quants = np.rint(values / scale).astype(np.int8)
    return scale.tobytes() + quants.tobytes(), quants.astype(np.float32) * scale


def whole(dtype: str) -> Callable[[Floats], tuple[bytes, Floats]]:
    def encoded(values: Floats) -> tuple[bytes, Floats]:
        stored = (values * 20 + (64 if dtype == "u1" else 0)).astype(dtype)
        return stored.tobytes(), stored.astype(np.float32)

    return encoded


def of_ggml(kind: gguf.GGMLQuantizationType) -> Callable[[Floats], tuple[bytes, Floats]]:
    def encoded(values: Floats) -> tuple[bytes, Floats]:
        data = gguf.quants.quantize(values, kind)
        return data.tobytes(), gguf.quants.dequantize(data, kind)

    return encoded


TYPES = [
    (0, "F32", of_ggml(gguf.GGMLQuantizationType.F32)), (1, "F16", of_ggml(gguf.GGMLQuantizationType.F16)),
    (30, "BF16", of_ggml(gguf.GGMLQuantizationType.BF16)), (3, "F64", whole("<f8")), (4, "I32", whole("<i4")),
    (5, "I64", whole("<i8")), (6, "I8", whole("i1")), (7, "U8", whole("u1")), (8, "AprQ4", q4), (128, "AprQ4", q4),
    (9, "AprQ8", q8), (129, "AprQ8", q8), (8, "Q8_0", of_ggml(gguf.GGMLQuantizationType.Q8_0)),
    (3, "Q4_1", of_ggml(gguf.GGMLQuantizationType.Q4_1)), (6, "Q5_0", of_ggml(gguf.GGMLQuantizationType.Q5_0)),
]  # fmt: skip


def tensor_file(path: Path, dtype: int, data: bytes, shape: tuple[int, ...] = SHAPE) -> Path:
    return AprModel({"architecture": "qwen2"}, {"a": AprTensor(dtype, shape, data)}).write(path)


def read(path: Path) -> tuple[AprFile, TensorInfo, Floats]:
    file = AprFile(path)
    stored = stored_tensor(file, file.tensors["a"])
    assert stored is not None
    return file, tensor_table(path)[0], stored.values(slice(0, stored.rows))


@pytest.mark.parametrize(("dtype", "name", "encode"), TYPES, ids=[f"{number}-{name}" for number, name, _ in TYPES])
def test_values_are_those_that_aprender_reads(
    tmp_path: Path, dtype: int, name: str, encode: Callable[[Floats], tuple[bytes, Floats]]
) -> None:
    data, expected = encode(VALUES)
    _, info, values = read(tensor_file(tmp_path / "m.apr", dtype, data))
    assert np.array_equal(values, expected)
    assert (info.type, info.shape, info.bytes) == (name, SHAPE, len(data))
    reader = TensorReader(info)
    assert np.array_equal(reader.values(slice(2, 5), slice(33, 70)), expected[2:5, 33:70])
    offset, size = reader.place(1, 40)
    raw = (tmp_path / "m.apr").read_bytes()
    assert data in raw and raw.index(data) < offset < raw.index(data) + len(data) - size
    stats = summarise(info).stats
    assert stats is not None and stats.max == expected.max() and stats.count == expected.size


def test_k_quants_are_the_bytes_of_gguf(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", layers=1, weight_type=WeightType.Q6_K)
    model = apr_model(path)
    assert {tensor.dtype for tensor in model.tensors.values()} == {0, 14}
    assert load_model(model.write(tmp_path / "m.apr")).quantization == "Q6_K"


def test_rows_that_end_in_a_block_that_is_not_full_lose_the_padding(tmp_path: Path) -> None:
    """aprender quantises a row of 384 values as two blocks of Q4_K; ggml has no such rows."""
    generator = np.random.default_rng(1)
    blocks = generator.integers(0, 256, (5, 2, 144), np.uint8)
    blocks[..., :4] = generator.uniform(0.01, 0.1, (5, 2, 2)).astype("<f2").view(np.uint8)
    _, info, values = read(tensor_file(tmp_path / "m.apr", 12, blocks.tobytes(), (5, 384)))
    expected = gguf.quants.dequantize(blocks.reshape(5, -1), gguf.GGMLQuantizationType.Q4_K)[:, :384]
    assert np.array_equal(values, expected) and info.type == "Q4_K, padded"
    assert np.array_equal(TensorReader(info).values(slice(1, 3), slice(300, 384)), expected[1:3, 300:])


@pytest.mark.parametrize("scale", [np.inf, np.nan, 1e-6])
def test_scales_that_aprender_takes_for_zero_are_zero(tmp_path: Path, scale: float) -> None:
    data = np.float16(scale).tobytes() + bytes(range(16))
    values = read(tensor_file(tmp_path / "m.apr", 128, data, (1, 32)))[2]
    assert np.array_equal(values, np.zeros((1, 32)))


def test_a_broken_scale_of_a_whole_tensor_is_seen_in_its_values(tmp_path: Path) -> None:
    data = np.float32(np.nan).tobytes() + bytes(range(32))
    assert np.isnan(read(tensor_file(tmp_path / "m.apr", 129, data, (1, 32)))[2]).all()


def test_where_only_headers_are_asked_for_nothing_large_is_converted(tmp_path: Path) -> None:
    shape = (1 << 12, 1 << 12)
    path = tensor_file(tmp_path / "m.apr", 129, np.float32(1).tobytes() + bytes(shape[0] * shape[1]), shape)
    file = AprFile(path, headers_only=True)
    data = file.tensor_bytes(file.tensors["a"], 4 * shape[0] * shape[1])
    assert data.nbytes == 4 * shape[0] * shape[1] and data.strides == (0,)
    (info,) = tensor_table(path)
    assert TensorReader(info).values(slice(0, 2), slice(0, 4)).tolist() == [[0] * 4] * 2


def test_a_model_of_converted_types_computes_with_their_values(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", layers=1, weight_type=WeightType.F32)
    model = apr_model(path)
    expected = {}
    for name, tensor in model.tensors.items():
        if len(tensor.shape) == 2:
            values = np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)
            encode, dtype = (q8, 129) if "mlp" in name else (q4, 128)
            data, expected[name] = encode(values.copy())
            model.tensors[name] = AprTensor(dtype, tensor.shape, data)
    loaded = load_model(model.write(tmp_path / "m.apr"))
    kinds = {weight.type for weight in loaded.weights.values()}
    assert kinds == {WeightType.F32, WeightType.Q4_0}
    up = loaded.weights["blk.0.ffn_up.weight"].dequantize()
    assert np.array_equal(up, expected["model.layers.0.mlp.up_proj.weight"])
    query = loaded.weights["blk.0.attn_q.weight"].dequantize()
    assert np.array_equal(query, expected["model.layers.0.self_attn.q_proj.weight"])


def test_a_tensor_that_ends_outside_of_the_file_is_said_in_the_table(tmp_path: Path) -> None:
    path = tensor_file(tmp_path / "m.apr", 129, q8(VALUES)[0])
    path.write_bytes(path.read_bytes()[:-200])
    (info,) = tensor_table(path)
    assert info.stored is None and "truncated" in info.problem
    with pytest.raises(UnreadableError, match="truncated"):
        TensorReader(info)
