"""Whether a contract is well formed: the rules, codes and severities of `pv validate`.

Rules about the sections of a contract (equations, obligations, tests, harnesses, a gate) apply to kernels; a contract
without a kind is one, unless it is of the registry. Rules about an entry apply to every contract. Entries of the older
`falsification` list have other fields, and the rules for falsification tests do not apply to them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from aprtui.contracts.documents.document import Document, Falsifier, Harness, Obligation
from aprtui.contracts.documents.kinds import broken_rules
from aprtui.contracts.documents.shape import SECTIONS

_NO_KIND = " (no metadata.kind: judged as a kernel)"


class Severity(StrEnum):
    """Errors make a contract invalid; warnings do not; information is no fault at all."""

    ERROR = "ERROR"
    WARN = "WARN"
    INFO = "INFO"


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault in a contract: `code` names the rule, `line` counts from 1."""

    code: str
    severity: Severity
    message: str
    path: Path
    line: int

    def __str__(self) -> str:
        return f"[{self.severity}] {self.code}: {self.message} ({self.path}:{self.line})"


Breaches = Iterator[tuple[int, str]]
"""Line and message of each breach of a rule."""


@dataclass(frozen=True, slots=True)
class SchemaRule:
    """A rule: it `states` what holds of a sound contract, `fix` says what to do where it does not, and `find` yields
    line and message of every breach. With `of_kernels` it applies to kernels only."""

    code: str
    severity: Severity
    states: str
    fix: str
    find: Callable[[Document], Breaches]
    of_kernels: bool = False


def validate(document: Document) -> tuple[Finding, ...]:
    """Every breach of a rule, in the order of `RULES`; breaches of one rule in the order of the file.

    A document that `pv` does not read at all has one finding, `REFUSED`.
    """
    if document.refusal is not None:
        line, problem = document.refusal
        return (Finding(REFUSED, Severity.ERROR, problem, document.path, line),)
    findings = []
    to_note = document.metadata.kind is None
    for rule in RULES:
        if rule.of_kernels and not document.is_kernel:
            continue
        for line, message in rule.find(document):
            finding = Finding(rule.code, rule.severity, message, document.path, line)
            if to_note and rule.of_kernels and rule.severity is Severity.ERROR:
                finding = replace(finding, message=message + _NO_KIND)
                to_note = False
            findings.append(finding)
    for code, key, message in broken_rules(document):
        findings.append(Finding(code, Severity.ERROR, message, document.path, document.line_of(key)))
    return tuple(findings)


REFUSED = "REFUSED"
"""The code of a document that is no contract to `pv`: nothing else is judged."""

REFUSED_STATES = "pv reads it: it has metadata, ids, only words of closed lists, and no field beside its alias"
REFUSED_FIX = "correct the word as offered, write the id, or remove the alias; a file without metadata is no contract"


def _no_references(document: Document) -> Breaches:
    if not document.metadata.references:
        yield document.metadata.line_of("references"), "metadata.references is empty"


def _no_version(document: Document) -> Breaches:
    if not document.metadata.version:
        yield document.metadata.line_of("version"), "metadata.version is empty"


def _no_equations(document: Document) -> Breaches:
    if not document.equations:
        yield document.line_of("equations"), "a kernel has at least one equation"


def _empty_formula(document: Document) -> Breaches:
    for equation in document.equations:
        if not equation.formula:
            yield equation.line_of("formula"), f"equation {equation.name!r}: the formula is empty"


def _obligations(document: Document) -> Iterator[tuple[str, Obligation]]:
    """Each obligation, and its name for messages."""
    for number, obligation in enumerate(document.obligations, 1):
        yield f"obligation {obligation.id or number}", obligation


def _tests(document: Document) -> Iterator[tuple[str, Falsifier]]:
    """Each falsification test of the newer dialect, and its name for messages."""
    for number, test in enumerate(document.falsifiers, 1):
        if not test.legacy:
            yield test.id or f"test {number}", test


def _harnesses(document: Document) -> Iterator[tuple[str, Harness]]:
    """Each harness, and its name for messages."""
    for number, harness in enumerate(document.harnesses, 1):
        yield harness.id or f"harness {number}", harness


def _empty_property(document: Document) -> Breaches:
    for name, obligation in _obligations(document):
        if not obligation.property:
            yield obligation.line_of("property", "statement"), f"{name}: the property is empty"


def _same_formal(document: Document) -> Breaches:
    seen: dict[str, int] = {}
    for name, obligation in _obligations(document):
        line = obligation.line_of("formal", "verification")
        if obligation.formal and obligation.formal in seen:
            yield line, f"{name}: the same formal statement as at line {seen[obligation.formal]}"
        seen.setdefault(obligation.formal, line)


def _same_test_id(document: Document) -> Breaches:
    yield from _same_id("falsification test", (test for _, test in _tests(document)))


def _same_harness_id(document: Document) -> Breaches:
    yield from _same_id("harness", document.harnesses)


def _same_id(what: str, entries: Iterable[Falsifier | Harness]) -> Breaches:
    seen: dict[str, int] = {}
    for entry in entries:
        line = entry.line_of("id")
        if entry.id in seen:
            yield line, f"{what} id {entry.id!r} is taken since line {seen[entry.id]}"
        seen.setdefault(entry.id, line)


def _no_prediction(document: Document) -> Breaches:
    for name, test in _tests(document):
        if not test.prediction:
            yield test.line_of("prediction", "expected"), f"{name}: the prediction is empty"


def _no_if_fails(document: Document) -> Breaches:
    for name, test in _tests(document):
        if not test.if_fails:
            yield test.line_of("if_fails", "fails_if"), f"{name}: if_fails is empty"


def _no_harness_obligation(document: Document) -> Breaches:
    for name, harness in _harnesses(document):
        if not harness.obligation:
            yield harness.line_of("obligation"), f"{name}: the obligation is empty"


def _no_bound(document: Document) -> Breaches:
    for name, harness in _harnesses(document):
        if not harness.bound:
            yield harness.line_of("bound"), f"{name}: no bound is given"


def _no_gate(document: Document) -> Breaches:
    if document.qa_gate is None:
        yield document.line, "a kernel has a qa_gate"


def _misplaced(document: Document, field: str, place: str, fits: Callable[[str], bool]) -> Breaches:
    """Obligations that have `field`, and whose type is not one that it `fits`."""
    for name, obligation in _obligations(document):
        if getattr(obligation, field) is not None and not fits(obligation.type):
            yield obligation.line_of(field), f"{name}: {field} is for {place}, this is of type {obligation.type!r}"


def _misplaced_requires(document: Document) -> Breaches:
    return _misplaced(document, "requires", "postconditions", lambda kind: kind == "postcondition")


def _misplaced_phase(document: Document) -> Breaches:
    place = "loop_invariant and loop_variant"
    return _misplaced(document, "applies_to_phase", place, lambda kind: kind.startswith("loop_"))


def _misplaced_parent(document: Document) -> Breaches:
    return _misplaced(document, "parent_contract", "subcontracts", lambda kind: kind == "subcontract")


def _unknown_parent(document: Document) -> Breaches:
    known = document.metadata.depends_on
    for name, obligation in _obligations(document):
        parent = obligation.parent_contract
        if parent is not None and obligation.type == "subcontract" and parent not in known:
            problem = f"parent_contract {parent!r} is not in metadata.depends_on"
            yield obligation.line_of("parent_contract"), f"{name}: {problem}"


def _top_level_kind(document: Document) -> Breaches:
    if "kind" in document.keys:
        yield document.line_of("kind"), "kind is at the top level: it belongs in metadata"


def _misspelt_section(document: Document) -> Breaches:
    """Sections that differ from a known one in case, separators or number alone, as `pv` compares them."""
    for key in document.keys:
        alike = next((section for section in SECTIONS if _forms(key) & _forms(section)), None)
        if key not in SECTIONS and alike is not None:
            yield document.line_of(key), f"no section is called {key!r:.40}: did you mean {alike}?"


def _forms(key: str) -> frozenset[str]:
    """A key without case and separators, as it is and without a plural's ending."""
    squashed = re.sub(r"[^a-z0-9]", "", key.lower())
    return frozenset(form for form in (squashed, *(squashed.removesuffix(end) for end in ("es", "s"))) if form)


def _duplicate_key(document: Document) -> Breaches:
    for duplicate in document.duplicates:
        yield duplicate.line, f"the key {duplicate.key!r} is already at line {duplicate.first}"


def _not_applicable(obligation: Obligation) -> bool:
    return obligation.applies_to == "not_applicable"


def _no_reason(document: Document) -> Breaches:
    for name, obligation in _obligations(document):
        if _not_applicable(obligation) and not (obligation.na_reason or "").strip():
            yield obligation.line_of("na_reason", "applies_to"), f"{name}: not applicable, but na_reason is empty"


def _no_owner(document: Document) -> Breaches:
    for name, obligation in _obligations(document):
        if _not_applicable(obligation) and not (obligation.na_owner or "").strip():
            yield obligation.line_of("na_owner", "applies_to"), f"{name}: not applicable, but na_owner is empty"


def _needless_reason(document: Document) -> Breaches:
    for name, obligation in _obligations(document):
        for field in ("na_reason", "na_owner"):
            if getattr(obligation, field) is not None and not _not_applicable(obligation):
                yield obligation.line_of(field), f"{name}: {field} is for applies_to: not_applicable"


def _not_provable(document: Document) -> Breaches:
    sections = (
        ("proof_obligations", document.obligations),
        ("falsification_tests", [test for _, test in _tests(document)]),
        ("kani_harnesses", document.harnesses),
    )
    for section, entries in sections:
        if not entries:
            yield document.line_of(section), f"a kernel has at least one entry in {section}"
    obligations, tests = (len(entries) for _, entries in sections[:2])
    if tests < obligations:
        rule = "a kernel has at least as many falsification tests as proof obligations"
        yield document.line_of("falsification_tests"), f"{rule}, found {tests} for {obligations}"


_E, _W = Severity.ERROR, Severity.WARN

RULES: tuple[SchemaRule, ...] = (
    SchemaRule(
        "SCHEMA-001",
        _E,
        "references are given",
        "name the paper, specification or source in metadata.references",
        _no_references,
    ),
    SchemaRule("SCHEMA-002", _E, "a version is given", "write metadata.version, as 1.0.0", _no_version),
    SchemaRule(
        "SCHEMA-003",
        _E,
        "a kernel has equations",
        "write the equation that the kernel computes, or a metadata.kind that is no kernel",
        _no_equations,
        of_kernels=True,
    ),
    SchemaRule(
        "SCHEMA-004",
        _E,
        "an equation has a formula",
        "write the formula of the equation",
        _empty_formula,
        of_kernels=True,
    ),
    SchemaRule(
        "SCHEMA-005", _E, "an obligation has a property", "say in property what is to be proved", _empty_property
    ),
    SchemaRule(
        "SCHEMA-006",
        _W,
        "formal statements differ",
        "remove one of the two, or write what tells them apart",
        _same_formal,
    ),
    SchemaRule("SCHEMA-007", _E, "ids of falsification tests differ", "give one of the two another id", _same_test_id),
    SchemaRule(
        "SCHEMA-008",
        _E,
        "a falsification test has a prediction",
        "say in prediction what is seen if the rule holds",
        _no_prediction,
    ),
    SchemaRule(
        "SCHEMA-009",
        _W,
        "a falsification test says what its failure means",
        "say in if_fails what the cause would be",
        _no_if_fails,
    ),
    SchemaRule("SCHEMA-010", _E, "ids of harnesses differ", "give one of the two another id", _same_harness_id),
    SchemaRule(
        "SCHEMA-011",
        _E,
        "a harness has an obligation",
        "name the obligation that the harness proves",
        _no_harness_obligation,
    ),
    SchemaRule(
        "SCHEMA-012", _W, "a harness has a bound", "write bound, the number of steps that are unwound", _no_bound
    ),
    SchemaRule(
        "SCHEMA-013", _W, "a kernel has a quality gate", "write a qa_gate with id and name", _no_gate, of_kernels=True
    ),
    SchemaRule(
        "SCHEMA-014",
        _E,
        "requires is for postconditions",
        "remove requires, or write type: postcondition",
        _misplaced_requires,
    ),
    SchemaRule(
        "SCHEMA-015",
        _E,
        "applies_to_phase is for loops",
        "remove applies_to_phase, or write type: loop_invariant or loop_variant",
        _misplaced_phase,
    ),
    SchemaRule(
        "SCHEMA-016",
        _E,
        "parent_contract is for subcontracts",
        "remove parent_contract, or write type: subcontract",
        _misplaced_parent,
    ),
    SchemaRule(
        "SCHEMA-017",
        _E,
        "a parent contract is depended on",
        "add the parent to metadata.depends_on, word for word",
        _unknown_parent,
    ),
    SchemaRule("SCHEMA-018", _E, "kind is in metadata", "move kind into metadata", _top_level_kind),
    SchemaRule("SCHEMA-019", _E, "no section is misspelt", "rename the section as offered", _misspelt_section),
    SchemaRule("SCHEMA-020", _E, "no key occurs twice", "merge the two, or remove one", _duplicate_key),
    SchemaRule(
        "SCHEMA-021",
        _E,
        "an obligation that is not applicable says why",
        "write na_reason: why it is no property of the code",
        _no_reason,
    ),
    SchemaRule(
        "SCHEMA-022",
        _E,
        "an obligation that is not applicable says who decided",
        "write na_owner: what checks it instead",
        _no_owner,
    ),
    SchemaRule(
        "SCHEMA-023",
        _E,
        "a reason for not applicable is given only there",
        "remove na_reason and na_owner, or write applies_to: not_applicable",
        _needless_reason,
    ),
    SchemaRule(
        "PROVABILITY-001",
        _E,
        "a kernel can be proved",
        "add what is missing, or write a metadata.kind that is no kernel",
        _not_provable,
        of_kernels=True,
    ),
)
"""The codes are those of `pv`."""
