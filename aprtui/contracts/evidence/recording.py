"""Making the evidence record of a judgement: the falsifier, host, program, sources and captures."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from datetime import UTC, datetime

from aprtui import __version__
from aprtui.build import release_of
from aprtui.contracts.checks.arguments import CheckSubject
from aprtui.contracts.checks.judgement import Judgement
from aprtui.contracts.checks.registry import CHECKS, ContractCheck, ModelCheck, PairCheck
from aprtui.contracts.checks.running import BACKEND
from aprtui.contracts.documents.document import CheckCall, ContractError, Document, Falsifier
from aprtui.contracts.evidence.about import about_of, unplanned_fault
from aprtui.contracts.evidence.claim import claim_digest
from aprtui.contracts.evidence.files import DATE_FORMAT, CapturedRun, CheckRun, EvidenceRecord, Host, JudgedOn, Revision
from aprtui.contracts.evidence.project import Project
from aprtui.engine.backends.registry import device_backends
from aprtui.engine.cuda.detect import detect
from aprtui.machine import processor_name
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage import ENTRY
from aprtui.trace.manifest import Manifest


def evidence_of(
    document: Document, falsifier: Falsifier, check: CheckCall | None, judgement: Judgement, subject: CheckSubject,
    project: Project, revision: Revision | None, command: str, output: tuple[str, ...],
) -> EvidenceRecord:  # fmt: skip
    """The record of `judgement`, a PASS or FAIL; `check` is None where a command was run.

    Raises `ContractError` where a source that the falsifier vouches for does not exist.
    """
    return EvidenceRecord(
        contract=project.contract,
        contract_version=document.metadata.version,
        falsifier=falsifier.id,
        claim=claim_digest(document.equations, falsifier),
        date=datetime.now(UTC).strftime(DATE_FORMAT),
        host=this_host(),
        program_version=__version__,
        revision=revision,
        sources=digests(document, falsifier, project),
        judged_on=judged_on(check, subject),
        live=is_live(check),
        check=None if check is None else CheckRun(check.name, check.parameters),
        test=falsifier.test_lines,
        command=command,
        output=output,
        verdict=judgement.verdict,
        reason=judgement.reason,
        metric=judgement.metric,
        number=judgement.number,
        bound=judgement.bound,
        relation=judgement.relation,
    )


def this_host() -> Host:
    """The machine that this runs on."""
    driver = detect().driver
    return Host(
        platform.node(), f"{platform.system()} {platform.release()}", platform.machine(), processor_name(),
        None if driver is None else f"CUDA {driver[0]}.{driver[1]}",
    )  # fmt: skip


def obstacle_to_recording(check: CheckCall | None, subject: CheckSubject) -> str:
    """Why a judgement of `subject` would carry nothing, so that it is not recorded; empty where it would not."""
    return unplanned_fault(check, about_of(check), judged_on(check, subject)) or copied_reference(subject)


def copied_reference(subject: CheckSubject) -> str:
    """That the reference says it is of another engine than the capture, and most of its files have the capture's bytes;
    empty where it is not so. Two engines round differently, but for embeddings, which they look up."""
    capture, reference = (None if side is None else side.manifest for side in (subject.capture, subject.reference))
    if capture is None or reference is None or capture.engine.name.lower() == reference.engine.name.lower():
        return ""
    both = [name for name, info in capture.files.items() if name in reference.files and info.node.stage != ENTRY]
    same = sum(
        (capture.files[name].bytes, capture.files[name].crc32)
        == (reference.files[name].bytes, reference.files[name].crc32)
        for name in both
    )
    if same * 2 <= len(both):
        return ""
    return f"the reference of {reference.engine.name} has the bytes of the capture in {same} of {len(both)} files"


def is_live(check: CheckCall | None) -> bool:
    """Whether a check judges output of an engine rather than the contract; None, a command, may do anything."""
    return check is not None and not isinstance(CHECKS.get(check.name), ContractCheck)


def digests(document: Document, falsifier: Falsifier, project: Project) -> dict[str, str]:
    """The digest of each source that `falsifier` vouches for. Raises `ContractError` where one does not exist."""
    found = {}
    for source in falsifier.vouches_for:
        digest = project.digest(source)
        if digest is None:
            line = falsifier.lines.get("vouches_for") or document.metadata.line_of("vouches_for")
            problem = f"{falsifier.id} vouches for {source!r:.80}, no file or folder of sources below {project.root}"
            raise ContractError(document.path, line, f"{problem}: correct vouches_for")
        found[source] = digest
    return found


def judged_on(check: CheckCall | None, subject: CheckSubject) -> tuple[JudgedOn, ...]:
    """The captures that `check` judges, or the model that it runs; nothing for a contract's check, or a command."""
    return tuple(_judged_on(check, subject))


def _judged_on(check: CheckCall | None, subject: CheckSubject) -> Iterator[JudgedOn]:
    if not is_live(check) or check is None:
        return
    kind = CHECKS.get(check.name)
    if isinstance(kind, ModelCheck):
        if (model := subject.model) is not None:
            named = check.parameters.get(BACKEND)
            backend = named if isinstance(named, str) else None
            device = _device_of(backend)
            yield JudgedOn("model", model.name, model.sha256(), "aprtui", __version__, backend, device, None, ())
        return
    if subject.capture is not None:
        yield _side("capture", subject.capture)
    if subject.reference is not None and isinstance(kind, PairCheck):
        yield _side("reference", subject.reference)


def _device_of(backend: str | None) -> str:
    """The device that a model check runs on: the GPU where it names a backend of one that is here."""
    device = detect().device if backend in {found.name for found in device_backends()} else None
    return processor_name() if device is None else str(device)


def _side(role: str, capture: Capture) -> JudgedOn:
    """A capture with what its manifest says of it; the evidence itself has the revision."""
    manifest = capture.manifest
    if manifest is None:
        return JudgedOn(role, None, None, None, None, None, None, None, ())
    engine, model = manifest.engine, manifest.model
    return JudgedOn(
        role, model.name, model.sha256, engine.name, release_of(engine.version), engine.backend, engine.device,
        engine.mode, engine.faults, _files_digest(manifest), _run_of(manifest),
    )  # fmt: skip


def _files_digest(manifest: Manifest) -> str:
    """SHA-256 in hexadecimal of the names, sizes and checksums of a capture's files."""
    listed = sorted((name, info.bytes, info.crc32) for name, info in manifest.files.items())
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _run_of(manifest: Manifest) -> CapturedRun:
    nodes = [info.node for info in manifest.files.values()]
    return CapturedRun(
        manifest.tokens, manifest.prompt_tokens, manifest.prefill_tokens,
        tuple(dict.fromkeys(node.stage for node in nodes)),
        tuple(sorted({node.layer for node in nodes if node.layer is not None})),
        manifest.logits, manifest.engine.rounding.get("kv_cache"), manifest.engine.threads,
    )  # fmt: skip
