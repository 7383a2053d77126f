"""Captures of latent attention in the form that the model's file does not have: computed again in that form."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from click.testing import CliRunner

from aprtui.cli.comparison.next_steps import replay_steps
from aprtui.cli.main import cli
from aprtui.compare.captures import DiffOptions, compare_captures
from aprtui.compare.comparison import Comparison
from aprtui.compare.verdict import Verdict
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.judging import Replaying, Side, judged_by_floor, judged_by_replay
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Logits, Mode
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.form import in_form_of, is_of_other_form
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.latent_forms import in_other_form
from aprtui.model.model import Model, load_model
from aprtui.model.weight_types import WeightType
from aprtui.oracle.llamacpp_capture import LlamaCppOptions, write_llamacpp_captures
from aprtui.oracle.requests import Evaluation
from aprtui.progress import no_progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.engine.embedded_captures import captured
from tests.engine.replay.own_captures import assert_exactly_zero, assert_passes_below
from tests.engine.replay.test_recurrence import failed
from tests.model.gguf_files import NOPE, RANK, VALUE, Tensor, model_file

TOKENS = tuple(int(token) for token in np.random.default_rng(5).integers(0, 260, 17))
HEADS = 4
FORMS = [pytest.param(True, id="absorbed", marks=pytest.mark.slow), pytest.param(False, id="expanded")]
KEYS, VALUES, BOTH = (f"blk.{{layer}}.attn_{part}_b.weight" for part in ("k", "v", "kv"))


def values_of(tensor: Tensor) -> np.ndarray:
    """The values of the heads' matrices, `[heads, rows, columns]`."""
    kind = gguf.GGMLQuantizationType(tensor.type)
    rows = np.ascontiguousarray(tensor.data).reshape(-1, tensor.data.shape[-1])
    found: np.ndarray = gguf.quants.dequantize(rows, kind)
    return found.reshape(HEADS, -1, NOPE if tensor.data.shape[1] == RANK else RANK)


def both_forms(folder: Path, kind: WeightType, **options: Any) -> dict[bool, Model]:
    """The same weights in the absorbed form (True) and in the expanded one; quantised ones are quantised again."""
    folder.mkdir(exist_ok=True)
    options = {"architecture": "deepseek2", "weight_type": kind, "hidden": 64, "query_rank": 32, **options}
    absorbed, expanded = (model_file(absorbed=form, **options) for form in (True, False))
    for name in expanded.tensors.keys() & absorbed.tensors.keys():
        expanded.tensors[name] = absorbed.tensors[name]
    for layer in range(2):
        keys, values = (values_of(absorbed.tensors[name.format(layer=layer)]) for name in (KEYS, VALUES))
        rows = np.concatenate([keys.transpose(0, 2, 1), values], axis=1).reshape(-1, RANK)
        stored = gguf.quants.quantize(np.ascontiguousarray(rows), gguf.GGMLQuantizationType(kind))
        name = BOTH.format(layer=layer)
        expanded.tensors[name] = Tensor(np.ascontiguousarray(stored).view(np.uint8).reshape(len(rows), -1), int(kind))
    files = {True: absorbed, False: expanded}
    return {form: load_model(file.write(folder / f"{form}.gguf")) for form, file in files.items()}


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Model]:
    return both_forms(tmp_path_factory.mktemp("forms") / "f32", WeightType.F32)


@pytest.fixture(scope="module")
def exact(floats: dict[bool, Model], tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Capture]:
    folder = tmp_path_factory.mktemp("exact")
    return {
        form: Capture.open(captured(model, folder / str(form), tokens=TOKENS, prefill=5))
        for form, model in floats.items()
    }


def replayed(capture: Capture, model: Model, **options: Any) -> Comparison:
    fitting = in_form_of(capture, model)
    with Evaluators(fitting) as evaluators:
        return replay_capture(capture, fitting, ReplayOptions(**options), evaluators)


def with_fault(model: Model, fault: str, folder: Path) -> Capture:
    injector = FaultInjector(model, Mode.EXACT, [parse_fault(fault, model)])
    request = CaptureRequest(TOKENS, None, frozenset(model.graph.nodes), logits=Logits.LAST)
    with closing(open_engine(model, mode=Mode.EXACT, kv=KvType.F32, context=64, intervention=injector)) as engine:
        write_capture(engine, model, request, folder)
    return Capture.open(folder)


@pytest.mark.parametrize("kind", [WeightType.F32, WeightType.F16, WeightType.BF16, WeightType.Q8_0])
def test_a_model_in_its_other_form_has_the_same_values(tmp_path: Path, kind: WeightType) -> None:
    files = both_forms(tmp_path / "files", kind)
    whole = in_other_form(files[True])
    (keys,), (values,) = (files[True].params(Node(1, stage)) for stage in ("q_nope_absorbed", "attention"))
    (both,) = whole.params(Node(1, "mla_kv"))
    found = both.dequantize().reshape(HEADS, NOPE + VALUE, RANK)
    assert np.array_equal(found[:, :NOPE].transpose(0, 2, 1), keys.dequantize().reshape(HEADS, RANK, NOPE))
    assert np.array_equal(found[:, NOPE:], values.dequantize().reshape(HEADS, VALUE, RANK))
    parts = in_other_form(files[False])
    (source,) = files[False].params(Node(1, "mla_kv"))
    of_heads = source.dequantize().reshape(HEADS, NOPE + VALUE, RANK)
    (keys,), (values,) = (parts.params(Node(1, stage)) for stage in ("q_nope_absorbed", "attention"))
    assert np.array_equal(keys.dequantize().reshape(HEADS, RANK, NOPE), of_heads[:, :NOPE].transpose(0, 2, 1))
    assert np.array_equal(values.dequantize().reshape(HEADS, VALUE, RANK), of_heads[:, NOPE:])
    assert whole.config == files[False].config and parts.config == files[True].config
    made = (whole.uses_rebuilt(Node(0, "mla_kv")), parts.uses_rebuilt(Node(0, "attention")))
    assert made == ((kind is WeightType.Q8_0),) * 2
    assert both.type is (WeightType.F32 if kind is WeightType.Q8_0 else kind)


@pytest.mark.parametrize("form", FORMS)
def test_a_capture_is_computed_again_to_the_bit_in_its_own_form(
    floats: dict[bool, Model], exact: dict[bool, Capture], form: bool
) -> None:
    result = replayed(exact[form], floats[not form])
    assert_exactly_zero(result)
    said = f"computed again in the {'absorbed' if form else 'expanded'} form, as the capture has it"
    assert [said in line for line in result.statements].count(True) == 1
    assert not any(said in line for line in replayed(exact[form], floats[form]).statements)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [WeightType.F16, WeightType.BF16])
@pytest.mark.parametrize("form", FORMS)
def test_floats_of_16_bits_are_the_same_in_both_forms(tmp_path: Path, kind: WeightType, form: bool) -> None:
    models = both_forms(tmp_path / "files", kind)
    for mode, kv in ((Mode.EXACT, KvType.F32), (Mode.Q8, KvType.F16)):
        folder = captured(models[form], tmp_path / str(mode), mode, kv, tokens=TOKENS)
        assert_passes_below(replayed(Capture.open(folder), models[not form]), 1.5e-6)


@pytest.mark.slow
def test_a_capture_without_a_manifest_says_its_form_by_its_stages(
    floats: dict[bool, Model], exact: dict[bool, Capture], tmp_path: Path
) -> None:
    for file in exact[False].files.values():
        target = tmp_path / file.path.relative_to(exact[False].path)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(file.path.read_bytes())
    bare = Capture.open(tmp_path)
    assert bare.manifest is None and is_of_other_form(bare, floats[True]) and not is_of_other_form(bare, floats[False])
    assert replayed(bare, floats[True], tokens=TOKENS).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("stage", "kind"),
    [
        ("k_nope", "scale"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("mla_kv", "noise"), ("attention", "head-swap"))),
    ],
)
def test_a_fault_is_named_in_the_form_that_it_is_in(
    floats: dict[bool, Model], tmp_path: Path, stage: str, kind: str
) -> None:
    size = ",magnitude=0.01" if kind in ("scale", "noise") else ""
    faulty = with_fault(floats[False], f"layer=1,stage={stage},kind={kind}{size}", tmp_path / "bad")
    assert failed(replayed(faulty, floats[True])) == [Node(1, stage)]


@pytest.mark.parametrize("form", FORMS)
def test_matrices_of_another_quantisation_are_open_and_nothing_else_is(tmp_path: Path, form: bool) -> None:
    """Blocks of keys lie along the other axis in the other form: which values its engine had, no file here says."""
    models = both_forms(tmp_path / "files", WeightType.Q8_0)
    capture = Capture.open(captured(models[form], tmp_path / "own", tokens=TOKENS))
    result = replayed(capture, models[not form])
    assert result.verdict is Verdict.UNKNOWN and not failed(result)
    opened = {stage.node.stage for stage in result.stages if stage.verdict.verdict is not Verdict.PASS}
    assert opened == ({"q_nope_absorbed", "attention"} if form else {"mla_kv"})
    assert "next  give a model file of the capture's own form" in "\n".join(
        replay_steps(result, capture.path, None, [])
    )
    faulty = with_fault(models[form], "layer=0,stage=attn_out,kind=scale,magnitude=0.01", tmp_path / "bad")
    assert failed(replayed(faulty, models[not form])) == [Node(0, "attn_out")]


@pytest.mark.parametrize("form", FORMS)
def test_a_diff_holds_each_side_against_the_model_in_its_own_form(
    floats: dict[bool, Model], exact: dict[bool, Capture], tmp_path: Path, form: bool
) -> None:
    def compared(b: Capture, by: Model) -> Comparison:
        criteria, tokens = judged_by_floor(exact[True], b, by, None, no_progress)
        return compare_captures(exact[True], b, DiffOptions(tokens=tokens), no_progress, criteria)

    result = compared(exact[False], floats[form])
    assert result.verdict is Verdict.PASS and result.compared > 50
    side, theirs = ("B", "expanded") if form else ("A", "absorbed")
    assert any(
        line.startswith(f"{side}: latent attention: computed again in the {theirs}") for line in result.statements
    )
    faulty = with_fault(floats[False], "layer=1,stage=v_heads,kind=scale,magnitude=0.01", tmp_path / "bad")
    bad = compared(faulty, floats[form])
    assert bad.verdict is Verdict.FAIL and bad.first_divergence is not None
    assert bad.first_divergence.verdict.node == Node(1, "attention"), "the first stage that both forms have"


@pytest.mark.slow
def test_both_sides_may_be_of_the_form_that_the_file_does_not_have(
    floats: dict[bool, Model], exact: dict[bool, Capture], tmp_path: Path
) -> None:
    other = Capture.open(captured(floats[False], tmp_path / "f16", Mode.EXACT, KvType.F16, tokens=TOKENS))
    criteria, _ = judged_by_floor(exact[False], other, floats[True], None, no_progress)
    result = compare_captures(exact[False], other, DiffOptions(), no_progress, criteria)
    assert result.verdict is Verdict.PASS and "k_nope" in {stage.node.stage for stage in result.stages}
    sides = (Side(exact[False], floats[True]), Side(exact[True], floats[True]))
    criteria, _ = judged_by_replay(*sides, Replaying(DiffOptions()), no_progress)
    result = compare_captures(exact[False], exact[True], DiffOptions(), no_progress, criteria)
    assert result.verdict is Verdict.PASS, result.reasons


@pytest.mark.slow
def test_the_command_says_which_form_it_took(floats: dict[bool, Model], exact: dict[bool, Capture]) -> None:
    words = ["replay", str(exact[False].path), "--model", str(floats[True].path)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "computed again in the expanded form" in " ".join(done.stdout.split())


@pytest.mark.parametrize("form", FORMS)
def test_grafts_are_made_in_the_form_of_the_capture(
    floats: dict[bool, Model], exact: dict[bool, Capture], tmp_path: Path, form: bool
) -> None:
    stage = "q_nope_absorbed" if form else "k_nope"
    faulty = with_fault(floats[form], f"layer=1,stage={stage},kind=scale,magnitude=0.5", tmp_path / "bad")
    for capture, answer in (
        (exact[form], "there is no error to be divided"),
        (faulty, f"layer 1 {stage} is worth 100 %"),
    ):
        done = CliRunner().invoke(cli, ["graft", str(capture.path), "--model", str(floats[not form].path)])
        said = " ".join(done.output.split())
        assert done.exit_code == 0 and answer in said, said
        assert f"computed again in the {'absorbed' if form else 'expanded'} form" in said


@pytest.mark.slow
def test_a_graft_says_which_matrices_may_be_quantised_otherwise(tmp_path: Path) -> None:
    models = both_forms(tmp_path / "files", WeightType.Q8_0)
    capture = captured(models[False], tmp_path / "own", tokens=TOKENS)
    done = CliRunner().invoke(cli, ["graft", str(capture), "--model", str(models[True].path)])
    assert "what mla_kv are worth may be the quantisation alone" in " ".join(done.output.split()), done.output


@pytest.mark.group("llama_cpp")
@pytest.mark.parametrize("form", FORMS)
def test_captures_of_llama_cpp_come_out_of_their_own_inputs_in_the_form_of_its_file(
    floats: dict[bool, Model], tmp_path: Path, form: bool
) -> None:
    options = LlamaCppOptions(kv=KvType.F16, flash_attention=False, threads=1)
    write_llamacpp_captures(floats[form], {tmp_path / "theirs": Evaluation(TOKENS, None, 9)}, options, no_progress)
    assert_passes_below(replayed(Capture.open(tmp_path / "theirs"), floats[not form]), 2e-6)
