"""Two model files: equal bytes pass, honest quantisations pass, what was edited is named."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.align.coverage import Selection
from aprtui.compare.verdict import Tolerance, Verdict, parse_tolerance
from aprtui.demo.quantize import quantize_q4_k, quantize_q6_k
from aprtui.errors import UnreadableError, UsageError
from aprtui.model.weight_difference.compare import ModelDifference, TensorDifference, compare_models, smallest_tolerance
from aprtui.model.weight_difference.judgement import LIMIT, STEP_RATIO
from aprtui.model.weight_difference.values import weight_metrics
from aprtui.model.weight_types import WeightType
from aprtui.model.weights import StoredTensor
from aprtui.trace.graph.stage import Node
from tests.model.gguf_files import ModelFile, Tensor, model_file, random_blocks

GATE, UP, DOWN = (f"blk.1.{name}.weight" for name in ("ffn_gate", "ffn_up", "ffn_down"))

_BLOCK = 144
"""Bytes of a Q4_K block."""

Edit = Callable[[ModelFile], None]


def _compare(folder: Path, edit: Edit, *, tolerances: tuple[Tolerance, ...] = (), **options: object) -> ModelDifference:
    """A model against a copy of it that `edit` has changed."""
    a = model_file(**options).write(folder / "a.gguf")  # type: ignore[arg-type]
    changed = model_file(**options)  # type: ignore[arg-type]
    edit(changed)
    return compare_models(a, changed.write(folder / "b.gguf"), tolerances=tolerances)


def _edited(file: ModelFile, name: str) -> NDArray[np.uint8]:
    """The bytes of a tensor, replaced by a copy that can be written to."""
    tensor = file.tensors[name]
    file.tensors[name] = Tensor(tensor.data.copy(), tensor.type)
    return file.tensors[name].data


def _failing(difference: ModelDifference) -> dict[str, TensorDifference]:
    return {t.name: t for t in difference.tensors if t.judgement.verdict is Verdict.FAIL}


def _values(shape: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
    return (0.04 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def _stored(values: NDArray[np.float32], kind: WeightType) -> Tensor:
    """Values quantised honestly to `kind`."""
    own = {WeightType.Q4_K: quantize_q4_k, WeightType.Q6_K: quantize_q6_k}
    if kind in own:
        return Tensor(own[kind](values), kind)
    data = gguf.quants.quantize(values, gguf.GGMLQuantizationType(kind))
    return Tensor(np.ascontiguousarray(data).view(np.uint8).reshape(len(values), -1), kind)


def _pair(folder: Path, a: Tensor, b: Tensor, *, name: str = GATE, **options: object) -> TensorDifference:
    """What is said of one tensor that the two models store as `a` and `b`."""
    paths = []
    for side, tensor in (("a", a), ("b", b)):
        file = model_file(**options)  # type: ignore[arg-type]
        file.tensors[name] = tensor
        paths.append(file.write(folder / f"{side}.gguf"))
    return next(t for t in compare_models(paths[0], paths[1]).tensors if t.name == name)


def test_a_file_against_itself_is_bit_equal(tmp_path: Path) -> None:
    path = model_file().write(tmp_path / "a.gguf")
    found = compare_models(path, path)
    assert found.verdict is Verdict.PASS
    assert all(tensor.bit_equal for tensor in found.tensors)
    assert not found.metadata and not found.skipped and not found.reasons


def test_every_tensor_is_compared_in_execution_order_with_the_nodes_that_use_it(tmp_path: Path) -> None:
    found = _compare(tmp_path, lambda file: None, tied=True)
    names = [tensor.name for tensor in found.tensors]
    assert sorted(names) == sorted(model_file(tied=True).tensors)
    assert names[0] == "token_embd.weight" and names.index(GATE) < names.index(DOWN)
    assert found.tensors[0].nodes == (Node(0, "embedding"), Node(None, "lm_head"))
    assert found.tensors[names.index(GATE)].nodes == (Node(1, "ffn_gate"),)


def test_one_wrong_block_scale_is_named_with_its_row_and_block(tmp_path: Path) -> None:
    def double_the_scale(file: ModelFile) -> None:
        _edited(file, DOWN)[3, _BLOCK : _BLOCK + 2].view(np.float16)[:] *= np.float16(2)

    found = _compare(tmp_path, double_the_scale)
    assert found.verdict is Verdict.FAIL and list(_failing(found)) == [DOWN]
    tensor = _failing(found)[DOWN]
    assert tensor.bytes is not None and tensor.metrics is not None and tensor.metrics.step_place is not None
    where = tensor.bytes
    assert (where.rows, where.blocks, where.first_row, where.first_block) == (1, 1, 3, 1)
    assert dict(where.parts) == {"block scale": 1}
    assert tensor.findings == ("only 1 of 512 blocks differs: looks edited or damaged",)
    assert tensor.metrics.step_place.row == 3 and tensor.metrics.step_place.column >= 256
    assert tensor.judgement.metric == STEP_RATIO and (tensor.judgement.error or 0) > LIMIT
    assert (tensor.metrics.rel_l2 or 1) < (tensor.metrics.expected_rel_l2 or 0), "the whole tensor would not show it"


@pytest.mark.parametrize(
    ("kind", "offset", "part"),
    [
        (WeightType.Q4_K, 4, "sub-block scales"),
        (WeightType.Q4_K, 2, "block minimum"),
        (WeightType.Q4_K, 16, "quants"),
        (WeightType.Q5_K, 175, "quants"),
        (WeightType.Q6_K, 191, "quants"),
        (WeightType.Q6_K, 192, "sub-block scales"),
        (WeightType.Q6_K, 209, "block scale"),
        (WeightType.Q8_0, 33, "quants"),
        (WeightType.Q5_0, 1, "block scale"),
        (WeightType.Q4_0, 2, "quants"),
    ],
)
def test_the_part_of_the_block_that_differs_is_named(tmp_path: Path, kind: WeightType, offset: int, part: str) -> None:
    def flip_a_bit(file: ModelFile) -> None:
        _edited(file, GATE)[7, offset] ^= 1

    found = _compare(tmp_path, flip_a_bit, weight_type=kind)
    tensor = next(t for t in found.tensors if t.name == GATE)
    assert tensor.bytes is not None and dict(tensor.bytes.parts) == {part: 1}
    assert found.verdict is not Verdict.PASS


def test_gate_and_up_swapped_are_named(tmp_path: Path) -> None:
    def swap(file: ModelFile) -> None:
        file.tensors[GATE], file.tensors[UP] = file.tensors[UP], file.tensors[GATE]

    failing = _failing(_compare(tmp_path, swap))
    assert list(failing) == [GATE, UP]
    assert failing[GATE].findings == (f"swapped with {UP}: each holds the other's bytes in B",)


def test_a_tensor_copied_over_another_is_named(tmp_path: Path) -> None:
    def copy(file: ModelFile) -> None:
        file.tensors[UP] = file.tensors[GATE]

    failing = _failing(_compare(tmp_path, copy))
    assert list(failing) == [UP]
    assert failing[UP].findings == (f"B's bytes are those of {GATE} in A",)


def test_gate_and_up_swapped_are_named_across_types(tmp_path: Path) -> None:
    gate, up = _values((512, 256), 1), _values((512, 256), 2)
    a, b = model_file(), model_file()
    a.tensors |= {GATE: _stored(gate, WeightType.F16), UP: _stored(up, WeightType.F16)}
    b.tensors |= {GATE: _stored(up, WeightType.Q4_K), UP: _stored(gate, WeightType.Q4_K)}
    failing = _failing(compare_models(a.write(tmp_path / "a.gguf"), b.write(tmp_path / "b.gguf")))
    assert list(failing) == [GATE, UP]
    assert failing[GATE].findings[0] == f"B's values are those of {UP} in A, by a sample"


def test_a_zeroed_bias_is_named(tmp_path: Path) -> None:
    def zero(file: ModelFile) -> None:
        _edited(file, "blk.0.attn_k.bias")[:] = 0

    failing = _failing(_compare(tmp_path, zero))
    assert {name: tensor.findings for name, tensor in failing.items()} == {"blk.0.attn_k.bias": ("all zero in B",)}
    assert failing["blk.0.attn_k.bias"].nodes == (Node(0, "qkv_bias"),)


def test_a_multiple_is_named(tmp_path: Path) -> None:
    def double(file: ModelFile) -> None:
        _edited(file, "output_norm.weight").view(np.float32)[:] *= 2

    failing = _failing(_compare(tmp_path, double))
    assert failing["output_norm.weight"].findings == ("B is 2 times A, but for rounding",)


def test_one_wrong_value_of_a_float_tensor_fails(tmp_path: Path) -> None:
    def nudge(file: ModelFile) -> None:
        _edited(file, "blk.0.attn_q.bias").view(np.float32)[17] += 1e-3

    tensor = _failing(_compare(tmp_path, nudge))["blk.0.attn_q.bias"]
    assert tensor.metrics is not None and tensor.metrics.max_abs_place is not None
    assert tensor.metrics.max_abs_place.column == 17


@pytest.mark.parametrize("kind", [WeightType.F32, WeightType.Q8_0])
def test_a_transposed_matrix_is_named(tmp_path: Path, kind: WeightType) -> None:
    values = _values((256, 256))
    name = "blk.0.attn_q.weight"
    a, b = _stored(values, kind), _stored(np.ascontiguousarray(values.T), kind)
    tensor = _pair(tmp_path, a, b, name=name)
    assert tensor.judgement.verdict is Verdict.FAIL
    assert tensor.findings == ("B looks like the transpose of A",)


def test_a_transposed_matrix_of_another_shape_is_named(tmp_path: Path) -> None:
    values = _values((512, 256))
    tensor = _pair(tmp_path, _stored(values, WeightType.F16), _stored(np.ascontiguousarray(values.T), WeightType.F16))
    assert tensor.judgement.reason == "shape [512, 256] in A, [256, 512] in B"
    assert tensor.findings == ("B looks like the transpose of A",)


def test_rows_in_another_order_are_named(tmp_path: Path) -> None:
    def rotate(file: ModelFile) -> None:
        data = _edited(file, "blk.0.attn_q.weight")
        data[:] = np.roll(data, 1, axis=0)

    failing = _failing(_compare(tmp_path, rotate))
    assert failing["blk.0.attn_q.weight"].findings[0] == ("the same rows in another order: row 0 of A is row 1 of B")


_KINDS = [WeightType[name] for name in ("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K")]
"""The types whose typical error is known, and for which a quantiser is at hand."""


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("source", [WeightType.F32, WeightType.F16])
def test_an_honest_quantisation_passes_and_its_error_is_the_expected_one(
    tmp_path: Path, kind: WeightType, source: WeightType
) -> None:
    values = _values((512, 256))
    tensor = _pair(tmp_path, _stored(values, source), _stored(values, kind))
    if kind is source:
        assert tensor.bit_equal
        return
    metrics = tensor.metrics
    assert tensor.judgement.verdict is Verdict.PASS and metrics is not None
    assert metrics.rel_l2 is not None and metrics.expected_rel_l2 is not None and metrics.step_ratio is not None
    # A float's step is taken for the largest of its binade.
    assert 0.7 <= metrics.rel_l2 / metrics.expected_rel_l2 <= 1.1
    assert metrics.step_ratio < LIMIT / 1.9


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS", "MXFP4", "TQ1_0", "IQ3_S", "IQ1_M", "NVFP4"])
def test_the_error_of_uneven_levels_is_not_judged(tmp_path: Path, name: str) -> None:
    kind = WeightType[name]
    blocks = random_blocks(kind, 512, 256, np.random.default_rng(0))
    tensor = _pair(tmp_path, _stored(_values((512, 256)), WeightType.F16), Tensor(blocks, kind))
    assert tensor.judgement.verdict is Verdict.UNKNOWN
    assert f"the rounding error of F16 and {kind.name} is not known" in tensor.judgement.reason


@pytest.mark.parametrize("kind", [WeightType.Q4_K, WeightType.Q6_K, WeightType.Q8_0])
def test_another_weight_in_a_quantised_type_fails(tmp_path: Path, kind: WeightType) -> None:
    tensor = _pair(tmp_path, _stored(_values((512, 256), 1), WeightType.F16), _stored(_values((512, 256), 2), kind))
    assert tensor.judgement.verdict is Verdict.FAIL


@pytest.mark.parametrize("kind", [WeightType.Q4_K, WeightType.Q6_K])
def test_importance_that_clips_single_values_is_no_failure(tmp_path: Path, kind: WeightType) -> None:
    rng = np.random.default_rng(3)
    values = (0.04 * rng.standard_t(3, (512, 256))).astype(np.float32)
    importance = (rng.standard_normal(256) ** 2 * np.exp(2 * rng.standard_normal(256))).astype(np.float32)
    quantize = {WeightType.Q4_K: quantize_q4_k, WeightType.Q6_K: quantize_q6_k}[kind]
    tensor = _pair(tmp_path, _stored(values, WeightType.F32), Tensor(quantize(values, importance), kind))
    assert tensor.judgement.verdict is Verdict.PASS, tensor.judgement


def test_a_float_that_was_cut_off_is_no_failure(tmp_path: Path) -> None:
    values = _values((512, 256))
    cut = Tensor((values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8), WeightType.BF16)
    tensor = _pair(tmp_path, _stored(values, WeightType.F32), cut)
    assert tensor.judgement.verdict is Verdict.PASS and tensor.metrics is not None
    assert 2 < (tensor.metrics.step_ratio or 0) < LIMIT


def test_two_quantisers_of_one_type_need_a_tolerance(tmp_path: Path) -> None:
    values = _values((512, 256))
    importance = np.random.default_rng(1).uniform(0.5, 2.0, 256).astype(np.float32)
    a = _stored(values, WeightType.Q4_K)

    def requantise(file: ModelFile) -> None:
        file.tensors[GATE] = Tensor(quantize_q4_k(values, importance), WeightType.Q4_K)

    base = model_file()
    base.tensors[GATE] = a
    path = base.write(tmp_path / "base.gguf")
    requantise(base)
    other = base.write(tmp_path / "other.gguf")
    found = compare_models(path, other)
    assert found.verdict is Verdict.UNKNOWN and GATE in found.reasons[0]
    smallest = smallest_tolerance(found)
    assert smallest is not None
    assert compare_models(path, other, tolerances=(smallest,)).verdict is Verdict.PASS
    tighter = parse_tolerance(f"rel_l2={smallest.bound * 0.9}")
    assert compare_models(path, other, tolerances=(tighter,)).verdict is Verdict.FAIL


def test_nan_on_one_side_fails_and_alike_nan_is_left_out(tmp_path: Path) -> None:
    values = np.ones((1, 256), np.float32)
    values[0, 3] = np.nan
    a = Tensor(values.view(np.uint8).reshape(-1), WeightType.F32)
    both = values.copy()
    both[0, 4] = np.inf
    b = Tensor(both.view(np.uint8).reshape(-1), WeightType.F32)
    tensor = _pair(tmp_path, a, b, name="output_norm.weight")
    assert tensor.judgement.verdict is Verdict.FAIL and tensor.judgement.metric == "non_finite"
    assert tensor.metrics is not None
    assert (tensor.metrics.mismatches, tensor.metrics.compared, tensor.metrics.max_abs) == (1, 254, 0.0)


def test_a_missing_tensor_is_listed_and_never_scored(tmp_path: Path) -> None:
    def drop(file: ModelFile) -> None:
        del file.tensors["blk.0.attn_v.bias"]

    found = _compare(tmp_path, drop)
    assert [(skip.name, skip.side) for skip in found.skipped] == [("blk.0.attn_v.bias", "A")]
    assert found.verdict is Verdict.UNKNOWN
    assert len(found.tensors) == found.expected - 1


def test_a_head_that_is_the_embedding_table_may_be_missing(tmp_path: Path) -> None:
    a, b = model_file(), model_file()
    a.tensors["output.weight"] = a.tensors["token_embd.weight"]
    del b.tensors["output.weight"]
    found = compare_models(a.write(tmp_path / "a.gguf"), b.write(tmp_path / "b.gguf"))
    assert found.skipped[0].same_as == ("token_embd.weight",) and found.skipped[0].harmless
    assert found.verdict is Verdict.PASS and len(found.tensors) == found.expected


@pytest.mark.parametrize(
    ("key", "value", "a", "b"),
    [
        ("qwen2.rope.freq_base", 500000.0, "10000.0", "500000.0"),
        ("qwen2.attention.layer_norm_rms_epsilon", 1e-5, "1e-06", "1e-05"),
        ("qwen2.attention.head_count_kv", 1, "2", "1"),
    ],
)
def test_metadata_that_change_numbers_fail_and_come_first(
    tmp_path: Path, key: str, value: object, a: str, b: str
) -> None:
    def change(file: ModelFile) -> None:
        file.metadata |= {key: value, "general.name": "other"}

    found = _compare(tmp_path, change)
    assert found.verdict is Verdict.FAIL
    first = found.metadata[0]
    assert (first.key, first.a, first.b, first.changes_numbers) == (key, a, b, True)
    assert [entry.key for entry in found.metadata] == [key, "general.name"]


def test_metadata_that_change_no_number_pass(tmp_path: Path) -> None:
    def change(file: ModelFile) -> None:
        tokens = list(file.metadata["tokenizer.ggml.tokens"])
        tokens[9] = "nine"
        file.metadata |= {"tokenizer.ggml.tokens": tokens, "qwen2.context_length": 64}
        file.metadata["tokenizer.ggml.merges"] = file.metadata["tokenizer.ggml.merges"][:-1]

    found = _compare(tmp_path, change)
    assert found.verdict is Verdict.PASS and not found.number_changing
    texts = {entry.key: (entry.a, entry.b) for entry in found.metadata}
    assert texts["tokenizer.ggml.tokens"] == ("[9] of 272: '*'", "[9] of 272: 'nine'")
    assert texts["tokenizer.ggml.merges"] == ("array of 13", "array of 12")


def test_a_default_written_down_changes_no_number(tmp_path: Path) -> None:
    def write_down(file: ModelFile) -> None:
        file.metadata["qwen2.attention.key_length"] = 64

    found = _compare(tmp_path, write_down)
    assert [(entry.key, entry.a, entry.b) for entry in found.metadata] == [("qwen2.attention.key_length", None, "64")]
    assert found.verdict is Verdict.PASS


def test_keys_of_two_architectures_are_matched(tmp_path: Path) -> None:
    a = model_file(architecture="qwen2").write(tmp_path / "a.gguf")
    b = model_file(architecture="llama").write(tmp_path / "b.gguf")
    found = compare_models(a, b)
    assert found.verdict is Verdict.FAIL
    assert "*.rope.freq_base" not in {entry.key for entry in found.metadata}
    assert [entry.key for entry in found.number_changing] == ["general.architecture"]


def test_an_architecture_that_is_not_known_is_compared_by_its_tensors(tmp_path: Path) -> None:
    paths = []
    for side in ("a", "b"):
        file = model_file()
        file.architecture = "mamba"
        file.tensors["blk.0.ssm_conv1d.weight"] = _stored(_values((64, 32)), WeightType.F32)
        if side == "b":
            file.tensors["blk.0.ssm_conv1d.weight"].data[5] ^= 1
        paths.append(file.write(tmp_path / f"{side}.gguf"))
    found = compare_models(paths[0], paths[1])
    assert list(_failing(found)) == ["blk.0.ssm_conv1d.weight"]
    assert "supported are" in found.notes[0]
    with pytest.raises(UsageError, match="leave them out"):
        compare_models(paths[0], paths[1], Selection("ffn_gate"))


def test_an_unknown_type_is_skipped_and_leaves_the_verdict_open(tmp_path: Path) -> None:
    path = model_file().write(tmp_path / "a.gguf")
    data = path.read_bytes()
    at = data.index(GATE.encode()) + len(GATE) + 4 + 2 * 8
    path.write_bytes(data[:at] + (200).to_bytes(4, "little") + data[at + 4 :])
    found = compare_models(path, path)
    assert found.skipped[0].name == GATE and "not known here" in found.skipped[0].reason
    assert found.verdict is Verdict.UNKNOWN


def test_a_selection_compares_only_the_tensors_its_stages_use(tmp_path: Path) -> None:
    path = model_file().write(tmp_path / "a.gguf")
    found = compare_models(path, path, Selection("ffn_gate,qkv_bias", "1"))
    assert [t.name for t in found.tensors] == [f"blk.1.attn_{p}.bias" for p in "qkv"] + [GATE]
    with pytest.raises(UsageError, match="no tensor belongs"):
        compare_models(path, path, Selection("attn_scores"))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = model_file().write(tmp_path / "a.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UnreadableError, match="truncated"):
        compare_models(path, cut)


def test_progress_ends_at_its_total(tmp_path: Path) -> None:
    a = model_file(ffn=4096, seed=1).write(tmp_path / "a.gguf")
    b = model_file(ffn=4096, seed=2).write(tmp_path / "b.gguf")
    calls: list[tuple[str, int, int]] = []
    compare_models(a, b, progress=lambda *call: calls.append(call))
    assert len(calls) > 27, "a large tensor reports more than once"
    assert calls[-1][1] == calls[-1][2] > 0
    assert [call[1] for call in calls] == sorted(call[1] for call in calls)


def test_memory_does_not_grow_with_the_tensor() -> None:
    def peak(rows: int) -> int:
        data = np.zeros((rows, 2048 // 32 * 34), np.uint8)
        tensor = StoredTensor("x", "Q8_0", (rows, 2048), data, 32, 34)
        tracemalloc.start()
        try:
            weight_metrics(tensor, replace(tensor, name="y"), lambda size: None)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(16)  # imports
    assert peak(2048) < 1.2 * peak(64) < 10e6


@pytest.mark.group("conformance")
@pytest.mark.parametrize("other", ["qwen2-q5km", "qwen2-q8_0"])
def test_llama_cpp_quantisations_of_one_model_pass(conformance: Path, other: str) -> None:
    found = compare_models(conformance / "qwen2-q4km" / "model.gguf", conformance / other / "model.gguf")
    assert found.verdict is Verdict.PASS
    for tensor in found.tensors:
        if tensor.metrics and tensor.metrics.max_abs:
            assert tensor.metrics.rel_l2 is not None and tensor.metrics.expected_rel_l2 is not None
            assert 0.7 < tensor.metrics.rel_l2 / tensor.metrics.expected_rel_l2 < 1.0
            assert (tensor.metrics.step_ratio or 0) < 2
