"""Every row of the weight types is what `gguf` says of the type: sizes, fields, sub-blocks, levels."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.engine.cpu.matmul.decoders import DECODERS
from aprtui.engine.cpu.matmul.formats import FORMATS
from aprtui.model.weight_types import BlockPart, ScalePacking, WeightFormat, WeightType, format_named

ROWS = {kind.name: kind.format for kind in WeightType}
QUANTISED = [name for name, row in ROWS.items() if row.is_quantised]
SCALED = [name for name in QUANTISED if ROWS[name].levels != (0, 0) and BlockPart.SCALE in ROWS[name].parts]
"""Those whose quants and scales of blocks the row describes."""

BLOCKS = 400


def decoded(name: str, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])
    return np.asarray(values, np.float32).reshape(len(blocks), -1)


def unit_blocks(row: WeightFormat) -> NDArray[np.uint8]:
    """Blocks of random quants whose scales are all 1, and whose minimums are 0."""
    blocks = np.random.default_rng(0).integers(0, 256, (BLOCKS, row.block_bytes), np.uint8)
    write(blocks, row.parts[BlockPart.SCALE], 1.0)
    if row.scale_packing is not None:
        blocks[:, row.parts[BlockPart.SUB_BLOCK_SCALES]] = _ONES[row.scale_packing]
    if BlockPart.MINIMUM in row.parts:
        write(blocks, row.parts[BlockPart.MINIMUM], 0.0)
    return blocks


_ONES = {
    ScalePacking.SIGNED_BYTES: [1] * 16,
    ScalePacking.FOUR_BITS: [1] * 16,
    ScalePacking.SIX_BITS: [1] * 4 + [0] * 4 + [1] * 4,
    ScalePacking.SIGNED_SIX_BITS: [0x11] * 8 + [0xAA] * 4,
    ScalePacking.SPLIT_SIX_BITS: [0xAA] * 2 + [0x11] * 4,
}
"""The bytes of scales that are all 1, and of minimums that are 0."""


def write(blocks: NDArray[np.uint8], part: slice, value: float) -> None:
    if part.stop - part.start == 1:
        blocks[:, part] = 128 + int(np.log2(value))
    else:
        blocks[:, part] = np.full((1, 1), value, np.float16).view(np.uint8)


@pytest.mark.parametrize("name", ROWS)
def test_sizes_are_those_of_gguf(name: str) -> None:
    kind, row = gguf.GGMLQuantizationType[name], ROWS[name]
    assert (row.block_values, row.block_bytes) == gguf.GGML_QUANT_SIZES[kind]
    assert WeightType[name] == kind
    assert format_named(name) is row


@pytest.mark.parametrize("name", QUANTISED)
def test_fields_cover_the_block(name: str) -> None:
    row = ROWS[name]
    assert sum(field.size for field in row.fields) == row.block_bytes
    ends = [(part.start, part.stop) for part in row.parts.values()]
    assert [start for start, _ in ends] == [0, *(stop for _, stop in ends[:-1])]
    assert row.block_values % row.sub_block == 0


@pytest.mark.parametrize("name", SCALED)
def test_levels_and_offset_are_those_of_the_reference(name: str) -> None:
    row = ROWS[name]
    values = decoded(name, unit_blocks(row))
    assert (values.min(), values.max()) == tuple(level - row.offset for level in row.levels)
    if row.codebook:
        assert set(values.ravel()) == set(row.codebook)


@pytest.mark.parametrize("name", SCALED)
def test_a_value_is_scale_times_quant_minus_minimum(name: str) -> None:
    row = ROWS[name]
    blocks = unit_blocks(row)
    quants = decoded(name, blocks)
    write(blocks, row.parts[BlockPart.SCALE], 0.5)
    np.testing.assert_array_equal(decoded(name, blocks), quants / 2)
    if BlockPart.MINIMUM in row.parts:
        write(blocks, row.parts[BlockPart.SCALE], 0.0)
        write(blocks, row.parts[BlockPart.MINIMUM], 0.5)
        # ggml's K types have minimums of sub-blocks too, which are 0 here.
        expected = 0.0 if row.scale_packing else 0.5
        assert (decoded(name, blocks) == expected).all()


@pytest.mark.parametrize("name", SCALED)
def test_a_sub_block_is_what_one_scale_reaches(name: str) -> None:
    row = ROWS[name]
    if row.scale_packing is None:
        assert row.sub_block == row.block_values
        return
    blocks = unit_blocks(row)
    before = decoded(name, blocks)
    # The byte of the first scale, which may hold a part of another one.
    at, bits = row.parts[BlockPart.SUB_BLOCK_SCALES].start, 1
    if row.scale_packing is ScalePacking.SPLIT_SIX_BITS:
        at += 2
    elif row.scale_packing is ScalePacking.SIX_BITS or row.scale_packing is ScalePacking.SIGNED_BYTES:
        bits = 3
    blocks[:, at] ^= bits
    changed = np.flatnonzero((decoded(name, blocks) != before).any(axis=0))
    np.testing.assert_array_equal(changed, np.arange(row.sub_block))


def test_there_is_a_row_for_every_type_that_gguf_dequantises() -> None:
    known = {kind.name for kind in gguf.quants._type_traits} | {"F32", "F16"}
    assert set(ROWS) == known


@pytest.mark.parametrize("name", QUANTISED)
def test_a_type_is_decoded_or_has_kernels(name: str) -> None:
    kind = WeightType[name]
    assert (kind in DECODERS, kind in FORMATS) == (ROWS[name].decoded, not ROWS[name].decoded)


@pytest.mark.parametrize("name", [name for name in ROWS if name not in QUANTISED])
def test_the_step_of_a_float_type_is_the_gap_above_one(name: str) -> None:
    row = ROWS[name]
    assert row.float_step is not None
    bits = {4: np.uint32, 2: np.uint16}[row.block_bytes]
    stored = np.ascontiguousarray(gguf.quants.quantize(np.ones((1, 32), np.float32), gguf.GGMLQuantizationType[name]))
    above = (stored.view(bits) + bits(1)).view(np.uint8).reshape(1, -1)
    assert decoded(name, above)[0, 0] - 1 == row.float_step[0]
    smallest = np.full((1, 32), 1, bits).view(np.uint8)
    assert decoded(name, smallest)[0, 0] == row.float_step[1]


def test_types_without_a_row_are_known_as_such() -> None:
    assert format_named("I16") is None
    assert WeightType.numbered(25) is None
    assert WeightType.numbered(12) is WeightType.Q4_K
