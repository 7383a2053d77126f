"""Checks that run a model: how fast it is, what capturing adds to a run, which backend is opened, its quality gates.

What they say is about this engine: a claim of another engine's contract is judged by what ours does with the model.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks.arguments import Asked
from aprtui.contracts.checks.judgement import Judgement, no_device, unknown
from aprtui.engine import opening
from aprtui.engine.cuda import detect
from aprtui.engine.parity.gate import LOGITS_BOUND, POSITIONS, parity_gate
from aprtui.engine.protocol import Engine, Mode
from aprtui.engine.quality import gate as quality
from aprtui.engine.quality import repeat_gates
from aprtui.engine.quality.finding import Finding, Outcome
from aprtui.engine.quality.gates import GATES, run_quality
from aprtui.engine.quality.run_gates import TOKENS, decode_speeds
from aprtui.errors import AprtuiError, ExitCode
from aprtui.machine import default_threads

BACKEND = "backend"
AUTO, CUDA = "auto", "cuda"
FORCED = (CUDA, "cpu", "numpy")
"""Backends that can be asked for by name."""

_VERDICTS = {Outcome.PASSED: Verdict.PASS, Outcome.FAILED: Verdict.FAIL, Outcome.SKIPPED: Verdict.UNKNOWN}

_MOST_TOKENS = quality.CONTEXT // 2
_SHORT = 16
"""Positions that an engine which is only opened has room for."""


def throughput_floor(asked: Asked) -> Judgement:
    """The median of five runs decodes at least `at_least` tokens a second, each run up to `tokens` long."""
    bound, tokens = asked.number("at_least", 10.0), asked.count("tokens", TOKENS, _MOST_TOKENS)
    with quality.Subject(asked.require_model(), quality.QualityOptions(backend=_backend(asked))) as subject:
        speeds = decode_speeds(subject, tokens)
        where = f"{subject.model.name}, {subject.engine(Mode.Q8).backend} in mode {Mode.Q8}, {tokens} tokens a run"
    if not speeds:
        return unknown("the model ends at once: nothing to measure")
    speed = statistics.median(speeds)
    reason = f"{where}, {len(speeds)} runs [{min(speeds):.1f} … {max(speeds):.1f}]"
    return Judgement(Verdict.PASS if speed >= bound else Verdict.FAIL, reason, "tokens/s", speed, bound)


def additive_capture(asked: Asked) -> Judgement:
    """The gate of `aprtui qa` with this name: capturing changes no token and no logit, and writes no other files."""
    return _of_gate(asked, repeat_gates.additive_capture, "differences from a plain run")


def quality_gate(asked: Asked) -> Judgement:
    """One gate of `aprtui qa`, named by `gate`."""
    gates = dict(GATES)
    name = asked.one_of("gate", "", tuple(gates))
    return _of_gate(asked, gates[name], name)


def _of_gate(asked: Asked, gate: Callable[[quality.Subject], Finding], metric: str) -> Judgement:
    with quality.Subject(asked.require_model(), quality.QualityOptions(backend=_backend(asked))) as subject:
        finding = gate(subject)
    return Judgement(_VERDICTS[finding.outcome], finding.message, metric, finding.value, finding.threshold)


def _backend(asked: Asked) -> str:
    return asked.one_of(BACKEND, AUTO, (AUTO, *FORCED))


def forced_backend(asked: Asked) -> Judgement:
    """A backend that is asked for by name is the one that is opened, or the run ends with exit code 4.

    Where there is no CUDA device, what `aprtui doctor` says about it must be in the message.
    """
    backend = asked.one_of(BACKEND, CUDA, FORCED)
    model = asked.require_model()
    try:
        engine = opening.open_engine(model, backend=backend, context=min(_SHORT, model.config.context))
    except AprtuiError as error:
        return _refused(backend, error)
    opened = engine.backend
    engine.close()
    verdict = Verdict.PASS if opened == backend else Verdict.FAIL
    return Judgement(
        verdict, f"{backend} was asked for, {opened} was opened", "other backends", float(opened != backend), 0.0
    )


def _refused(backend: str, error: AprtuiError) -> Judgement:
    found = detect.detect() if backend == CUDA else None
    if found is not None and found.obstacle is not None and found.problem not in str(error):
        reason = f"the message does not say why: {error}: expected {found.problem}"
        return Judgement(Verdict.FAIL, reason, "reasons missing", 1.0, 0.0)
    code = error.exit_code
    verdict = Verdict.PASS if code == ExitCode.ENGINE else Verdict.FAIL
    return Judgement(verdict, f"not opened: {error}", "exit code", float(code), float(ExitCode.ENGINE))


def automatic_choice(asked: Asked) -> Judgement:
    """`auto` opens an engine and says which, and why it is that one: once, and in the words of `aprtui doctor` where
    there is no device."""
    told: list[str] = []
    model = asked.require_model()
    engine = opening.open_engine(model, context=min(_SHORT, model.config.context), told=told.append)
    opened = engine.backend
    engine.close()
    found = detect.detect()
    said = told[0] if told else "nothing is said"
    problems = [
        (len(told) != 1, f"{len(told)} reasons are told, not one"),
        (not said.startswith(f"backend {opened}: "), f"{opened} was opened, and {said}"),
        (found.obstacle is not None and found.problem not in said, f"{said}: expected {found.problem}"),
    ]
    wrong = [text for is_so, text in problems if is_so]
    verdict = Verdict.FAIL if wrong else Verdict.PASS
    return Judgement(verdict, wrong[0] if wrong else said, "reasons missing", float(bool(wrong)), 0.0)


def parity_with_cpu(asked: Asked) -> Judgement:
    """The gate that `auto` asks before it takes a device: logits in mode `exact`, then a replay of mode `q8`."""
    backend, model = asked.one_of(BACKEND, CUDA, (CUDA, "numpy")), asked.require_model()
    found = detect.detect() if backend == CUDA else None
    if found is not None and found.obstacle is not None:
        return no_device(found.problem)
    if (missing := opening.numba_missing()) is not None:
        return unknown(f"no CPU engine to hold it against: {missing}")
    threads = default_threads()

    def opened(name: str, mode: Mode) -> Engine:
        return opening.open_engine(model, backend=name, mode=mode, threads=threads, context=POSITIONS)

    parity = parity_gate(
        model, lambda mode: opened(backend, mode), lambda: opened("cpu", Mode.EXACT), threads, lambda *_: None
    )
    if parity.passed or not parity.logits <= LOGITS_BOUND:
        verdict = Verdict.PASS if parity.passed else Verdict.FAIL
        return Judgement(verdict, f"{backend}: {parity.reason}", "relative L2 of logits", parity.logits, LOGITS_BOUND)
    return Judgement(Verdict.FAIL, f"{backend}: {parity.reason}", "native modes that do not hold", 1.0, 0.0)


def qa_aggregate(asked: Asked) -> Judgement:
    """Every quality gate that is run passes, and those in `require` are run; `min_executed` of them at least."""
    required = asked.texts("require")
    least = asked.count("min_executed", 1, 100)
    options = quality.QualityOptions(backend=_backend(asked), tokens_per_second=asked.number("tokens_per_second", 10.0))
    report = run_quality(asked.require_model().path, options, required=required, least=least)
    wrong = [gate.name for gate in report.gates if gate.finding.outcome is Outcome.FAILED]
    wrong += [gate.name for gate in report.gates if gate.finding.outcome is Outcome.SKIPPED and gate.name in required]
    skipped = [gate.name for gate in report.gates if gate.finding.outcome is Outcome.SKIPPED]
    reason = f"{report.reason}; skipped: {', '.join(skipped)}" if skipped else report.reason
    return Judgement(report.verdict, reason, "gates that do not hold", float(len(wrong)), 0.0)
