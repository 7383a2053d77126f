"""The tensors of a GGUF file as they are listed, with scales and values."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.errors import UnreadableError
from aprtui.model.model import load_model
from aprtui.model.tensor_table import TensorInfo, TensorReader, summarise, tensor_table
from aprtui.model.weight_types import BlockPart, WeightType
from aprtui.resources import embedded_model
from tests.model.gguf_files import ModelFile, Tensor, random_blocks


@pytest.fixture(scope="module")
def table() -> dict[str, TensorInfo]:
    return {info.name: info for info in tensor_table(embedded_model())}


def test_every_tensor_is_listed_with_type_shape_and_bytes(table: dict[str, TensorInfo]) -> None:
    model = load_model(embedded_model())
    assert table.keys() == model.weights.keys()
    for name, weight in model.weights.items():
        info = table[name]
        assert (info.type, info.bytes) == (weight.type.name, weight.data.nbytes)
        assert info.shape in ((weight.rows, weight.columns), (weight.columns,))


def test_values_are_those_of_the_model_wherever_they_lie(table: dict[str, TensorInfo]) -> None:
    weights = load_model(embedded_model()).weights
    for name in ("token_embd.weight", "blk.1.ffn_down.weight", "output_norm.weight"):
        reader = TensorReader(table[name])
        rows = slice(0, min(reader.shape[0], 3))
        values = weights[name].dequantize(rows)
        assert np.array_equal(reader.values(rows, slice(0, reader.shape[1])), values)
        assert np.array_equal(reader.values(rows, slice(200, 213)), values[:, 200:213])
        reader.close()


def test_scales_are_the_smallest_and_largest_of_the_blocks(table: dict[str, TensorInfo]) -> None:
    info = next(info for info in table.values() if info.type == "Q4_K")
    weight = load_model(embedded_model()).weights[info.name]
    blocks = weight.data.reshape(-1, 144)
    summary = summarise(info)
    for name, start in (("d", 0), ("dmin", 2)):
        numbers = np.ascontiguousarray(blocks[:, start : start + 2]).view(np.float16).astype(np.float64)
        assert summary.scales[name] == (numbers.min(), numbers.max())
    values = weight.dequantize()
    assert summary.stats is not None
    assert (summary.stats.min, summary.stats.max) == (values.min(), values.max())
    assert summary.stats.count == values.size


@pytest.mark.parametrize("kind", list(WeightType), ids=lambda kind: kind.name)
def test_tensors_of_every_type_are_summarised(tmp_path: Path, kind: WeightType) -> None:
    data = random_blocks(kind, 4, 512, np.random.default_rng(0))
    (info,) = tensor_table(odd_file(tmp_path / "a.gguf", data, kind))
    summary = summarise(info)
    assert summary.stats is not None and summary.stats.count == 4 * 512
    assert ("d" in summary.scales) is (BlockPart.SCALE in kind.format.parts)


def test_the_scale_of_mxfp4_is_what_its_quants_are_multiplied_by(tmp_path: Path) -> None:
    data = random_blocks(WeightType.MXFP4, 4, 512, np.random.default_rng(0))
    data.reshape(-1, 17)[:, 0] = 116 + np.arange(data.size // 17) % 16
    (info,) = tensor_table(odd_file(tmp_path / "a.gguf", data, WeightType.MXFP4))
    low, high = summarise(info).scales["d"]
    assert (low, high) == (2.0**-12, 2.0**3)
    blocks = gguf.quants.dequantize(data, gguf.GGMLQuantizationType.MXFP4).reshape(-1, 32)
    assert np.abs(blocks[0]).max() == low * WeightType.MXFP4.format.levels[1]
    assert np.abs(blocks[15]).max() == high * WeightType.MXFP4.format.levels[1]


def test_a_block_is_found_in_the_file(table: dict[str, TensorInfo]) -> None:
    info = next(info for info in table.values() if info.type == "Q4_K")
    weight = load_model(embedded_model()).weights[info.name]
    reader = TensorReader(info)
    offset, size = reader.place(1, weight.columns - 1)
    with embedded_model().open("rb") as file:
        file.seek(offset)
        assert file.read(size) == weight.data[1, -144:].tobytes()
    reader.close()


def odd_file(path: Path, data: NDArray[np.uint8], kind: int) -> Path:
    return ModelFile("strange", {"general.name": "odd"}, {"odd": Tensor(data, kind)}).write(path)


def test_types_without_values_have_bytes_and_no_statistics(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q8_K
    path = odd_file(tmp_path / "a.gguf", np.zeros((2, 292), np.uint8), kind)
    (info,) = tensor_table(path)
    assert (info.type, info.bytes) == ("Q8_K", 584)
    assert summarise(info).stats is None
    with pytest.raises(UnreadableError, match="values of type Q8_K are not known"):
        TensorReader(info).values(slice(0, 1), slice(0, 256))


def test_a_tensor_beyond_the_end_is_listed_with_its_problem(tmp_path: Path) -> None:
    path = odd_file(tmp_path / "a.gguf", np.ones((4, 128), np.uint8), gguf.GGMLQuantizationType.F32)
    path.write_bytes(path.read_bytes()[:-100])
    (info,) = tensor_table(path)
    assert info.stored is None and "truncated" in info.problem
    with pytest.raises(UnreadableError, match="tensor odd"):
        TensorReader(info)


def test_a_model_that_is_truncated_while_it_is_open_is_reported(tmp_path: Path) -> None:
    path = odd_file(tmp_path / "a.gguf", np.ones((4, 128), np.uint8), gguf.GGMLQuantizationType.F32)
    (info,) = tensor_table(path)
    reader = TensorReader(info)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)
    with pytest.raises(UnreadableError, match="the file ends here"):
        reader.values(slice(0, 4), slice(0, 32))
