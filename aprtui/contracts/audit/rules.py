"""The rules of `pv audit`, and those of `pv lint` about coverage, enforcement, locks and scores.

    audit(document, AuditContext(registry, least_score=0.6))

A contract with errors of `validate` is not audited: those are its findings, as in `pv`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aprtui.contracts.audit.bindings import BindingRegistry, ImplementationStatus
from aprtui.contracts.audit.score import (
    LOCKS,
    NOT_APPLICABLE,
    EnforcementLevel,
    enforcement_level,
    harness_share,
    lean_status,
    names_a_theorem,
    score_of,
    tests_of,
    theorem_share,
)
from aprtui.contracts.documents.document import Document
from aprtui.contracts.documents.validation import Breaches, Finding, Severity, validate


@dataclass(frozen=True, slots=True)
class AuditContext:
    """What contracts are held against: a registry of bindings, the least score, and the least level of enforcement.
    Rules about a thing that is not given find nothing."""

    registry: BindingRegistry | None = None
    least_score: float = 0.0
    least_level: EnforcementLevel = EnforcementLevel.BASIC


@dataclass(frozen=True, slots=True)
class AuditRule:
    """A rule: it `states` what holds of a well covered contract, `fix` says what to do where it does not, and `find`
    yields line and message of every breach. With `of_kernels` it applies to kernels only."""

    code: str
    severity: Severity
    states: str
    fix: str
    find: Callable[[Document, AuditContext], Breaches]
    of_kernels: bool = False


def audit(document: Document, context: AuditContext) -> tuple[Finding, ...]:
    """The errors of `validate`, or else every breach of a rule, in the order of `AUDIT_RULES`."""
    invalid = tuple(finding for finding in validate(document) if finding.severity is Severity.ERROR)
    return invalid or tuple(
        Finding(rule.code, rule.severity, message, document.path, line)
        for rule in AUDIT_RULES
        if document.is_kernel or not rule.of_kernels
        for line, message in rule.find(document, context)
    )


def _no_tests(document: Document, context: AuditContext) -> Breaches:
    if not tests_of(document):
        yield document.line_of("falsification_tests"), "no falsification test: nothing can prove the contract wrong"


def _no_obligations(document: Document, context: AuditContext) -> Breaches:
    if document.equations and not document.obligations:
        yield document.line_of("equations"), "equations without a proof obligation: none says what must hold of them"


def _fewer_tests(document: Document, context: AuditContext) -> Breaches:
    tests, obligations = len(tests_of(document)), len(document.obligations)
    if 0 < tests < obligations:
        where = document.line_of("falsification_tests")
        yield where, f"{tests} falsification tests for {obligations} obligations: some have none"


def _unnamed_obligation(document: Document, context: AuditContext) -> Breaches:
    told = (f"{test.rule} {test.name} {test.prediction} {test.test} {test.extras}" for test in tests_of(document))
    words = " ".join((*told, *(harness.obligation for harness in document.harnesses)))
    for obligation in document.obligations:
        if obligation.id and not re.search(rf"(?<![\w-]){re.escape(obligation.id)}(?![\w-])", words):
            yield obligation.line_of("id"), f"no test or harness names the obligation {obligation.id}"


def _no_domain(document: Document, context: AuditContext) -> Breaches:
    for equation in document.equations:
        if not equation.domain:
            yield equation.line_of("domain"), f"equation {equation.name!r:.60}: no domain is given"


def _no_tolerance(document: Document, context: AuditContext) -> Breaches:
    for obligation in document.obligations:
        applies = obligation.applies_to != "not_applicable"
        if obligation.type == "equivalence" and applies and obligation.extras.get("tolerance") is None:
            name = obligation.id or obligation.property
            yield obligation.line, f"equivalence without a tolerance: {name:.80}"


def _unbound(document: Document, context: AuditContext) -> Breaches:
    if context.registry is None:
        return
    for equation in document.equations:
        if context.registry.find(document, equation) is None:
            yield equation.line, f"equation {equation.name!r:.60} has no entry in {context.registry.path.name}"


def _partly_implemented(document: Document, context: AuditContext) -> Breaches:
    return _implemented_as(document, context, ImplementationStatus.PARTIAL)


def _not_implemented(document: Document, context: AuditContext) -> Breaches:
    return _implemented_as(document, context, ImplementationStatus.NOT_IMPLEMENTED)


def _implemented_as(document: Document, context: AuditContext, status: ImplementationStatus) -> Breaches:
    if context.registry is None:
        return
    for equation in document.equations:
        entry = context.registry.find(document, equation)
        if entry is not None and entry.status is status:
            missing = f", but the source tree has no {entry.missing:.60}" if entry.missing else ""
            said = "implemented" if entry.missing else str(status)
            yield equation.line, f"equation {equation.name!r:.60} is {said} by {entry.function or 'nothing'}{missing}"


def _bound_to_nothing(document: Document, context: AuditContext) -> Breaches:
    names = {equation.name for equation in document.equations}
    for entry in () if context.registry is None else context.registry.of(document):
        if entry.equation not in names:
            where = f"{context.registry.path.name} binds {entry.equation!r:.60}" if context.registry else ""
            yield document.line_of("equations"), f"{where}, but no equation has that name"


def _unenforced(document: Document, context: AuditContext) -> Breaches:
    for equation in document.equations:
        missing = [name for name in ("preconditions", "postconditions") if not equation.extras.get(name)]
        if missing:
            yield equation.line, f"equation {equation.name!r:.60}: no {' and no '.join(missing)}"
    declared = str(document.metadata.extras.get("enforcement_level") or "")
    reached = enforcement_level(document, context.registry)
    wanted = [("declares", LOCKS[declared])] if declared in LOCKS else []
    for word, level in (*wanted, ("has to have", context.least_level)):
        if reached < level:
            line = document.metadata.line_of("enforcement_level")
            yield line, f"it {word} the enforcement level {level.label}, and reaches {reached.label}"


def _no_theorem(document: Document, context: AuditContext) -> Breaches:
    for equation in document.equations:
        if not equation.extras.get("lean_theorem"):
            yield equation.line, f"equation {equation.name!r:.60}: no lean_theorem proves it"


def _below_its_lock(document: Document, context: AuditContext) -> Breaches:
    word = str(document.metadata.extras.get("locked_level") or "")
    if not word:
        return
    line = document.metadata.line_of("locked_level")
    locked = LOCKS.get(word.lower())
    reached = enforcement_level(document, context.registry)
    if locked is None:
        yield line, f"locked_level {word!r:.40}: expected one of {', '.join(LOCKS)}"
    elif reached < locked:
        yield line, f"locked at {word}, and fell to {reached.label}"


def _low_score(document: Document, context: AuditContext) -> Breaches:
    score = score_of(document, context.registry)
    if score.total < context.least_score:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in score.shares.items())
        yield document.line, f"score {score.total:.2f} ({score.grade}) is below {context.least_score:.2f}: {shares}"


def _few_harnesses_proved(document: Document, context: AuditContext) -> Breaches:
    if document.obligations and harness_share(document) < 0.5:
        yield document.line_of("kani_harnesses"), f"harnesses cover {harness_share(document):.0%} of the obligations"


def _nothing_proved(document: Document, context: AuditContext) -> Breaches:
    stated = [status for found in document.obligations if (status := lean_status(found)) not in ("", NOT_APPLICABLE)]
    if stated and not theorem_share(document):
        yield document.line_of("proof_obligations"), f"none of {len(stated)} Lean theorems is proved"


def _fewer_harnesses(document: Document, context: AuditContext) -> Breaches:
    harnesses, obligations = len(document.harnesses), len(document.obligations)
    if harnesses < obligations:
        yield document.line_of("kani_harnesses"), f"{harnesses} harnesses for {obligations} obligations"


def _no_theorems(document: Document, context: AuditContext) -> Breaches:
    if not names_a_theorem(document):
        yield document.line, "no Lean theorem is named"


_E, _W, _I = Severity.ERROR, Severity.WARN, Severity.INFO

AUDIT_RULES: tuple[AuditRule, ...] = (
    AuditRule("AUDIT-001", _W, "a contract has falsification tests", "write a test that can fail", _no_tests),
    AuditRule("AUDIT-003", _W, "equations have obligations", "write a proof_obligation for them", _no_obligations),
    AuditRule("PV-AUD-001", _W, "there is a falsification test for each obligation", "write the tests", _fewer_tests),
    AuditRule("PV-AUD-003", _W, "some test or harness names an obligation's id", "name the id", _unnamed_obligation),
    AuditRule("PV-AUD-004", _W, "an equation has a domain", "write the domain of the equation", _no_domain),
    AuditRule(
        "PV-AUD-005",
        _W,
        "an equivalence has a tolerance",
        "write tolerance: how far two results may differ",
        _no_tolerance,
    ),
    AuditRule("BIND-001", _E, "the registry binds every equation", "add a binding for the equation", _unbound),
    AuditRule("BIND-002", _W, "no equation is only partly implemented", "implement the rest", _partly_implemented),
    AuditRule(
        "BIND-003",
        _W,
        "every equation is implemented, by code that exists",
        "implement it, or correct function",
        _not_implemented,
    ),
    AuditRule(
        "BIND-101",
        _W,
        "the registry binds only equations that the contract has",
        "correct the name in the registry, or remove the entry",
        _bound_to_nothing,
    ),
    AuditRule(
        "PV-ENF-001",
        _W,
        "an equation has pre- and postconditions, and the contract its level of enforcement",
        "write preconditions and postconditions; add what the level asks for, or lower it",
        _unenforced,
        True,
    ),
    AuditRule("PV-ENF-002", _W, "an equation has a theorem", "name it in lean_theorem", _no_theorem, True),
    AuditRule(
        "PV-LCK-001",
        _E,
        "a contract does not fall below the level that it is locked at",
        "restore what was removed; lowering locked_level shows in aprtui contracts diff",
        _below_its_lock,
        True,
    ),
    AuditRule("PV-SCR-001", _E, "the score is not below --min-score", "raise the shares that are low", _low_score),
    AuditRule(
        "PV-SCR-003",
        _I,
        "harnesses cover half of the obligations",
        "write harnesses, or bounds that are exhaustive",
        _few_harnesses_proved,
        True,
    ),
    AuditRule("PV-SCR-004", _I, "some named theorem is proved", "prove one", _nothing_proved, True),
    AuditRule(
        "PV-PRV-003", _W, "there is a harness for each obligation", "write the harnesses", _fewer_harnesses, True
    ),
    AuditRule("PV-PRV-004", _I, "a theorem is named", "name one in lean_theorem", _no_theorems, True),
)
"""The codes are those of `pv audit` and `pv lint`; BIND-101 is ours: such an entry counts in the share of bindings."""


DUPLICATE = "PV-DUP-001"
DUPLICATE_RULE = ("contracts of one name have the same contents", "rename one: others depend on a contract by its name")


def duplicates(documents: Sequence[Document]) -> tuple[Finding, ...]:
    """A finding for each contract whose name another one with other contents has."""
    by_name: dict[str, list[Document]] = defaultdict(list)
    for document in documents:
        by_name[document.name].append(document)
    found = []
    for alike in by_name.values():
        contents = {document.path: document.path.read_bytes() for document in alike}
        for document in alike:
            other = next((path for path, data in contents.items() if data != contents[document.path]), None)
            if other is not None:
                message = f"another contract is called {document.name} and says other things: {other}"
                found.append(Finding(DUPLICATE, Severity.ERROR, message, document.path, 1))
    return tuple(found)
