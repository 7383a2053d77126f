"""Types of the K/V cache: where they are refused, what they are called, and that a replay knows them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from click import Choice, Context

from aprtui.cli.main import cli
from aprtui.compare.verdict import Verdict
from aprtui.engine.backends.cuda import CUDA
from aprtui.engine.backends.registry import require_kv_type
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.kv_types import KV_FORMATS
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.replay.evaluators import Evaluators
from aprtui.engine.replay.replay import ReplayOptions, replay_capture
from aprtui.errors import EngineError, UsageError
from aprtui.model.model import Model, load_model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import Node
from tests.engine.embedded_captures import TOKENS, captured
from tests.model.gguf_files import write_model

QUANTISED = (KvType.Q8_0, KvType.Q4_0)


def test_the_command_line_offers_every_type() -> None:
    command = cli.get_command(Context(cli), "run")
    assert command is not None
    choice = next(option.type for option in command.params if option.name == "kv")
    assert isinstance(choice, Choice)
    assert tuple(choice.choices) == tuple(KvType) == tuple(KV_FORMATS)


def test_a_head_that_no_block_divides_is_refused_with_what_can_be_used(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "model.gguf", architecture="llama", heads=4, head_dim=48))
    for kv in QUANTISED:
        with pytest.raises(UsageError, match=rf"^K/V cache type {kv}: .* a head of 48: use --kv f32 or f16$"):
            open_engine(model, backend="cpu", kv=kv)


def test_a_gpu_refuses_quantised_types_by_name(model: Model) -> None:
    for kv in QUANTISED:
        with pytest.raises(
            EngineError,
            match=rf"^backend cuda: it keeps no K/V cache of type {kv}: use --kv f32 or f16, or --backend cpu$",
        ):
            open_engine(model, backend="cuda", kv=kv)
    require_kv_type(CUDA, KvType.F16)


def test_auto_takes_the_processor_for_a_type_that_the_gpu_lacks(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("aprtui.engine.opening._parity", lambda *_: pytest.fail("a GPU that cannot serve is not asked"))
    with closing(open_engine(model, kv=KvType.Q8_0, context=8, announce=told.append)) as engine:
        assert engine.backend == "cpu"
    assert told == ["backend cpu: it keeps no K/V cache of type q8_0"]


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("kv", QUANTISED)
def test_a_replay_takes_the_type_from_the_manifest(
    model: Model, evaluators: Evaluators, tmp_path: Path, kv: KvType, mode: Mode
) -> None:
    capture = Capture.open(captured(model, tmp_path / "own", mode, kv, prefill=5))
    assert capture.manifest is not None and capture.manifest.engine.rounding["kv_cache"] == kv
    result = replay_capture(capture, model, ReplayOptions(), evaluators)
    assert result.verdict is Verdict.PASS and result.compared == result.expected
    assert max(stage.verdict.error or 0 for stage in result.stages) < 1e-6
    if mode is Mode.EXACT:
        assert all(stage.metrics.equal_bits == 1 for stage in result.stages)


@pytest.mark.parametrize("kv", QUANTISED)
def test_a_replay_finds_the_type_where_no_manifest_states_it(
    model: Model, evaluators: Evaluators, tmp_path: Path, kv: KvType
) -> None:
    directory = captured(model, tmp_path / "foreign", Mode.Q8, kv)
    (directory / "manifest.json").unlink()
    result = replay_capture(Capture.open(directory), model, ReplayOptions(), evaluators)
    assert result.verdict is Verdict.PASS
    assert any(f"kv_cache={kv}," in f"{statement}," for statement in result.statements)


@pytest.mark.parametrize("fault", ["attn_scores,kind=kv-head-map", "attention,kind=scale,magnitude=0.0001"])
@pytest.mark.parametrize("kv", QUANTISED)
def test_a_planted_fault_is_named_behind_a_quantised_cache(
    model: Model, evaluators: Evaluators, tmp_path: Path, kv: KvType, fault: str
) -> None:
    injector = FaultInjector(model, Mode.Q8, [parse_fault(f"layer=2,stage={fault}", model)])
    with closing(open_engine(model, mode=Mode.Q8, kv=kv, context=64, intervention=injector)) as engine:
        write_capture(engine, model, CaptureRequest(TOKENS, None, frozenset(model.graph.nodes)), tmp_path / "faulty")
    result = replay_capture(Capture.open(tmp_path / "faulty"), model, ReplayOptions(), evaluators)
    assert result.first_divergence is not None
    assert result.first_divergence.verdict.node == Node(2, fault.partition(",")[0])
