"""Each gate passes on the embedded model and fails on a model or an engine with the fault that it is for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from aprtui.compare.verdict import Verdict
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import NO_TAPS, Engine, Logits, Mode, Taps, TapSink
from aprtui.engine.quality import file_gates, repeat_gates, run_gates
from aprtui.engine.quality.gate import CONTEXT, GateFinding, ModelUnderTest, Outcome, QualityOptions
from aprtui.engine.quality.gates import NAMES, GateResult, run_quality
from aprtui.errors import UnreadableError, UsageError
from aprtui.model.model import Model, load_model
from aprtui.resources import embedded_model
from aprtui.trace.graph.stage import Node
from aprtui.trace.manifest import Manifest
from aprtui.trace.stats import Accumulator
from tests.engine.edit_gguf import _opened, _tensor
from tests.engine.quality.engines import TouchedByTaps


@pytest.fixture
def subject() -> Iterator[ModelUnderTest]:
    with ModelUnderTest(load_model(embedded_model()), QualityOptions(threads=1)) as opened:
        yield opened


def edited(folder: Path, edit: Callable[[gguf.GGUFReader], None]) -> Path:
    """A copy of the embedded model with something changed."""
    path = Path(shutil.copy(embedded_model(), folder / "edited.gguf"))
    with _opened(path) as reader:
        edit(reader)
    return path


def finding_of(path: Path, gate: Callable[[ModelUnderTest], GateFinding], **options: object) -> GateFinding:
    with ModelUnderTest(load_model(path), QualityOptions(threads=1, **options)) as subject:  # type: ignore[arg-type]
        return gate(subject)


def test_the_embedded_model_passes_every_gate_that_can_be_run_here() -> None:
    told: list[GateResult] = []
    report = run_quality(embedded_model(), QualityOptions(threads=1), each=told.append)
    assert report.verdict is Verdict.PASS, report
    assert tuple(gate.name for gate in report.gates) == NAMES
    assert list(report.gates) == told
    skipped = [gate.name for gate in report.gates if gate.finding.outcome is Outcome.SKIPPED]
    assert skipped == [
        "weights_against", "classifier_head", "ollama_parity", "gpu_speedup", "format_parity", "ptx_parity",
        "gpu_state_isolation", "performance_regression",
    ]  # fmt: skip
    assert report.executed == len(NAMES) - len(skipped)


def test_a_required_gate_that_is_skipped_fails_and_too_few_gates_are_unknown() -> None:
    options = QualityOptions(threads=1)
    required = run_quality(embedded_model(), options, required=["gpu_speedup"])
    assert required.verdict is Verdict.FAIL and "required but skipped: gpu_speedup" in required.reason
    few = run_quality(embedded_model(), options, least=len(NAMES))
    assert few.verdict is Verdict.UNKNOWN
    with pytest.raises(UsageError, match="no such gate"):
        run_quality(embedded_model(), options, required=["golden"])


def test_what_is_no_model_is_unreadable_and_an_architecture_that_is_not_supported_fails(tmp_path: Path) -> None:
    path = tmp_path / "no.gguf"
    path.write_bytes(b"no model at all, but long enough to be read as one")
    with pytest.raises(UnreadableError):
        run_quality(path, QualityOptions())

    def rename(reader: gguf.GGUFReader) -> None:
        field = reader.fields["general.architecture"]
        field.parts[field.data[0]][:] = np.frombuffer(b"mamba", np.uint8)

    report = run_quality(edited(tmp_path, rename), QualityOptions())
    assert report.verdict is Verdict.FAIL
    assert "mamba" in report.gates[0].finding.message
    assert all(gate.finding.outcome is Outcome.SKIPPED for gate in report.gates[1:])


def _nan_in_a_norm(reader: gguf.GGUFReader) -> None:
    _tensor(reader, "blk.1.ffn_norm.weight").data[3] = np.nan


def _infinite_scale(reader: gguf.GGUFReader) -> None:
    data = _tensor(reader, "blk.0.ffn_gate.weight").data
    data[0, :2] = np.array([np.inf], np.float16).view(np.uint8)


def _all_zero(reader: gguf.GGUFReader) -> None:
    _tensor(reader, "blk.2.attn_norm.weight").data[:] = 0


def _too_large(reader: gguf.GGUFReader) -> None:
    _tensor(reader, "blk.2.attn_norm.weight").data[0] = 1e30


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_nan_in_a_norm, "blk.1.ffn_norm.weight: 1 NaN"),
        (_infinite_scale, "blk.0.ffn_gate.weight: d of a block is not finite"),
        (_all_zero, "blk.2.attn_norm.weight: all 256 values are zero"),
        (_too_large, "blk.2.attn_norm.weight: a value of 1e\\+30"),
    ],
)
def test_tensor_contract_names_the_tensor(tmp_path: Path, edit: Callable[[gguf.GGUFReader], None], words: str) -> None:
    finding = finding_of(edited(tmp_path, edit), file_gates.tensor_contract)
    assert (finding.outcome, finding.value) == (Outcome.FAILED, 1)
    assert finding.message.startswith(words.replace("\\", ""))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("qwen2.rope.freq_base", 1.0, "RoPE base is 1"),
        ("qwen2.attention.layer_norm_rms_epsilon", 0.5, "norm epsilon is 0.5"),
        ("general.sampling.temp", 70.0, "temperature is 70"),
    ],
)
def test_metadata_plausibility_names_the_number(tmp_path: Path, key: str, value: float, words: str) -> None:
    def edit(reader: gguf.GGUFReader) -> None:
        field = reader.fields[key]
        field.parts[field.data[0]][0] = value

    finding = finding_of(edited(tmp_path, edit), file_gates.metadata_plausibility)
    assert finding.outcome is Outcome.FAILED and words in finding.message


def golden_file(folder: Path, text: str) -> Path:
    path = folder / "golden.yaml"
    path.write_text(text)
    return path


def test_golden_output_judges_prompts_both_ways_against_a_file(tmp_path: Path) -> None:
    model = embedded_model()
    right = golden_file(tmp_path, "prompts:\n  - prompt: 'def fib(n):'\n    raw: [zebra, '(']\n    tokens: 24\n")
    assert "2 completions" in finding_of(model, run_gates.golden_output, golden=right).message
    wrong = golden_file(tmp_path, "prompts:\n  - prompt: 'def fib(n):'\n    chat: [zebra]\n")
    finding = finding_of(model, run_gates.golden_output, golden=wrong)
    assert (finding.outcome, finding.value) == (Outcome.FAILED, 1)
    assert "'def fib(n):' chat: none of 'zebra'" in finding.message
    assert finding_of(model, run_gates.golden_output, golden=golden_file(tmp_path, "prompts: []")).outcome is (
        Outcome.SKIPPED
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompt: x", "no field 'prompt'"),
        ("prompts: {}", "prompts: expected a list"),
        ("prompts: [{prompt: ''}]", r"prompts\[0\].prompt: expected a text"),
        ("prompts: [{prompt: x, tokens: 1000}]", r"prompts\[0\].tokens"),
        ("prompts: [{prompt: x, raw: 3}]", r"prompts\[0\].raw: expected a list"),
    ],
)
def test_a_broken_file_of_prompts_is_told_with_file_and_field(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        finding_of(embedded_model(), run_gates.golden_output, golden=golden_file(tmp_path, text))


def test_a_model_that_runs_in_circles_fails_golden_output(tmp_path: Path) -> None:
    """Without its last norm's scale the model says the same token for ever, or nothing that is text."""

    def edit(reader: gguf.GGUFReader) -> None:
        _tensor(reader, "output_norm.weight").data[:] *= np.float32(-1)

    path = golden_file(tmp_path, "prompts: [{prompt: 'def fib(n):', raw: [return, 'if '], tokens: 48}]")
    assert finding_of(edited(tmp_path, edit), run_gates.golden_output, golden=path).outcome is Outcome.FAILED


def test_throughput_fails_below_its_threshold(subject: ModelUnderTest) -> None:
    assert run_gates.throughput(subject).outcome is Outcome.PASSED
    assert subject.speeds
    slow = ModelUnderTest(subject.model, QualityOptions(threads=1, tokens_per_second=1e9))
    with slow:
        finding = run_gates.throughput(slow)
    assert finding.outcome is Outcome.FAILED and finding.threshold == 1e9


def test_performance_regression_holds_the_speed_against_a_stored_one(tmp_path: Path, subject: ModelUnderTest) -> None:
    path = tmp_path / "baseline.json"
    subject.speeds = [100.0]
    subject.options = QualityOptions(baseline=path)
    assert run_gates.performance_regression(subject).outcome is Outcome.SKIPPED
    subject.options = QualityOptions(baseline=path, save_baseline=True)
    assert run_gates.performance_regression(subject).outcome is Outcome.SKIPPED
    assert json.loads(path.read_text()) == {"tokens_per_second": 100.0}
    subject.options = QualityOptions(baseline=path)
    assert run_gates.performance_regression(subject).outcome is Outcome.PASSED
    subject.speeds = [50.0]
    finding = run_gates.performance_regression(subject)
    assert (finding.outcome, finding.value) == (Outcome.FAILED, 0.5)
    for broken in ("{", "{}", '{"tokens_per_second": 0}'):
        path.write_text(broken)
        with pytest.raises(UnreadableError, match="remove it"):
            run_gates.performance_regression(subject)


class Leaky:
    """An engine whose logits depend on how often it was asked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._calls = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def forward(self, tokens: Sequence[int], taps: Taps = NO_TAPS, logits: Logits = Logits.LAST) -> NDArray[np.float32]:
        self._calls += 1
        if taps.sink is not None and taps.full and self._calls > 12:
            taps = Taps(_Shifted(taps.sink), taps.full, frozenset())
        return self._engine.forward(tokens, taps, logits) + np.float32(1e-6 * self._calls)


class _Shifted:
    def __init__(self, sink: TapSink) -> None:
        self._sink = sink

    def put(self, node: Node, position: int, values: NDArray[np.float32] | None, stats: Accumulator | None) -> None:
        assert values is not None
        self._sink.put(node, position, values + np.float32(1e-6), None)


def test_an_engine_that_keeps_something_between_runs_is_caught(
    subject: ModelUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert repeat_gates.backend_state_isolation(subject).outcome is Outcome.PASSED
    assert repeat_gates.capture_determinism(subject).outcome is Outcome.PASSED
    for gate, words in (
        (repeat_gates.backend_state_isolation, "run 2"),
        (repeat_gates.capture_determinism, "files differ"),
    ):
        leaky = Leaky(open_engine(subject.model, mode=Mode.Q8, threads=1, context=CONTEXT))
        if gate is repeat_gates.capture_determinism:
            leaky._calls = 10
        monkeypatch.setattr(subject, "_engines", {Mode.Q8: leaky})
        finding = gate(subject)
        assert finding.outcome is Outcome.FAILED and words in finding.message, finding


def test_a_capture_that_changes_what_the_model_says_is_no_addition(
    subject: ModelUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert repeat_gates.additive_capture(subject).value == 0
    touched = TouchedByTaps(open_engine(subject.model, mode=Mode.Q8, threads=1, context=CONTEXT))
    monkeypatch.setattr(subject, "_engines", {Mode.Q8: touched})
    finding = repeat_gates.additive_capture(subject)
    assert (finding.outcome, finding.value) == (Outcome.FAILED, 1) and "the captured run chose" in finding.message


def test_logits_that_are_others_in_a_captured_run_are_found_even_where_the_tokens_agree(
    subject: ModelUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaky = Leaky(open_engine(subject.model, mode=Mode.Q8, threads=1, context=CONTEXT))
    leaky._calls = 10
    monkeypatch.setattr(subject, "_engines", {Mode.Q8: leaky})
    finding = repeat_gates.additive_capture(subject)
    assert (finding.outcome, finding.message) == (Outcome.FAILED, "the captured run has other logits than a plain one")


def test_a_file_beside_those_of_the_plan_is_no_addition(
    subject: ModelUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untidy(engine: Engine, model: Model, request: CaptureRequest, path: Path, **options: object) -> Manifest:
        manifest = write_capture(engine, model, request, path, **options)  # type: ignore[arg-type]
        (path / "layer-0" / "notes.txt").write_text("left behind")
        return manifest

    monkeypatch.setattr(repeat_gates, "write_capture", untidy)
    finding = repeat_gates.additive_capture(subject)
    assert (finding.outcome, finding.message) == (Outcome.FAILED, "layer-0/notes.txt was not planned")


def test_replay_control_shows_the_stage_that_is_not_what_its_inputs_give(subject: ModelUnderTest) -> None:
    model = subject.model
    assert repeat_gates.replay_control(subject).value == 0
    fault = parse_fault("layer=1,stage=ffn_up,kind=scale", model)
    faulty = open_engine(
        model, mode=Mode.EXACT, threads=1, context=CONTEXT, intervention=FaultInjector(model, Mode.EXACT, [fault])
    )
    with ModelUnderTest(model, QualityOptions(threads=1)) as other:
        other._engines[Mode.EXACT] = faulty
        finding = repeat_gates.replay_control(other)
    assert finding.outcome is Outcome.FAILED and "layer 1 ffn_up" in finding.message
