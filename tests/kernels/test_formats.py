"""`kernels/formats.cuh` against the table of weight types: numbers, sizes, fields, offsets."""

from __future__ import annotations

import re

import pytest

from aprtui.engine.cuda.images import entry_points, kernel_files
from aprtui.engine.cuda.launches import variant
from aprtui.engine.cuda.storage import in_planes
from aprtui.model.weight_types import BlockPart, WeightType
from aprtui.resources import kernels

SOURCE = (kernels() / "formats.cuh").read_text()
NUMBERS = {name: int(number) for name, number in re.findall(r"GGML_(\w+) = (\d+)", SOURCE)}
EVERY = re.findall(r"\w+", re.findall(r"using Every = Among<(.*)>;", SOURCE)[0])
ALIASES = dict(re.findall(r"using (\w+) = Halves<(\w+)>;", SOURCE))
STRUCTS = {
    name: struct
    for struct in EVERY
    for name in re.findall(
        rf"struct {ALIASES.get(struct, struct)} {{\n  static constexpr int NUMBER = GGML_(\w+);", SOURCE
    )
}
READ = [kind for kind in WeightType if kind.format.cuda_struct]
QUANTISED = [kind for kind in READ if kind.format.is_quantised]


def body(kind: WeightType) -> str:
    """The struct that reads a quantised type."""
    found = re.search(rf"^struct {kind.format.cuda_struct} \{{\n(.*?)^\}};", SOURCE, re.MULTILINE | re.DOTALL)
    assert found is not None, kind.name
    return found[1]


def constant(kind: WeightType, name: str) -> str | None:
    found = re.search(rf"\b{name} = (\w+)", body(kind))
    return found[1] if found else None


def test_the_kernels_read_the_types_that_the_table_says_they_read() -> None:
    assert {kind.name: kind.format.cuda_struct for kind in READ} == STRUCTS
    assert {kind.name: int(kind) for kind in READ} == NUMBERS


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_a_quantised_type_has_its_entry_points(kind: WeightType) -> None:
    names = {name for file in kernel_files() for name in entry_points(file)}
    assert {variant(kernel, kind) for kernel in ("matvec_q8_1", "gate_up_q8", "qkv_q8")} <= names


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_a_struct_has_the_block_of_its_row(kind: WeightType) -> None:
    row = kind.format
    divisor = re.search(r"blocks_of_row\(m\.columns / (\w+)\)", body(kind))
    assert divisor is not None and int(divisor[1].replace("UNIT", "32")) == row.block_values
    assert constant(kind, "QUANTISED") == "true"
    assert constant(kind, "HAS_MINIMUM") == str(BlockPart.MINIMUM in row.parts).lower()
    assert constant(kind, "SCALES_16") == str(row.sub_block == 16).lower()
    assert int(constant(kind, "OFFSET") or 0) == row.offset


@pytest.mark.parametrize("kind", [kind for kind in QUANTISED if not in_planes(kind)], ids=lambda kind: kind.name)
def test_a_struct_without_planes_steps_by_whole_blocks(kind: WeightType) -> None:
    assert constant(kind, "BLOCK_BYTES") == str(kind.format.block_bytes)
    # The header of a K-quant is one load; behind it lie the fields of quants, the last of them 32 bytes a pair.
    header = kind.format.parts[BlockPart.QUANTS].start
    *others, last = (field.size for field in kind.format.fields if field.part is BlockPart.QUANTS)
    assert f"block + {header + sum(others)} + 32 * pair" in body(kind)
    assert last == kind.format.block_values // 2
    assert all(f"block + {header} + 16 * half" in body(kind) for _ in others)


@pytest.mark.parametrize("kind", [kind for kind in QUANTISED if in_planes(kind)], ids=lambda kind: kind.name)
def test_the_planes_of_a_struct_are_the_fields_of_its_row(kind: WeightType) -> None:
    """Each plane begins where the one before it ends: `next = previous + bytes · blocks`."""
    sizes = [int(size) for size in re.findall(r"= \w+ \+ (\d+) \* (?:blocks|\(static_cast)", body(kind))]
    fields = sorted((field.size for field in kind.format.fields), reverse=True)
    assert sizes == fields[:-1]
    assert fields[-1] <= 2, "what is not aligned comes last"
