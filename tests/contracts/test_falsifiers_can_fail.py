"""Each falsifier of ours that runs a model turns red under a fault of the program.

Those of captures are in `aprtui contracts faults`, and the gates of `aprtui qa` in tests/engine/quality. Together no
falsifier of ours is left that nothing can fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aprtui.compare.report.apr_diff import apr_stage_diff
from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks import chat, running, verdicts
from aprtui.contracts.checks.arguments import CheckSubject
from aprtui.contracts.checks.judgement import Judgement
from aprtui.contracts.checks.registry import CHECKS, CaptureCheck, ContractCheck, ModelCheck
from aprtui.contracts.documents.document import CheckCall, Falsifier
from aprtui.contracts.documents.loading import load_documents
from aprtui.contracts.evaluation import evaluate
from aprtui.engine import opening
from aprtui.engine.cpu import matmul
from aprtui.engine.evaluation.false_alarms import JudgedCapture
from aprtui.engine.evaluation.fault_detection import Tally
from aprtui.engine.parity import Parity
from aprtui.model.chat import ChatTemplate
from aprtui.model.model import Model, load_model
from aprtui.resources import contracts, embedded_model
from aprtui.trace.aprt import AprtFile
from aprtui.trace.capture import Capture
from tests.compare.synthetic import write_capture
from tests.contracts.own_captures import plain_model, wants_plain_model

Patch = pytest.MonkeyPatch

OWN = [
    (document, test, test.check)
    for document in load_documents([contracts()]).readable
    for test in document.falsifiers
    if test.check is not None
]
BY_GATES = frozenset({"quality_gate", "qa_aggregate", "additive_capture"})
"""Checks of gates, each of which is failed by a fault of its own in tests/engine/quality."""


def _another_backend(patch: Patch) -> None:
    """A backend that is asked for by name is replaced."""
    real = opening.open_engine

    def opened(model: Model, *, backend: str, **options: Any) -> Any:
        return real(model, backend="cpu" if backend == "numpy" else "numpy", **options)

    patch.setattr(opening, "open_engine", opened)


def _silent_choice(patch: Patch) -> None:
    """Nobody is told which backend `auto` took."""
    real = opening.open_engine
    patch.setattr(opening, "open_engine", lambda model, announce=None, **options: real(model, **options))


def _wrong_gate(patch: Patch) -> None:
    """The device computes other logits than the CPU."""
    patch.setattr("aprtui.contracts.checks.running.parity_gate", lambda *given: Parity(False, "far apart", 0.5, 0.1))


def _slow(patch: Patch) -> None:
    patch.setattr(running, "decode_speeds", lambda subject, tokens: [1.0, 1.1, 1.2])


def _line_break_lost(patch: Patch) -> None:
    real = ChatTemplate.render
    patch.setattr(ChatTemplate, "render", lambda self, *given, **named: real(self, *given, **named).rstrip("\n"))


def _sent_bare(patch: Patch) -> None:
    """A prompt is sent on where it has to be refused."""
    patch.setattr(chat, "encode_prompt", lambda *given, **named: [1, 2])


def _nibbles_swapped(patch: Patch) -> None:
    real = matmul.decoded_rows
    patch.setattr(matmul, "decoded_rows", lambda *given: np.ascontiguousarray(real(*given)[:, ::-1]))


def _named_elsewhere(patch: Patch) -> None:
    """Verdicts name another stage than the one at fault."""
    found = Tally("scale", "replay", planted=8, named=6, missed=["another stage"])
    patch.setattr(verdicts, "run_detection", lambda *given, **named: iter([found]))


def _blamed(patch: Patch) -> None:
    """An honest run is blamed."""
    blamed = JudgedCapture("q8, kv f16", "replay", Verdict.FAIL, "layer 1 ffn_out", None)
    patch.setattr(verdicts, "own_captures", lambda *given: ["a", "b"])
    for name in ("judge_replays", "judge_pairs"):
        patch.setattr(verdicts, name, lambda *given: [blamed])


def _diff_reads_one_side_wrongly(patch: Patch) -> None:
    def diff(a: AprtFile, b: AprtFile, *given: Any) -> Any:
        return apr_stage_diff(a, replace(b, values=np.roll(b.values, 1)), *given)

    patch.setattr("aprtui.contracts.checks.captures.apr_stage_diff", diff)


PROGRAM_FAULTS: Mapping[str, Callable[[Patch], None]] = {
    "forced_backend": _another_backend, "automatic_choice": _silent_choice, "parity_with_cpu": _wrong_gate,
    "throughput_floor": _slow, "chat_template_bytes": _line_break_lost, "chat_refusal": _sent_bare,
    "block_values": _nibbles_swapped, "block_decoding": _nibbles_swapped, "detection_rate": _named_elsewhere,
    "false_alarms": _blamed, "diff_identity": _diff_reads_one_side_wrongly,
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """The model that a `test` text is about."""
    embedded = load_model(embedded_model())
    plain = load_model(plain_model(tmp_path_factory.mktemp("plain") / "plain.gguf"))
    return lambda test: plain if wants_plain_model(test) else embedded


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    return Capture.open(write_capture(tmp_path_factory.mktemp("honest") / "capture"))


def judged(check: CheckCall, capture: Capture, model: Model) -> Judgement:
    (document, *_) = next(entry for entry in OWN if entry[2] == check)
    return evaluate(document, check, CheckSubject(capture, None, model))


def _is_of_program(check: CheckCall) -> bool:
    kind = CHECKS[check.name]
    return isinstance(kind, ModelCheck) or (isinstance(kind, CaptureCheck) and kind.of_program)


OF_PROGRAM = [(test, check) for _, test, check in OWN if _is_of_program(check) and check.name not in BY_GATES]


@pytest.mark.parametrize(("falsifier", "check"), OF_PROGRAM, ids=[test.id for test, _ in OF_PROGRAM])
def test_a_fault_of_the_program_turns_it_red(
    falsifier: Falsifier, check: CheckCall, capture: Capture, models: Callable[[str], Model],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if check.parameters.get("backend") == "cuda":
        pytest.skip("group gpu: there is no device to plant a fault in")
    PROGRAM_FAULTS[check.name](monkeypatch)
    assert judged(check, capture, models(falsifier.test)).verdict is Verdict.FAIL


def test_every_falsifier_of_ours_has_a_fault_that_it_is_tested_with() -> None:
    for _, test, check in OWN:
        kind = CHECKS[check.name]
        assert not isinstance(kind, ContractCheck), f"{test.id}: mutants of contracts are in test_validation.py"
        assert not _is_of_program(check) or check.name in PROGRAM_FAULTS or check.name in BY_GATES, test.id
