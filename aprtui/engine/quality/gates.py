"""The gates of `aprtui qa` in their order, and the report that they make.

The names and their order follow `apr qa`, whose twelve gates are all listed: those about things that this engine has
not are skipped, with the reason. The others are this engine's own. A gate that is skipped is not passed, and one that
noise decides is unknown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aprtui.compare.verdict import Verdict
from aprtui.engine.quality import block_gates, file_gates, foreign_gates, likelihood, repeat_gates, run_gates
from aprtui.engine.quality.gate import GateFinding, ModelUnderTest, Outcome, QualityOptions
from aprtui.engine.quality.golden import golden_prompts
from aprtui.errors import AprtuiError, UnreadableError, UsageError
from aprtui.model.model import Model, load_model
from aprtui.model.open_file import open_model_file

CAPABILITY = "capability_match"

GATES: Sequence[tuple[str, Callable[[ModelUnderTest], GateFinding]]] = (
    ("tensor_contract", file_gates.tensor_contract),
    ("metadata_plausibility", file_gates.metadata_plausibility),
    ("block_scales", block_gates.block_scales),
    ("weights_against", file_gates.weights_against),
    ("classifier_head", foreign_gates.classifier_head),
    ("golden_output", run_gates.golden_output),
    ("text_likelihood", likelihood.text_likelihood),
    ("throughput", run_gates.throughput),
    ("ollama_parity", foreign_gates.ollama_parity),
    ("gpu_speedup", run_gates.gpu_speedup),
    ("format_parity", foreign_gates.format_parity),
    ("ptx_parity", foreign_gates.ptx_parity),
    ("gpu_state_isolation", foreign_gates.gpu_state_isolation),
    ("capture_determinism", repeat_gates.capture_determinism),
    ("additive_capture", repeat_gates.additive_capture),
    ("backend_state_isolation", repeat_gates.backend_state_isolation),
    ("replay_control", repeat_gates.replay_control),
    ("performance_regression", run_gates.performance_regression),
)
"""What is run once the model could be opened; `capability_match` comes before them."""

NAMES = (CAPABILITY, *(name for name, _ in GATES))


@dataclass(frozen=True, slots=True)
class GateResult:
    name: str
    finding: GateFinding
    seconds: float


@dataclass(frozen=True, slots=True)
class QualityReport:
    """All gates of a model; `reason` says in a line how the verdict came about."""

    model: Path
    gates: tuple[GateResult, ...]
    verdict: Verdict
    reason: str

    @property
    def executed(self) -> int:
        return sum(gate.finding.outcome is not Outcome.SKIPPED for gate in self.gates)

    def names(self, outcome: Outcome) -> tuple[str, ...]:
        return tuple(gate.name for gate in self.gates if gate.finding.outcome is outcome)


def run_quality(
    path: Path, options: QualityOptions, *, required: Sequence[str] = (), least: int = 1, only: Sequence[str] = (),
    each: Callable[[GateResult], None] = lambda gate: None,
) -> QualityReport:  # fmt: skip
    """Run every gate on the model file `path`, calling `each` with every result.

    FAIL where a gate fails or a `required` one is skipped; UNKNOWN where noise decides one, or fewer than `least` were
    run. Only those in `only` are run, where it is given. Raises `UnreadableError` for a file that is no model file,
    `UsageError` for an unknown gate and a broken file of prompts.
    """
    for name in (*required, *only):
        if name not in NAMES:
            raise UsageError(f"--require {name}: there is no such gate: expected one of {', '.join(NAMES)}")
    open_model_file(path, headers_only=True)
    golden_prompts(options.golden, path)
    results = []

    def finished(result: GateResult) -> None:
        results.append(result)
        each(result)

    model, result = _open(path)
    finished(result)
    gates = [(name, gate) for name, gate in GATES if not only or name in only]
    if model is None:
        for name, _ in gates:
            finished(GateResult(name, GateFinding.skipped("the model cannot be opened"), 0.0))
    else:
        with ModelUnderTest(model, options) as subject:
            for name, gate in gates:
                finished(_run(name, gate, subject))
    return QualityReport(path, tuple(results), *_conclude(results, required, least))


def _open(path: Path) -> tuple[Model | None, GateResult]:
    started = time.perf_counter()
    try:
        model = load_model(path)
        tokens = len(model.tokenizer.encode("a", special=False))
    except UnreadableError as error:
        return None, GateResult(CAPABILITY, GateFinding.failed(str(error)), time.perf_counter() - started)
    types = sorted({weight.type.name for weight in model.weights.values()})
    message = f"{model.architecture} with {', '.join(types)} is supported; its tokenizer works ({tokens} token for 'a')"
    return model, GateResult(CAPABILITY, GateFinding.passed(message), time.perf_counter() - started)


def _run(name: str, gate: Callable[[ModelUnderTest], GateFinding], subject: ModelUnderTest) -> GateResult:
    started = time.perf_counter()
    try:
        finding = gate(subject)
    except AprtuiError as error:
        finding = GateFinding.failed(str(error))
    return GateResult(name, finding, time.perf_counter() - started)


def _conclude(results: Sequence[GateResult], required: Sequence[str], least: int) -> tuple[Verdict, str]:
    failed = [gate.name for gate in results if gate.finding.outcome is Outcome.FAILED]
    skipped = [gate.name for gate in results if gate.finding.outcome is Outcome.SKIPPED]
    missing = [name for name in required if name in skipped]
    unknown = [gate.name for gate in results if gate.finding.outcome is Outcome.UNKNOWN]
    executed = len(results) - len(skipped)
    if failed or missing:
        problems = [f"failed: {', '.join(failed)}"] if failed else []
        problems += [f"required but skipped: {', '.join(missing)}"] if missing else []
        return Verdict.FAIL, "; ".join(problems)
    if unknown:
        return Verdict.UNKNOWN, f"noise decides: {', '.join(unknown)}"
    if executed < least:
        return Verdict.UNKNOWN, f"{executed} of {len(results)} gates were run, at least {least} are needed"
    return Verdict.PASS, f"{executed} of {len(results)} gates were run, all of them passed"
