"""Every code of a finding in one table: what it demands, and what to do where it is not so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from aprtui.contracts.audit.rules import AUDIT_RULES, DUPLICATE, DUPLICATE_RULE
from aprtui.contracts.documents.kinds import KIND_RULES
from aprtui.contracts.documents.validation import REFUSED, REFUSED_FIX, REFUSED_STATES, RULES, Severity
from aprtui.contracts.lint.rules import COVERAGE_RULES, LINT_RULES
from aprtui.contracts.suppression import STALE, STALE_RULE


@dataclass(frozen=True, slots=True)
class FindingCode:
    """A code, the `command` that finds it, what it `states` of a sound contract, and how to `fix` what is not."""

    code: str
    severity: Severity
    command: str
    states: str
    fix: str


def _codes() -> Iterator[FindingCode]:
    yield FindingCode(REFUSED, Severity.ERROR, "validate", REFUSED_STATES, REFUSED_FIX)
    for rule in RULES:
        yield FindingCode(rule.code, rule.severity, "validate", rule.states, rule.fix)
    for code, (states, fix) in KIND_RULES.items():
        yield FindingCode(code, Severity.ERROR, "validate", states, fix)
    for found in AUDIT_RULES:
        yield FindingCode(found.code, found.severity, "audit", found.states, found.fix)
    yield FindingCode(DUPLICATE, Severity.ERROR, "audit", *DUPLICATE_RULE)
    yield FindingCode(STALE, Severity.WARN, "audit, lint", *STALE_RULE)
    for drift in sorted(LINT_RULES, key=lambda rule: rule.code):
        yield FindingCode(drift.code, drift.severity, "lint", drift.states, drift.fix)
    for code, (states, fix) in COVERAGE_RULES.items():
        yield FindingCode(code, Severity.INFO, "lint --coverage", states, fix)


CODES: Mapping[str, FindingCode] = {found.code: found for found in _codes()}
