"""Latent attention whose queries grow with their position (mistral4, and deepseek2 of Mistral Large 3): honest captures
pass, faults are named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from aprtui.compare.verdict import Verdict
from aprtui.engine.capturing import CaptureRequest, write_capture
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
from aprtui.trace.graph.stage import Node
from tests.engine.embedded_captures import captured
from tests.engine.replay.own_captures import assert_exactly_zero, assert_passes_below, replayed
from tests.engine.replay.test_recurrence import failed
from tests.model.gguf_files import OF_MISTRAL_LARGE, model_file
from tests.oracle.models import largest_error

TOKENS = tuple(int(token) for token in np.random.default_rng(5).integers(0, 260, 20))
"""More than twice as many as queries grow after."""
FORMS = [
    pytest.param(("mistral4", True), id="absorbed"),
    pytest.param(("mistral4", False), id="expanded", marks=pytest.mark.slow),
    pytest.param(("deepseek2", True), id="deepseek2", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=FORMS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    architecture, absorbed = request.param
    file = model_file(
        architecture=architecture, weight_type=WeightType.Q8_0, hidden=64, query_rank=32, absorbed=absorbed
    )  # fmt: skip
    if architecture == "deepseek2":
        file.metadata |= OF_MISTRAL_LARGE
    return load_model(file.write(tmp_path_factory.mktemp(architecture) / "model.gguf"))


@pytest.fixture(scope="module")
def evaluators(model: Model) -> Iterator[Evaluators]:
    with Evaluators(model) as found:
        yield found


def test_the_reference_and_compiled_kernels_agree(model: Model, tmp_path: Path) -> None:
    own = Capture.open(captured(model, tmp_path / "own", tokens=TOKENS, prefill=5))
    request = CaptureRequest(TOKENS, None, frozenset(model.graph.nodes), logits=Logits.LAST)
    with closing(open_engine(model, backend="numpy", context=64)) as engine:
        write_capture(engine, model, request, tmp_path / "reference")
    assert largest_error(Capture.open(tmp_path / "reference"), own) < 2e-6


def test_honest_captures_of_ours_pass(model: Model, evaluators: Evaluators, tmp_path: Path) -> None:
    assert_exactly_zero(replayed(model, evaluators, captured(model, tmp_path / "own", tokens=TOKENS, prefill=4)))
    q8 = captured(model, tmp_path / "q8", Mode.Q8, KvType.F16, tokens=TOKENS)
    assert_passes_below(replayed(model, evaluators, q8), 1.5e-6)


@pytest.mark.group("llama_cpp")
def test_captures_of_llama_cpp_come_out_of_their_own_inputs(
    model: Model, evaluators: Evaluators, tmp_path: Path
) -> None:
    options = LlamaCppOptions(kv=KvType.F16, flash_attention=False, threads=1)
    write_llamacpp_captures(model, {tmp_path / "theirs": Evaluation(TOKENS, None, 9)}, options, no_progress)
    assert_passes_below(replayed(model, evaluators, tmp_path / "theirs"), 2e-6)


@pytest.mark.group("transformers")
@pytest.mark.parametrize("kind", DataType)
def test_captures_of_transformers_pass(model: Model, evaluators: Evaluators, tmp_path: Path, kind: DataType) -> None:
    work = {tmp_path / "theirs": Evaluation(TOKENS, None, 9)}
    write_transformers_captures(model, work, TransformersOptions(kind, AttentionKind.EAGER, threads=1), no_progress)
    result = replay_capture(Capture.open(tmp_path / "theirs"), model, ReplayOptions(), evaluators)
    assert result.verdict is Verdict.PASS, failed(result)


@pytest.mark.parametrize(("stage", "kind"), [("q_temp_scaled", "temperature-dropped"), ("q_pe", "rope-unscaled")])
def test_a_planted_fault_is_named_at_its_own_stage(
    model: Model, evaluators: Evaluators, tmp_path: Path, stage: str, kind: str
) -> None:
    injector = FaultInjector(model, Mode.EXACT, [parse_fault(f"layer=1,stage={stage},kind={kind}", model)])
    request = CaptureRequest(TOKENS, None, frozenset(model.graph.nodes), logits=Logits.LAST)
    with closing(open_engine(model, mode=Mode.EXACT, kv=KvType.F32, context=64, intervention=injector)) as engine:
        write_capture(engine, model, request, tmp_path / "bad")
    assert failed(replayed(model, evaluators, tmp_path / "bad")) == [Node(1, stage)]
