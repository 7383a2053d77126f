"""Executing recorded evidence again: the same check on the same model and tokens, and whether it gives the same.

Captures of this engine are made again from the request that the evidence holds; those of another have to be given.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks.arguments import CheckSubject
from aprtui.contracts.checks.judgement import Judgement
from aprtui.contracts.checks.registry import CHECKS, ContractCheck
from aprtui.contracts.documents.document import CheckCall
from aprtui.contracts.documents.reader import read_document
from aprtui.contracts.evaluation import evaluate
from aprtui.contracts.evidence.assessment import ledger_of, void_reasons
from aprtui.contracts.evidence.files import EvidenceRecord, JudgedOn, read_evidence
from aprtui.contracts.evidence.project import Project, git_output, project_of
from aprtui.engine.capturing import CaptureRequest, write_capture
from aprtui.engine.faults.faults import FaultInjector, parse_fault
from aprtui.engine.opening import open_engine
from aprtui.engine.protocol import KvType, Logits, Mode
from aprtui.errors import AprtuiError, UnreadableError, UsageError
from aprtui.model.model import Model
from aprtui.trace.capture import Capture

FindModel = Callable[[str, str], Model | None]
"""The model with a name and a SHA-256; None where it is not at hand."""

OWN_ENGINE = "aprtui"
SPREAD = 0.01
"""A number that a machine computes moves by its order of summation: by far less than this share of number and bound."""

SPEED_SPREAD = 0.5
_SPEEDS = ("tokens/s", "throughput", "gpu_speedup", "performance_regression")
"""Metrics of time, which differ from machine to machine and from run to run: half or double is no other result."""


class RerunOutcome(StrEnum):
    """What running evidence again shows."""

    SAME = "same"
    MOVED = "moved"
    REFUTED = "refuted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Rerun:
    """One piece of evidence, executed again: `judgement` is the result of now, None where there is none. `notes` say
    what has changed since it was recorded."""

    path: Path
    record: EvidenceRecord
    outcome: RerunOutcome
    reason: str
    judgement: Judgement | None = None
    notes: tuple[str, ...] = ()


def rerun_evidence(path: Path, find_model: FindModel, given: Mapping[str, Capture]) -> Rerun:
    """Execute the evidence in `path` again. `given` are captures of other engines, by role.

    Raises `UnreadableError` for a file that is no evidence, or is not as it was recorded.
    """
    record = read_evidence(path)
    if (contract := contract_of(path, record)) is None:
        return Rerun(path, record, RerunOutcome.UNKNOWN, f"there is no {record.contract} above it")
    try:
        contradiction = next(void_reasons(record, None), "") or unlike_its_commit(record, project_of(contract))
        if contradiction:
            return Rerun(path, record, RerunOutcome.REFUTED, contradiction)
        notes = _changes(path, contract, record)
        if record.check is None:
            return Rerun(
                path, record, RerunOutcome.UNKNOWN, f"a command of the contract: {record.command}", notes=notes
            )
        check = CheckCall(record.check.name, record.check.parameters)
        with tempfile.TemporaryDirectory(prefix="aprtui-evidence-") as folder:
            subject = _subject(record, check, find_model, given, Path(folder))
            judgement = evaluate(read_document(contract), check, subject)
    except AprtuiError as error:
        return Rerun(path, record, RerunOutcome.UNKNOWN, str(error))
    outcome, reason = compared(record, judgement)
    return Rerun(path, record, outcome, reason, judgement, notes)


def contract_of(path: Path, record: EvidenceRecord) -> Path | None:
    """The contract that evidence in `path` is for, below one of the folders above it; None where there is none."""
    named = Path(record.contract)
    if named.is_absolute() or ".." in named.parts:
        return None
    return next((above / named for above in path.absolute().parents if (above / named).is_file()), None)


def compared(record: EvidenceRecord, now: Judgement) -> tuple[RerunOutcome, str]:
    """Whether a result is the recorded one, and in words what differs."""
    if now.verdict is Verdict.UNKNOWN:
        return RerunOutcome.UNKNOWN, now.reason
    if now.verdict is not record.verdict:
        return RerunOutcome.REFUTED, f"{record.verdict} was recorded, it is {now.verdict} now: {now.reason}"
    if now.verdict is Verdict.FAIL:
        return RerunOutcome.REFUTED, f"it fails as it did: {now.reason}"
    if record.number is None or now.number is None or record.number == now.number:
        return RerunOutcome.SAME, now.reason
    share = SPEED_SPREAD if record.metric in _SPEEDS else SPREAD
    values = (record.number, now.number, record.bound or 0.0)
    then, found, bound = (_from_zero(record.metric, value) for value in values)
    moved = f"{record.metric} {record.number:.6g} was recorded, it is {now.number:.6g} now"
    if abs(found - then) <= share * max(abs(then), abs(bound)):
        return RerunOutcome.MOVED, f"{moved}, within its spread"
    return RerunOutcome.REFUTED, f"{moved}: the recorded number cannot be made again"


def _from_zero(metric: str, value: float) -> float:
    """A number whose size says how good it is: a cosine by its distance from 1."""
    return 1 - value if metric == "cosine" else value


def _changes(path: Path, contract: Path, record: EvidenceRecord) -> tuple[str, ...]:
    """What has changed since evidence was recorded, as the contract's ledger sees it."""
    document = read_document(contract)
    falsifier = next((test for test in document.falsifiers if test.id == record.falsifier), None)
    if falsifier is None:
        return (f"no falsifier is called {record.falsifier} any more",)
    assessment = ledger_of(document, _evidence_folder(path, project_of(contract))).assess(falsifier, falsifier.check)
    return next((piece.changes for piece in assessment.evidence if piece.path.name == path.name), ())


def _evidence_folder(path: Path, project: Project) -> Path:
    """The folder of all evidence that `path` is in, which need not be the project's."""
    depth = len(project.own_evidence.relative_to(project.evidence).parts)
    return path.absolute().parents[depth]


def unlike_its_commit(record: EvidenceRecord, project: Project) -> str:
    """Why the sources that a record vouches for are not those of the clean commit that it names; empty where they are,
    or where that commit is not at hand."""
    if record.revision is None or record.revision.dirty or not record.sources:
        return ""
    commit = record.revision.commit
    with tempfile.TemporaryDirectory(prefix="aprtui-commit-") as folder:
        try:
            packed = git_output(project.root, "archive", "--format=tar", commit, "--", *record.sources)
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                archive.extractall(folder, filter="data")
        except (OSError, subprocess.SubprocessError, tarfile.TarError):
            return ""
        # Paths in the archive are relative to where git ran, as sources are to the project.
        then = Project(Path(folder), Path(folder) / "contracts" / "evidence")
        unlike = [source for source, digest in sorted(record.sources.items()) if then.digest(source) != digest]
    return f"it says commit {commit[:12]}, whose {unlike[0]} is another" if unlike else ""


def _subject(
    record: EvidenceRecord, check: CheckCall, find_model: FindModel, given: Mapping[str, Capture], folder: Path
) -> CheckSubject:
    if isinstance(CHECKS.get(check.name), ContractCheck):
        return CheckSubject()
    models = {side.role: _model_of(side, find_model) for side in record.judged_on}
    captures = {
        side.role: _given(side, given[side.role]) if side.role in given else _captured(side, models[side.role], folder)
        for side in record.judged_on
        if side.role != "model"
    }
    first = next(iter(models.values()), None)
    return CheckSubject(captures.get("capture"), captures.get("reference"), first)


def _model_of(side: JudgedOn, find_model: FindModel) -> Model | None:
    """The model of a side. Raises `UnreadableError` where it is not at hand."""
    if side.model_sha256 is None:
        return None
    model = find_model(side.model or "", side.model_sha256)
    if model is None:
        named = f"{side.model} with SHA-256 {side.model_sha256[:12]}…"
        raise UnreadableError(f"the model {named} is not at hand: give it as --model FILE")
    return model


def _given(side: JudgedOn, capture: Capture) -> Capture:
    """`capture`, if it is of the side's engine, model and tokens. Raises `UsageError`."""
    manifest = capture.manifest
    if manifest is None or side.run is None:
        raise UsageError(f"{capture.path}: nothing says what it is a capture of")
    for what, then, now in (
        ("engine", side.engine, manifest.engine.name),
        ("model", side.model_sha256, manifest.model.sha256),
        ("tokens", side.run.tokens, manifest.tokens),
    ):
        if then != now:
            raise UsageError(f"{capture.path}: its {what} is not that of the evidence: give a capture of the same")
    return capture


def _captured(side: JudgedOn, model: Model | None, folder: Path) -> Capture:
    """The capture of a side, made again. Raises `UsageError` where another engine made it, or it does not say how."""
    run = side.run
    if side.engine != OWN_ENGINE or run is None or model is None:
        made_by = side.engine or "an unknown engine"
        raise UsageError(f"the {side.role} is by {made_by}: make it again, and give it as --{side.role} DIR")
    mode = Mode(side.mode or Mode.EXACT)
    faults = tuple(parse_fault(fault, model) for fault in side.faults)
    nodes = frozenset(
        node
        for node in model.graph.nodes
        if node.stage in run.stages and (node.layer is None or node.layer in run.layers)
    )
    request = CaptureRequest(run.tokens, None, nodes, Logits(run.logits), run.prefill_tokens)
    engine = open_engine(
        model, backend=side.backend or "auto", mode=mode, kv=KvType(run.kv_cache or KvType.F32), threads=run.threads,
        context=len(run.tokens), intervention=FaultInjector(model, mode, faults) if faults else None,
    )  # fmt: skip
    with closing(engine):
        write_capture(engine, model, request, folder / side.role, faults=faults)
    capture = Capture.open(folder / side.role)
    if run.prompt_tokens == len(run.tokens) or capture.manifest is None:
        return capture
    prompt, generated = (
        model.tokenizer.decode(part) for part in (run.tokens[: run.prompt_tokens], run.tokens[run.prompt_tokens :])
    )
    manifest = replace(
        capture.manifest, text=prompt, completion=generated, prompt_tokens=run.prompt_tokens
    )  # fmt: skip
    return replace(capture, manifest=manifest)
