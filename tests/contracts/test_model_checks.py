"""Checks that run a model: each passes what holds, fails what does not with number and bound, else judges nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks import chat, running
from aprtui.contracts.checks.arguments import CheckSubject
from aprtui.contracts.checks.judgement import Judgement
from aprtui.contracts.checks.mapping import own_mapping
from aprtui.contracts.checks.registry import CHECKS, ModelCheck
from aprtui.contracts.evaluation import evaluate
from aprtui.contracts.evidence.about import About, about_of, other_subject
from aprtui.engine import opening
from aprtui.engine.cuda import detect as cuda
from aprtui.engine.cuda.detect import Detection, Obstacle
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import Engine, Mode
from aprtui.engine.quality import file_gates, gates
from aprtui.engine.quality import gate as quality
from aprtui.errors import EngineError, UsageError
from aprtui.model.model import Model, load_model
from aprtui.resources import embedded_model
from tests.contracts.captures import judged
from tests.contracts.evidence_samples import CAPTURE
from tests.contracts.own_captures import plain_model as write_plain_model
from tests.contracts.samples import document
from tests.engine.quality.engines import TouchedByTaps

HELLO = [{"role": "user", "content": "Hello"}]
RENDERED = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(embedded_model())


@pytest.fixture
def plain_model(tmp_path: Path) -> Model:
    """A model without a chat template."""
    return load_model(write_plain_model(tmp_path / "plain.gguf"))


def judge(check: str, model: Model, **parameters: object) -> Judgement:
    return judged(check, None, None, model, **parameters)


@pytest.mark.parametrize("check", [name for name, check in CHECKS.items() if isinstance(check, ModelCheck)])
def test_without_a_model_nothing_is_run(check: str) -> None:
    needed: dict[str, dict[str, object]] = {
        "chat_template_bytes": {"messages": HELLO, "expected": RENDERED},
        "quality_gate": {"gate": "throughput"},
    }
    judgement = judged(check, **needed.get(check, {}))
    assert judgement.verdict is Verdict.UNKNOWN and "--model" in judgement.reason


# --- throughput ---


def test_a_model_that_is_fast_enough_passes_with_its_speed(model: Model) -> None:
    judgement = judge("throughput_floor", model, at_least=1, tokens=8)
    assert (judgement.verdict, judgement.metric, judgement.bound) == (Verdict.PASS, "tokens/s", 1)
    assert judgement.number is not None and judgement.number > 1 and "in mode q8, 8 tokens a run" in judgement.reason


def test_a_model_that_is_too_slow_fails_with_its_speed(model: Model) -> None:
    judgement = judge("throughput_floor", model, at_least=1e9, tokens=8)
    assert (judgement.verdict, judgement.bound) == (Verdict.FAIL, 1e9)
    assert judgement.number is not None and 0 < judgement.number < 1e9


def test_a_model_that_ends_at_once_has_no_speed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "decode_speeds", lambda subject, tokens: [])
    assert judge("throughput_floor", model).verdict is Verdict.UNKNOWN


def test_the_speed_of_a_backend_that_cannot_run_here_is_unknown(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: Model, **options: object) -> Engine:
        raise EngineError(f"backend {options['backend']}: no device")

    monkeypatch.setattr(quality, "open_engine", refuse)
    judgement = judge("throughput_floor", model, backend="cuda")
    assert (judgement.verdict, judgement.reason) == (Verdict.UNKNOWN, "backend cuda: no device")


# --- captures beside a run ---


def test_capturing_that_only_adds_passes(model: Model) -> None:
    judgement = judge("additive_capture", model)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.PASS, 0, 0)


def test_capturing_that_changes_the_tokens_fails(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = open_engine
    monkeypatch.setattr(quality, "open_engine", lambda *args, **options: TouchedByTaps(honest(*args, **options)))
    judgement = judge("additive_capture", model)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.FAIL, 1, 0)
    assert "the captured run chose" in judgement.reason


# --- a backend by name ---


def test_a_backend_by_name_is_opened_or_the_run_ends(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    judgement = judge("forced_backend", model, backend="numpy")
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.PASS, 0, 0)

    def refuse(model: Model, **options: object) -> Engine:
        raise EngineError(f"backend {options['backend']}: no device")

    monkeypatch.setattr(opening, "open_engine", refuse)
    monkeypatch.setattr(cuda, "detect", lambda: Detection(obstacle=Obstacle.NO_DEVICE, problem="no device"))
    judgement = judge("forced_backend", model)
    assert (judgement.verdict, judgement.metric, judgement.number) == (Verdict.PASS, "exit code", 4)
    assert judgement.reason == "not opened: backend cuda: no device"


def test_a_refusal_that_does_not_say_why_fails(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: Model, **options: object) -> Engine:
        raise EngineError("not here")

    monkeypatch.setattr(opening, "open_engine", refuse)
    monkeypatch.setattr(cuda, "detect", lambda: Detection(obstacle=Obstacle.NO_DEVICE, problem="no device"))
    judgement = judge("forced_backend", model)
    assert (judgement.verdict, judgement.metric, judgement.number) == (Verdict.FAIL, "reasons missing", 1)


def test_a_backend_that_is_replaced_by_another_fails(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = opening.open_engine
    monkeypatch.setattr(opening, "open_engine", lambda model, backend, context: honest(model, backend="numpy"))
    judgement = judge("forced_backend", model, backend="cuda")
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.FAIL, 1, 0)
    assert judgement.reason == "cuda was asked for, numpy was opened"


def test_a_refusal_with_another_exit_code_fails(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: Model, **options: object) -> Engine:
        raise UsageError("no such backend")

    monkeypatch.setattr(opening, "open_engine", refuse)
    monkeypatch.setattr(cuda, "detect", Detection)
    judgement = judge("forced_backend", model)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.FAIL, 2, 4)


def test_what_auto_takes_is_told_once_with_its_reason(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    judgement = judge("automatic_choice", model)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.PASS, 0, 0)
    assert judgement.reason.startswith("backend ")


@pytest.mark.parametrize(
    ("reasons", "words"),
    [
        ((), "0 reasons are given"),
        (("backend numpy: x", "backend numpy: y"), "2 reasons are given"),
        (("backend cpu: no driver",), "numpy was opened, and backend cpu: no driver"),
        (("backend numpy: because",), "expected no driver"),
    ],
)
def test_an_automatic_choice_with_a_wrong_reason_fails(
    model: Model, monkeypatch: pytest.MonkeyPatch, reasons: tuple[str, ...], words: str
) -> None:
    honest = opening.open_engine

    def silent(model: Model, context: int, announce: Callable[[str], None], lines: tuple[str, ...] = reasons) -> Engine:
        for line in lines:
            announce(line)
        return honest(model, backend="numpy", context=context)

    monkeypatch.setattr(opening, "open_engine", silent)
    monkeypatch.setattr(cuda, "detect", lambda: Detection(obstacle=Obstacle.NO_DRIVER, problem="no driver"))
    judgement = judge("automatic_choice", model)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.FAIL, 1, 0)
    assert words in judgement.reason


@pytest.mark.gate
def test_an_honest_engine_passes_the_gate_and_one_with_a_fault_does_not(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    judgement = judge("parity_with_cpu", model, backend="numpy")
    assert (judgement.verdict, judgement.bound) == (Verdict.PASS, 1e-4)
    assert judgement.number is not None and 0 < judgement.number < 1e-5

    honest = opening.open_engine
    for mode, metric in ((Mode.EXACT, "relative L2 of logits"), (Mode.Q8, "native modes that do not hold")):
        fault = FaultInjector(model, mode, [parse_fault("layer=2,stage=ffn_up,kind=scale,magnitude=0.5", model)])

        def faulty(model: Model, wrong: Mode = mode, fault: FaultInjector = fault, **options: object) -> Engine:
            is_wrong = options["backend"] == "numpy" and options["mode"] == wrong
            return honest(model, intervention=fault if is_wrong else None, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(opening, "open_engine", faulty)
        judgement = judge("parity_with_cpu", model, backend="numpy")
        assert (judgement.verdict, judgement.metric) == (Verdict.FAIL, metric)
        assert judgement.number is not None and judgement.bound is not None and judgement.number > judgement.bound


def test_the_gate_of_a_device_that_is_not_there_is_not_testable(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "detect", lambda: Detection(obstacle=Obstacle.NO_DRIVER, problem="no driver"))
    judgement = judge("parity_with_cpu", model)
    assert (judgement.verdict, judgement.testable) == (Verdict.UNKNOWN, False)
    assert judgement.reason == "not testable: no CUDA device: no driver"


# --- quality gates ---


@pytest.fixture
def two_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = (file_gates.tensor_contract, file_gates.metadata_plausibility)
    monkeypatch.setattr(gates, "GATES", tuple((gate.__name__, gate) for gate in quick))


@pytest.mark.usefixtures("two_gates")
def test_gates_that_all_pass_pass(model: Model) -> None:
    judgement = judge("qa_aggregate", model, require=["tensor_contract"], min_executed=3)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.PASS, 0, 0)


@pytest.mark.usefixtures("two_gates")
def test_one_gate_that_fails_fails_them_all(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_gates, "LARGEST", 1e-3)
    judgement = judge("qa_aggregate", model)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.FAIL, 1, 0)
    assert judgement.reason == "failed: tensor_contract"


def test_a_required_gate_that_is_skipped_fails(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "GATES", tuple(gate for gate in gates.GATES if gate[0] == "gpu_speedup"))
    judgement = judge("qa_aggregate", model, require=["gpu_speedup"])
    assert (judgement.verdict, judgement.number) == (Verdict.FAIL, 1) and "required but skipped" in judgement.reason


@pytest.mark.usefixtures("two_gates")
def test_too_few_gates_are_unknown_and_so_is_a_gate_that_does_not_exist(model: Model) -> None:
    assert "at least 4" in judge("qa_aggregate", model, min_executed=4).reason
    for parameters in ({"min_executed": 4}, {"require": ["golden"]}):
        assert judge("qa_aggregate", model, **parameters).verdict is Verdict.UNKNOWN


def test_one_gate_is_judged_by_its_own_number(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    judgement = judge("quality_gate", model, gate="tensor_contract")
    assert (judgement.verdict, judgement.metric, judgement.number) == (Verdict.PASS, "tensor_contract", 0)
    monkeypatch.setattr(file_gates, "LARGEST", 1e-3)
    judgement = judge("quality_gate", model, gate="tensor_contract")
    assert judgement.verdict is Verdict.FAIL and judgement.number is not None and judgement.number > 0
    assert judge("quality_gate", model, gate="gpu_speedup").verdict is Verdict.UNKNOWN


# --- chat ---


def test_a_template_that_renders_the_expected_bytes_passes(model: Model) -> None:
    judgement = judge("chat_template_bytes", model, messages=HELLO, expected=RENDERED, family="<|im_start|>")
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.PASS, 0, 0)
    closed = RENDERED.removesuffix("<|im_start|>assistant\n")
    judgement = judge("chat_template_bytes", model, messages=HELLO, expected=closed, generation_prompt=False)
    assert judgement.verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("expected", "number", "at"),
    [(RENDERED[:-1], 1, 54), (RENDERED.replace("user", "User"), 1, 12), (RENDERED + "é", 2, 55), ("x", 55, 0)],
)
def test_a_single_byte_that_differs_fails_with_its_place(model: Model, expected: str, number: int, at: int) -> None:
    judgement = judge("chat_template_bytes", model, messages=HELLO, expected=expected)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.FAIL, number, 0)
    assert judgement.reason.startswith(f"from byte {at} on ")


def test_a_template_of_another_kind_or_none_is_unknown(model: Model, plain_model: Model) -> None:
    other = judge("chat_template_bytes", model, messages=HELLO, expected="x", family="[INST]")
    assert other.verdict is Verdict.UNKNOWN and "another kind" in other.reason
    none = judge("chat_template_bytes", plain_model, messages=HELLO, expected="x")
    assert (none.verdict, none.reason) == (Verdict.UNKNOWN, "the model has no chat template")


def test_text_with_control_tokens_and_models_without_a_template_are_refused(model: Model, plain_model: Model) -> None:
    for subject, prompt in ((model, "<|im_start|>user\nHello"), (plain_model, "Hello")):
        judgement = judge("chat_refusal", subject, prompt=prompt)
        assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.PASS, 0, 0)


def test_a_prompt_that_is_let_through_fails(plain_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "encode_prompt", lambda *args, **options: [1, 2, 3])
    judgement = judge("chat_refusal", plain_model)
    assert (judgement.verdict, judgement.number, judgement.bound) == (Verdict.FAIL, 1, 0)


def test_a_prompt_that_a_template_may_take_says_nothing(model: Model) -> None:
    assert judge("chat_refusal", model, prompt="Hello").verdict is Verdict.UNKNOWN


# --- wrong parameters ---


@pytest.mark.parametrize(
    ("check", "parameters", "reason"),
    [
        ("throughput_floor", {"tokens": 0}, "expected a whole number, 1 … 128"),
        ("throughput_floor", {"tokens": 1000}, "expected a whole number"),
        ("throughput_floor", {"at_least": "fast"}, "is not a number"),
        ("throughput_floor", {"backend": "vulkan"}, "expected one of auto, cpu, cuda, numpy"),
        ("throughput_floor", {"layers": 1}, "takes no 'layers'"),
        ("forced_backend", {"backend": "auto"}, "expected one of cpu, cuda, numpy"),
        ("quality_gate", {}, "expected one of tensor_contract, "),
        ("qa_aggregate", {"require": "golden_output"}, "expected a list of texts"),
        ("chat_template_bytes", {"messages": HELLO}, "give messages and the text"),
        ("chat_template_bytes", {"messages": [{"role": "user"}], "expected": "x"}, "expected a list of {role"),
        ("chat_template_bytes", {"messages": HELLO, "expected": 3}, "is not a text"),
        ("chat_template_bytes", {"messages": HELLO, "expected": "x", "generation_prompt": 1}, "expected true or false"),
        ("chat_refusal", {"prompt": None}, "is not a text"),
    ],
)
def test_a_check_with_a_wrong_parameter_says_so(
    model: Model, check: str, parameters: dict[str, object], reason: str
) -> None:
    judgement = judge(check, model, **parameters)
    assert judgement.verdict is Verdict.UNKNOWN and reason in judgement.reason


# --- claims of others ---


def test_claims_of_aprender_about_a_model_are_judged_with_one_and_unknown_without(model: Model) -> None:
    mapping = own_mapping()
    of_any_model, of_the_teacher = (
        ("FALSIFY-CHAT-001", "FALSIFY-CPU-GPU-004"),
        ("GATE-CHAT-SHIP-008", "FALSIFY-ATTN-SUB-005"),
    )
    contract = document(f"falsification_tests: [{', '.join(f'{{id: {name}}}' for name in of_any_model)}]\n")
    for name in (*of_any_model, *of_the_teacher):
        found = evaluate(contract, mapping[name], CheckSubject(model=model))
        assert found.verdict is (Verdict.PASS if name in of_any_model else Verdict.UNKNOWN)
        assert evaluate(contract, mapping[name], CheckSubject()).verdict is Verdict.UNKNOWN
    assert found.reason.startswith("holds for model aprtui demo, the claim is about model *qwen2.5*coder*7b*: ")


@pytest.mark.parametrize(
    ("name", "is_teacher"),
    [
        ("Qwen2.5 Coder 7B Instruct", True), ("qwen2.5-coder-7b-instruct-q4_k_m", True),
        ("paiml/qwen2.5-coder-7b-apache-q4k-v1", True), ("Qwen2.5 Coder 0.5B Instruct", False),
        ("Qwen2 7B Instruct", False), ("Qwen2.5 7B Instruct", False),
    ],
)  # fmt: skip
def test_claims_about_the_teacher_are_about_no_other_model(name: str, is_teacher: bool) -> None:
    named = {claim: about_of(call).names.get("model") for claim, call in own_mapping().items()}
    of_the_teacher = {claim: names for claim, names in named.items() if names is not None}
    for claim in ("QW2E-SHIP-002", "QW2E-SHIP-007", "QA-SHIP-006", "SHIP-007-GPU-004", "CPU-GPU-001"):
        assert f"FALSIFY-{claim}" in of_the_teacher
    for claim, names in of_the_teacher.items():
        found = other_subject(About({"model": names}, ""), [replace(CAPTURE, model=name)])
        assert (found == "") is is_teacher, claim


def test_every_check_that_the_mapping_names_exists_and_takes_its_parameters(model: Model) -> None:
    for name, call in own_mapping().items():
        assert call.name in CHECKS, name
        odd = set(call.parameters) - CHECKS[call.name].parameters - {"stages", "layers", "devices_differ", "about"}
        assert not odd, name
