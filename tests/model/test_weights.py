"""Stored weights and their values."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import gguf
import numpy as np
import pytest

from aprtui.errors import UnreadableError
from aprtui.model.binding import read_weight
from aprtui.model.gguf_file import GgufFile, TensorEntry
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import Weight
from tests.model.gguf_files import random_blocks

ROWS, COLUMNS = 6, 512


def weight_of(kind: WeightType, data: np.ndarray) -> Weight:
    return Weight("w", kind, ROWS, COLUMNS, data)


@pytest.mark.parametrize("kind", list(WeightType), ids=lambda kind: kind.name)
def test_values_of_random_bytes_are_bit_equal_to_the_reference(kind: WeightType) -> None:
    values, size = kind.format.block_values, kind.format.block_bytes
    data = np.random.default_rng(kind).integers(0, 256, (ROWS, COLUMNS // values * size), np.uint8)
    with np.errstate(all="ignore"):
        ours = weight_of(kind, data).dequantize()
        reference = gguf.quants.dequantize(data, gguf.GGMLQuantizationType(kind))
    assert ours.dtype == np.float32 and ours.shape == (ROWS, COLUMNS)
    assert ours.tobytes() == reference.astype(np.float32, copy=False).tobytes()


@pytest.mark.parametrize("kind", list(WeightType), ids=lambda kind: kind.name)
def test_some_rows_equal_those_rows_of_the_whole(kind: WeightType) -> None:
    weight = weight_of(kind, random_blocks(kind, ROWS, COLUMNS, np.random.default_rng(1)))
    whole = weight.dequantize()
    np.testing.assert_array_equal(weight.dequantize([4, 0, 4]), whole[[4, 0, 4]])
    np.testing.assert_array_equal(weight.dequantize(slice(2, 5)), whole[2:5])


@pytest.mark.parametrize("kind", list(WeightType), ids=lambda kind: kind.name)
def test_random_blocks_of_the_test_files_have_the_promised_spread(kind: WeightType) -> None:
    blocks = random_blocks(kind, 64, COLUMNS, np.random.default_rng(2))
    values = Weight("w", kind, 64, COLUMNS, blocks).dequantize() * COLUMNS**0.5
    assert abs(values.mean()) < 0.15 and 0.8 < values.std() < 1.25


@pytest.mark.parametrize("kind", [kind for kind in WeightType if kind.format.is_quantised], ids=lambda kind: kind.name)
def test_rows_that_are_no_whole_blocks_are_refused_in_one_line(kind: WeightType, tmp_path: Path) -> None:
    size = kind.format.block_values
    entry = TensorEntry("w", (size + size // 2, 4), int(kind), 0)
    path = tmp_path / "m.gguf"
    file = cast(GgufFile, SimpleNamespace(path=path))
    with pytest.raises(UnreadableError) as caught:
        read_weight(file, entry)
    assert str(caught.value) == (
        f"{path}: tensor w has rows of {size + size // 2} values, expected a multiple of {size} for {kind.name}"
    )
