"""Checks that run a model: its speed, what capturing changes, the backend that is opened, its quality gates.

They run this engine: a claim of another engine's contract is judged by what ours does with the model.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks.arguments import CheckArguments
from aprtui.contracts.checks.judgement import Judgement, Relation, no_device, passed_if, unknown
from aprtui.engine import opening
from aprtui.engine.backends.backend import Backend
from aprtui.engine.backends.registry import (
    AUTO,
    BACKENDS,
    backend_choices,
    backend_names,
    device_backends,
    host_backends,
    named_backend,
)
from aprtui.engine.parity import LOGITS_BOUND, POSITIONS, parity_gate
from aprtui.engine.protocol import Engine, Mode
from aprtui.engine.quality import gate as quality
from aprtui.engine.quality import repeat_gates
from aprtui.engine.quality.gate import GateFinding, Outcome
from aprtui.engine.quality.gates import GATES, run_quality
from aprtui.engine.quality.run_gates import TOKENS, decode_speeds
from aprtui.errors import AprtuiError, ExitCode
from aprtui.machine import default_threads
from aprtui.progress import no_progress

BACKEND = "backend"
DEVICE = device_backends()[0].name
"""What claims about a backend are about by default."""

_VERDICTS = {Outcome.PASSED: Verdict.PASS, Outcome.FAILED: Verdict.FAIL}
"""Of gates; what is skipped or decided by noise is UNKNOWN."""

_MOST_TOKENS = quality.CONTEXT // 2
_SHORT = 16
"""The context of an engine that is only opened."""


def throughput_floor(arguments: CheckArguments) -> Judgement:
    """The median of five runs decodes at least `at_least` tokens a second, each run up to `tokens` long."""
    bound, tokens = arguments.number("at_least", 10.0), arguments.count("tokens", TOKENS, _MOST_TOKENS)
    with _under_test(arguments) as subject:
        speeds = decode_speeds(subject, tokens)
        where = f"{subject.model.name}, {subject.engine(Mode.Q8).backend} in mode {Mode.Q8}, {tokens} tokens a run"
    if not speeds:
        return unknown("the model ends at once: nothing to measure")
    speed = statistics.median(speeds)
    reason = f"{where}, {len(speeds)} runs [{min(speeds):.1f} … {max(speeds):.1f}]"
    if min(speeds) < bound <= max(speeds):
        return unknown(f"{bound:g} tokens/s lies within the spread: {reason}")
    return passed_if(speed >= bound, reason, "tokens/s", speed, bound, relation=Relation.AT_LEAST)


def additive_capture(arguments: CheckArguments) -> Judgement:
    """The gate of `aprtui qa` with this name: capturing changes no token and no logit, and writes no other files."""
    return _of_gate(arguments, repeat_gates.additive_capture, "differences from a plain run")


def quality_gate(arguments: CheckArguments) -> Judgement:
    """One gate of `aprtui qa`, named by `gate`."""
    gates = dict(GATES)
    name = arguments.one_of("gate", "", tuple(gates))
    return _of_gate(arguments, gates[name], name)


def _of_gate(
    arguments: CheckArguments, gate: Callable[[quality.ModelUnderTest], GateFinding], metric: str
) -> Judgement:
    with _under_test(arguments) as subject:
        finding = gate(subject)
    relation = Relation.AT_LEAST if finding.at_least else Relation.AT_MOST
    verdict = _VERDICTS.get(finding.outcome, Verdict.UNKNOWN)
    return Judgement(verdict, finding.message, metric, finding.value, finding.threshold, relation=relation)


def _under_test(arguments: CheckArguments) -> quality.ModelUnderTest:
    return quality.ModelUnderTest(arguments.require_model(), quality.QualityOptions(backend=_backend(arguments)))


def _backend(arguments: CheckArguments) -> str:
    return arguments.one_of(BACKEND, AUTO, backend_choices())


def forced_backend(arguments: CheckArguments) -> Judgement:
    """A backend that is requested by name is the one that is opened, or the run ends with exit code 4.

    Where there is no CUDA device, the message must hold what `aprtui doctor` says about it.
    """
    backend = arguments.one_of(BACKEND, DEVICE, backend_names())
    model = arguments.require_model()
    try:
        engine = opening.open_engine(model, backend=backend, context=min(_SHORT, model.config.context))
    except AprtuiError as error:
        return _refused(named_backend(backend), error)
    opened = engine.backend
    engine.close()
    reason = f"{backend} was asked for, {opened} was opened"
    return passed_if(opened == backend, reason, "other backends", opened != backend, 0)


def _refused(backend: Backend, error: AprtuiError) -> Judgement:
    obstacle = backend.obstacle()
    if obstacle is not None and obstacle.problem not in str(error):
        reason = f"the message does not say why: {error}: expected {obstacle.problem}"
        return passed_if(False, reason, "reasons missing", 1, 0)
    code = error.exit_code
    holds, reason = code == ExitCode.ENGINE, f"not opened: {error}"
    return passed_if(holds, reason, "exit code", code, ExitCode.ENGINE, relation=Relation.EXACTLY)


def automatic_choice(arguments: CheckArguments) -> Judgement:
    """`auto` opens an engine and says which, and why it is that one: once, and in the words of `aprtui doctor` where
    there is no device."""
    reasons: list[str] = []
    model = arguments.require_model()
    engine = opening.open_engine(model, context=min(_SHORT, model.config.context), announce=reasons.append)
    opened = engine.backend
    engine.close()
    missing = [obstacle.problem for device in device_backends() if (obstacle := device.obstacle()) is not None]
    said = reasons[0] if reasons else "nothing is said"
    problems = [
        (len(reasons) != 1, f"{len(reasons)} reasons are given, not one"),
        (not said.startswith(f"backend {opened}: "), f"{opened} was opened, and {said}"),
        *((problem not in said, f"{said}: expected {problem}") for problem in missing),
    ]
    wrong = [text for is_so, text in problems if is_so]
    return passed_if(not wrong, wrong[0] if wrong else said, "reasons missing", bool(wrong), 0)


def parity_with_cpu(arguments: CheckArguments) -> Judgement:
    """The gate that `auto` asks before it takes a device: logits in mode `exact`, then a replay of mode `q8`."""
    host = host_backends()[0]
    others = [backend for backend in BACKENDS if backend is not host]
    backend, model = arguments.one_of(BACKEND, DEVICE, backend_names(others)), arguments.require_model()
    obstacle = named_backend(backend).obstacle()
    if obstacle is not None:
        return no_device(obstacle.problem)
    if (missing := host.obstacle()) is not None:
        return unknown(f"no {host.title} to hold it against: {missing.problem}: {missing.advice}")
    threads = default_threads()

    def opened(name: str, mode: Mode) -> Engine:
        return opening.open_engine(model, backend=name, mode=mode, threads=threads, context=POSITIONS)

    parity = parity_gate(
        model, lambda mode: opened(backend, mode), lambda: opened(host.name, Mode.EXACT), threads, no_progress
    )
    reason = f"{backend}: {parity.reason}"
    if parity.passed or not parity.logits <= LOGITS_BOUND:
        return passed_if(parity.passed, reason, "relative L2 of logits", parity.logits, LOGITS_BOUND)
    return passed_if(False, reason, "native modes that do not hold", 1, 0)


def qa_aggregate(arguments: CheckArguments) -> Judgement:
    """Every quality gate that runs passes, those in `require` run, and at least `min_executed` run in total. Where the
    claim names its `gates`, only those are run, and each has to pass."""
    gates = arguments.texts("gates")
    required = (*arguments.texts("require"), *gates)
    least = arguments.count("min_executed", 1, 100)
    options = quality.QualityOptions(
        backend=_backend(arguments), tokens_per_second=arguments.number("tokens_per_second", 10.0)
    )
    report = run_quality(arguments.require_model().path, options, required=required, least=least, only=gates)
    wrong = [gate.name for gate in report.gates if gate.finding.outcome is Outcome.FAILED]
    wrong += [gate.name for gate in report.gates if gate.finding.outcome is Outcome.SKIPPED and gate.name in required]
    skipped = [gate.name for gate in report.gates if gate.finding.outcome is Outcome.SKIPPED]
    reason = f"{report.reason}; skipped: {', '.join(skipped)}" if skipped else report.reason
    return Judgement(report.verdict, reason, "gates that do not hold", float(len(wrong)), 0.0)
