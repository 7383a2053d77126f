"""An edited GGUF differs from its source in what the edit says and in nothing else, and still loads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest

from aprtui.model.model import load_model
from aprtui.model.weight_types import WeightType
from tests.engine import edit_gguf as edit
from tests.model.gguf_files import write_model

pytestmark = pytest.mark.group("conformance")

EDITS = [
    (partial(edit.swap_gate_and_up, layer=1), {"blk.1.ffn_gate.weight", "blk.1.ffn_up.weight"}),
    (partial(edit.zero_q_bias, layer=2), {"blk.2.attn_q.bias"}),
    (partial(edit.break_block_scale, layer=1, row=3), {"blk.1.ffn_gate.weight"}),
    (edit.double_rope_base, {"qwen2.rope.freq_base"}),
    (edit.enlarge_epsilon, {"qwen2.attention.layer_norm_rms_epsilon"}),
    (partial(edit.swap_kv_heads, layer=1), {"blk.1.attn_k.weight"}),
    (partial(edit.scale_norm, layer=2), {"blk.2.ffn_norm.weight"}),
    (partial(edit.zero_row, layer=1, row=5), {"blk.1.ffn_down.weight"}),
    (partial(edit.exchange_layers, first=1, second=2), {"blk.1.attn_output.weight", "blk.2.attn_output.weight"}),
]


@pytest.fixture
def source(conformance: Path) -> Path:
    return conformance / "qwen2-q4km" / "model.gguf"


def edited(source: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    copy = folder / "model.gguf"
    shutil.copyfile(source, copy)
    change(copy)
    return copy


def changed(before: Path, after: Path) -> set[str]:
    """Names of the tensors and metadata keys that differ; asserts that no byte outside of them does."""
    a, b = gguf.GGUFReader(before), gguf.GGUFReader(after)
    tensors = [(x, y) for x, y in zip(a.tensors, b.tensors, strict=True) if x.data.tobytes() != y.data.tobytes()]
    fields = [key for key in a.fields if a.fields[key].contents() != b.fields[key].contents()]
    explained = sum(np.count_nonzero(x.data.view(np.uint8) != y.data.view(np.uint8)) for x, y in tensors)
    for field in (a.fields[key] for key in fields):
        other = b.fields[field.name]
        explained += np.count_nonzero(
            field.parts[field.data[0]].view(np.uint8) != other.parts[other.data[0]].view(np.uint8)
        )
    assert np.count_nonzero(np.asarray(a.data) != np.asarray(b.data)) == explained
    return {x.name for x, _ in tensors} | set(fields)


def dequantized(path: Path, name: str) -> np.ndarray:
    return load_model(path).weights[name].dequantize()


@pytest.mark.parametrize(
    ("change", "names"), EDITS, ids=lambda value: getattr(getattr(value, "func", value), "__name__", "")
)
def test_an_edit_changes_what_it_names_and_the_result_loads(
    source: Path, tmp_path: Path, change: Callable[[Path], None], names: set[str]
) -> None:
    copy = edited(source, tmp_path, change)
    assert changed(source, copy) == names
    assert load_model(copy).graph.nodes == load_model(source).graph.nodes


def test_a_broken_block_scale_changes_the_values_of_one_sub_block(source: Path, tmp_path: Path) -> None:
    copy = edited(source, tmp_path, partial(edit.break_block_scale, layer=1, row=3, sub_block=2))
    differ = np.argwhere(dequantized(source, "blk.1.ffn_gate.weight") != dequantized(copy, "blk.1.ffn_gate.weight"))
    assert set(differ[:, 0]) == {3}
    assert set(differ[:, 1]) <= set(range(64, 96))
    assert len(differ) > 16


def test_swapped_kv_heads_are_the_other_heads_rows(source: Path, tmp_path: Path) -> None:
    copy = edited(source, tmp_path, partial(edit.swap_kv_heads, layer=0))
    before, after = dequantized(source, "blk.0.attn_k.weight"), dequantized(copy, "blk.0.attn_k.weight")
    assert np.array_equal(after, np.concatenate([before[64:], before[:64]]))


def test_a_zeroed_row_reads_as_zeros_in_every_quantisation(source: Path, tmp_path: Path) -> None:
    copy = edited(source, tmp_path, partial(edit.zero_row, layer=1, row=5))
    after = dequantized(copy, "blk.1.ffn_down.weight")
    assert not after[5].any() and after[4].any()


def test_the_hyperparameters_are_changed_by_their_factors(source: Path, tmp_path: Path) -> None:
    before = load_model(source).config
    edited(source, tmp_path, edit.double_rope_base)
    edit.enlarge_epsilon(tmp_path / "model.gguf")
    after = load_model(tmp_path / "model.gguf").config
    assert after.rope.theta == 2 * before.rope.theta
    assert after.norm_epsilon == pytest.approx(1000 * before.norm_epsilon)


def test_a_transposed_matrix_is_the_transpose_and_quantised_ones_are_refused(source: Path, tmp_path: Path) -> None:
    plain = write_model(tmp_path / "plain.gguf", weight_type=WeightType.F16)
    copy = edited(plain, tmp_path, partial(edit.transpose, layer=0))
    name = "blk.0.attn_output.weight"
    assert np.array_equal(dequantized(copy, name), dequantized(plain, name).T)
    with pytest.raises(ValueError, match="no square matrix"):
        edited(source, tmp_path, partial(edit.transpose, layer=0))
