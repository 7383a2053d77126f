"""Checks of a contract itself."""

from __future__ import annotations

from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks.judgement import Judgement
from aprtui.contracts.documents.document import Document
from aprtui.contracts.documents.validation import Severity, validate


def contract_valid(document: Document) -> Judgement:
    """The contract has no error by the rules of `validate`."""
    errors = [finding for finding in validate(document) if finding.severity is Severity.ERROR]
    reason = f"{errors[0].code} at line {errors[0].line}: {errors[0].message}" if errors else "no error"
    return Judgement(Verdict.FAIL if errors else Verdict.PASS, reason, "errors", float(len(errors)), 0.0)
