"""What a verdict UNKNOWN lacks, and the commands that would settle it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks.arguments import CheckSubject
from aprtui.contracts.checks.judgement import NO_DEVICE, Judgement
from aprtui.contracts.checks.registry import CHECKS, CaptureCheck, PairCheck
from aprtui.contracts.checks.vacuous import why_vacuous
from aprtui.contracts.documents.document import CheckCall, Document, Falsifier
from aprtui.contracts.evidence.about import ABOUT_ANOTHER
from aprtui.resources import contracts as own_contracts


class Lack(StrEnum):
    """Why a falsifier has no PASS and no FAIL, in words that begin a sentence."""

    CHECK = "No check of aprtui judges it"
    RUN = "It is judged by running a model"
    DEVICE = "It needs a CUDA device"
    CAPTURE = "It needs a capture"
    REFERENCE = "It needs a second capture to compare with"
    OTHER_CAPTURE = "It needs other captures"
    SUBJECT = "It is about another subject than what was judged"
    BOUND = "Nothing can fail it as it is written"


@dataclass(frozen=True, slots=True)
class Settling:
    """What is lacking, and what to run; the words of the test where only they say it."""

    lack: Lack
    commands: tuple[str, ...]


def settling(
    document: Document, falsifier: Falsifier, check: CheckCall | None, judgement: Judgement | None,
    subject: CheckSubject,
) -> Settling | None:  # fmt: skip
    """How to come from UNKNOWN to a verdict; None for a falsifier that has one."""
    if judgement is not None and judgement.verdict is not Verdict.UNKNOWN:
        return None
    kind = CHECKS.get(check.name) if check is not None else None
    test = tuple(line.strip() for line in falsifier.test_lines if line.strip())
    if check is None or kind is None:
        return Settling(Lack.CHECK, test)
    if why_vacuous(check):
        return Settling(Lack.BOUND, ())
    if judgement is not None and ABOUT_ANOTHER in judgement.reason:
        return Settling(Lack.SUBJECT, test)
    if judgement is not None and judgement.reason.startswith(NO_DEVICE):
        return Settling(Lack.DEVICE, (_check_command(document, falsifier),))
    if not isinstance(kind, CaptureCheck | PairCheck):
        return Settling(Lack.RUN, (_check_command(document, falsifier),))
    if subject.capture is None:
        return Settling(Lack.CAPTURE, test)
    if isinstance(kind, PairCheck) and subject.reference is None:
        return Settling(Lack.REFERENCE, test)
    return Settling(Lack.OTHER_CAPTURE, test)


def _check_command(document: Document, falsifier: Falsifier) -> str:
    """Our own contracts are found without a path and judged on the embedded model; those of others need a model."""
    path = document.path.absolute()
    words = ["aprtui", "contracts", "check"]
    if path.is_relative_to(own_contracts()):
        return shlex.join([*words, "--id", falsifier.id])
    typed = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{shlex.join([*words, str(typed), '--id', falsifier.id])} --model MODEL"
