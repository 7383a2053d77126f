"""Making the evidence record of a judgement: the falsifier, host, program, sources and captures."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from datetime import UTC, datetime

from aprtui import __version__
from aprtui.contracts.checks.arguments import CheckSubject
from aprtui.contracts.checks.judgement import Judgement
from aprtui.contracts.checks.registry import CHECKS, ContractCheck, ModelCheck, PairCheck
from aprtui.contracts.documents.document import CheckCall, ContractError, Document, Falsifier
from aprtui.contracts.evidence.files import CheckRun, EvidenceRecord, Host, JudgedOn, Revision
from aprtui.contracts.evidence.project import Project
from aprtui.machine import processor_name
from aprtui.trace.capture import Capture


def evidence_of(
    document: Document, falsifier: Falsifier, check: CheckCall | None, judgement: Judgement, subject: CheckSubject,
    project: Project, revision: Revision | None, command: str, output: tuple[str, ...],
) -> EvidenceRecord:  # fmt: skip
    """The record of `judgement`, a PASS or FAIL; `check` is None where a command was run.

    Raises `ContractError` where a source that the falsifier vouches for does not exist.
    """
    return EvidenceRecord(
        contract=document.name,
        contract_version=document.metadata.version,
        falsifier=falsifier.id,
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        host=Host(platform.node(), f"{platform.system()} {platform.release()}", platform.machine(), processor_name()),
        program_version=__version__,
        revision=revision,
        sources=digests(document, falsifier, project),
        judged_on=tuple(_judged_on(check, subject)),
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
    )


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


def _judged_on(check: CheckCall | None, subject: CheckSubject) -> Iterator[JudgedOn]:
    if not is_live(check) or check is None:
        return
    kind = CHECKS.get(check.name)
    if isinstance(kind, ModelCheck):
        if (model := subject.model) is not None:
            yield JudgedOn(
                "model", model.name, model.sha256(), "aprtui", __version__, None, processor_name(), None, None, ()
            )
        return
    if subject.capture is not None:
        yield _side("capture", subject.capture)
    if subject.reference is not None and isinstance(kind, PairCheck):
        yield _side("reference", subject.reference)


def _side(role: str, capture: Capture) -> JudgedOn:
    """A capture with what its manifest says of it."""
    manifest = capture.manifest
    if manifest is None:
        return JudgedOn(role, None, None, None, None, None, None, None, capture.token_count, ())
    engine, model = manifest.engine, manifest.model
    return JudgedOn(
        role, model.name, model.sha256, engine.name, engine.version, engine.backend, engine.device, engine.mode,
        len(manifest.tokens), engine.faults,
    )  # fmt: skip
