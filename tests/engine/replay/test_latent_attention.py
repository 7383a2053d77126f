"""Latent attention in both of its forms: engines agree, replays of honest captures pass, faults are named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.verdict import Verdict
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.evaluation.cause_detection import CauseOutcome, CausePlants, cause_outcome
from aprtui.engine.evaluation.planted_causes import PLANTED_CAUSES
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Logits, Mode
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.model.model import Model, load_model
from aprtui.model.weight_types import WeightType
from aprtui.oracle.llamacpp_capture import LlamaCppOptions, write_llamacpp_captures
from aprtui.oracle.requests import Evaluation
from aprtui.oracle.transformers_capture import TransformersOptions, write_transformers_captures
from aprtui.oracle.transformers_model import AttentionKind, DataType
from aprtui.progress import no_progress
from aprtui.trace.capture import Capture
from aprtui.trace.graph.ops import Op
from aprtui.trace.graph.stage import Node
from tests.engine.embedded_captures import captured
from tests.engine.replay.own_captures import assert_exactly_zero, assert_passes_below, replayed
from tests.engine.replay.test_recurrence import failed
from tests.model.gguf_files import NOPE, RANK, VALUE, Tensor, model_file, write_model
from tests.oracle.models import largest_error

TOKENS = tuple(int(token) for token in np.random.default_rng(5).integers(0, 260, 17))
FORMS = {"absorbed": True, "expanded": False}


@pytest.fixture(scope="module", params=FORMS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("latent") / "model.gguf"
    return load_model(
        write_model(
            path, architecture="deepseek2", weight_type=WeightType.Q8_0, hidden=64, query_rank=32,
            absorbed=FORMS[request.param],
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def evaluators(model: Model) -> Iterator[Evaluators]:
    with Evaluators(model) as found:
        yield found


def test_both_forms_of_one_model_give_the_same_at_every_stage_that_they_share(tmp_path: Path) -> None:
    file = model_file(architecture="deepseek2", weight_type=WeightType.F32, hidden=64)
    captures = [captured(load_model(file.write(tmp_path / "a.gguf")), tmp_path / "A", tokens=TOKENS)]
    expanded = model_file(architecture="deepseek2", weight_type=WeightType.F32, hidden=64, absorbed=False)
    for name in expanded.tensors:
        if name in file.tensors:
            expanded.tensors[name] = file.tensors[name]
            continue
        keys, values = (file.tensors[name.replace("kv_b", part)].data for part in ("k_b", "v_b"))
        of_keys = keys.view(np.float32).reshape(4, RANK, NOPE).swapaxes(1, 2)
        both = np.concatenate([of_keys, values.view(np.float32).reshape(4, VALUE, RANK)], axis=1)
        rows = np.ascontiguousarray(both.reshape(-1, RANK))
        expanded.tensors[name] = Tensor(rows.view(np.uint8), WeightType.F32)
    captures.append(captured(load_model(expanded.write(tmp_path / "b.gguf")), tmp_path / "B", tokens=TOKENS))
    a, b = map(Capture.open, captures)
    shared = set(a.files) & set(b.files)
    assert {"attn_scores", "attention", "q_pe", "k_pe", "kv_cmpr"} <= {node.stage for node in shared}
    for node in shared:
        expected, found = (capture.values(node).astype(np.float64) for capture in (a, b))
        assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected), node


def test_chunks_threads_and_decoding_change_no_bit(model: Model, tmp_path: Path) -> None:
    whole = Capture.open(captured(model, tmp_path / "whole", Mode.Q8, KvType.F16, tokens=TOKENS))
    decoded = Capture.open(captured(model, tmp_path / "decoded", Mode.Q8, KvType.F16, tokens=TOKENS, prefill=5))
    request = CaptureRequest(TOKENS, None, frozenset(model.graph.nodes), logits=Logits.LAST)
    with closing(open_engine(model, mode=Mode.Q8, kv=KvType.F16, context=64, threads=3)) as engine:
        write_capture(engine, model, request, tmp_path / "threads")
    threads = Capture.open(tmp_path / "threads")
    for node in whole.files:
        for other in (decoded, threads):
            assert np.array_equal(whole.values(node), other.values(node)), node


def test_the_reference_and_compiled_kernels_agree(model: Model, tmp_path: Path) -> None:
    own = Capture.open(captured(model, tmp_path / "own", tokens=TOKENS))
    request = CaptureRequest(TOKENS, None, frozenset(model.graph.nodes), logits=Logits.LAST)
    with closing(open_engine(model, backend="numpy", context=64)) as engine:
        write_capture(engine, model, request, tmp_path / "reference")
    assert largest_error(Capture.open(tmp_path / "reference"), own) < 2e-6


def test_replay_of_an_own_exact_capture_is_exactly_zero(model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    assert_exactly_zero(replayed(model, evaluators, captured(model, tmp_path / "own", tokens=TOKENS, prefill=4)))


@pytest.mark.parametrize("kv", [KvType.F16, KvType.Q8_0])
def test_an_honest_q8_capture_passes_far_below_its_bound(
    model: Model, evaluators: Evaluators, tmp_path: Path, kv: KvType
) -> None:
    assert_passes_below(
        replayed(model, evaluators, captured(model, tmp_path / "q8", Mode.Q8, kv, tokens=TOKENS)), 1.5e-6
    )


@pytest.mark.group("llama_cpp")
@pytest.mark.parametrize(("kv", "flash"), [(KvType.F32, False), (KvType.F16, False), (KvType.F16, True)])
def test_captures_of_llama_cpp_come_out_of_their_own_inputs(
    model: Model, evaluators: Evaluators, tmp_path: Path, kv: KvType, flash: bool
) -> None:
    options = LlamaCppOptions(kv=kv, flash_attention=flash, threads=1)
    write_llamacpp_captures(model, {tmp_path / "theirs": Evaluation(TOKENS, None, 9)}, options, no_progress)
    result = replayed(model, evaluators, tmp_path / "theirs")
    assert_passes_below(result, 1e-3)
    summed = {node for node in model.graph.nodes if flash and model.graph[node.stage].op is Op.ATTEND}
    assert max(stage.verdict.error or 0 for stage in result.stages if stage.node not in summed) < 2e-6


@pytest.mark.group("transformers")
@pytest.mark.parametrize("kind", DataType)
@pytest.mark.parametrize("attention", AttentionKind)
def test_captures_of_transformers_which_always_expands_pass(
    model: Model, evaluators: Evaluators, tmp_path: Path, kind: DataType, attention: AttentionKind
) -> None:
    work = {tmp_path / "theirs": Evaluation(TOKENS, None, 9)}
    write_transformers_captures(model, work, TransformersOptions(kind, attention, threads=1), no_progress)
    result = replay_capture(Capture.open(tmp_path / "theirs"), model, ReplayOptions(), evaluators)
    assert result.verdict is Verdict.PASS, failed(result)


FAULTS = {
    "q_a_norm": "scale,magnitude=0.001",
    "mla_q": "scale,magnitude=0.001",
    "kv_cmpr_pe": "stale-token",
    "kv_cmpr": "scale,magnitude=0.001",
    "q_nope": "scale,magnitude=0.001",
    "q_pe": "position-off-by-one",
    "k_pe": "position-off-by-one",
    "q_nope_absorbed": "head-swap",
    "q_latent": "head-swap",
    "k_latent": "stale-token",
    "attn_latent": "head-swap",
    "mla_kv": "scale,magnitude=0.001",
    "k_nope": "head-swap",
    "v_heads": "head-swap",
    "q_post_rope": "head-swap",
    "k_post_rope": "head-swap",
    "attention": "head-swap",
}


OF_ONE_FORM = {
    **dict.fromkeys(("q_nope_absorbed", "q_latent", "k_latent", "attn_latent"), "absorbed"),
    **dict.fromkeys(("mla_kv", "k_nope", "v_heads", "q_post_rope", "k_post_rope"), "expanded"),
}
IN_GATE = {"kv_cmpr", "q_pe", "q_latent", "attn_latent", "v_heads"}


def of_form(*values: object, form: str, kept: bool) -> object:
    """Parameters of one form of the model; the gate has those that are `kept`."""
    return pytest.param(form, *values, marks=() if kept else pytest.mark.slow)


@pytest.mark.parametrize(
    ("model", "stage"),
    [
        of_form(stage, form=form, kept=stage in IN_GATE)
        for stage in FAULTS
        for form in FORMS
        if OF_ONE_FORM.get(stage, form) == form
    ],
    indirect=["model"],
)
def test_a_planted_fault_is_named_at_its_own_stage(
    model: Model, evaluators: Evaluators, tmp_path: Path, stage: str
) -> None:
    fault = parse_fault(f"layer=1,stage={stage},kind={FAULTS[stage]}", model)
    request = CaptureRequest(TOKENS, None, frozenset(model.graph.nodes), logits=Logits.LAST)
    injector = FaultInjector(model, Mode.EXACT, [fault])
    with closing(open_engine(model, mode=Mode.EXACT, kv=KvType.F32, context=64, intervention=injector)) as engine:
        write_capture(engine, model, request, tmp_path / "bad")
    assert failed(replayed(model, evaluators, tmp_path / "bad")) == [Node(1, stage)]


NEXT_HEAD = "latent attention: matrix of the next head"
CAUSES = (
    ("RoPE left out for keys", "k_pe"),
    ("positions off by 3", "q_pe"),
    ("scores scaled by 0.1", "attn_scores"),
    ("a factor of 1.25", "q_nope"),
    ("V cache written a slot late", ""),
    ("latent attention: the other end of heads", "q_nope"),
    ("latent attention: the other end of heads", "q_pe_raw"),
    ("latent attention: turned channels of the first head", "q_joined"),
    (NEXT_HEAD, "q_nope_absorbed"),
    ("latent attention: turned channels first", "q_joined"),
    (NEXT_HEAD, "attention"),
)
CAUSES_IN_GATE = {CAUSES[0], *CAUSES[-2:]}


@pytest.mark.parametrize(
    ("model", "name", "stage"),
    [
        of_form(*row, form=form, kept=row in CAUSES_IN_GATE)
        for row in CAUSES
        for form in (("absorbed",) if row[0] == NEXT_HEAD else FORMS)
    ],
    indirect=["model"],
)
def test_the_cause_of_a_planted_fault_is_proved(
    name: str, stage: str, model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    planted = PLANTED_CAUSES[name]
    weighed = next(found.name for found in model.graph.stages if found.op is Op.ATTEND)
    joined = model.graph["attn_scores"].inputs[0].stage
    node = Node(1, {"": weighed, "q_joined": joined}.get(stage, stage))
    assert node in planted.nodes(model)
    result = CausePlants(model, TOKENS, evaluators, tmp_path).replayed(node, planted)
    assert result is not None and cause_outcome(result, planted) is CauseOutcome.PROVED
