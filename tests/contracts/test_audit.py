"""Coverage as `pv` counts it: each code is raised by a contract made wrong in its way, and by nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.contracts.audit.bindings import BindingRegistry, read_bindings
from aprtui.contracts.audit.rules import AUDIT_RULES, AuditContext, audit, duplicates
from aprtui.contracts.audit.score import EnforcementLevel, claims_proof, enforcement_level, proof_level, score_of
from aprtui.contracts.documents.reader import read_document
from aprtui.contracts.source_tree import SourceTree
from aprtui.errors import UnreadableError
from tests.cli.conftest import Outcome
from tests.contracts.samples import SOUND, document

Run = Callable[..., Outcome]

COVERED = (
    SOUND.replace(
        "    domain: all x\n",
        "    domain: all x\n    invariants: [y is finite]\n    preconditions: [x is finite]\n"
        "    postconditions: [y is finite]\n    lean_theorem: Scaled.finite\n",
    )
    .replace("    bound: 4\n", "    bound: 4\n    strategy: exhaustive\n")
    .replace("    rule: finite\n", "    rule: finite, as OB-1 has it\n")
    .replace("    rule: scaled\n", "    rule: scaled (OB-2)\n")
)
REGISTRY = """\
version: 1.0.0
target_crate: engine
bindings:
  - {contract: sample.yaml, equation: scaled, function: "scale::run", status: implemented}
"""


def edited(old: str, new: str) -> str:
    assert old in COVERED, f"{old!r} is not in the sample"
    return COVERED.replace(old, new, 1)


def kind(text: str, name: str = "schema") -> str:
    return text.replace("metadata:\n", f"metadata:\n  kind: {name}\n", 1)


def without(text: str, section: str, until: str) -> str:
    return text[: text.index(section)] + text[text.index(until) :]


LOCKED = edited("  version: 1.0\n", "  version: 1.0\n  locked_level: L5\n")
MUTANTS = {
    "AUDIT-001": without(kind(COVERED), "falsification_tests", "kani_harnesses"),
    "AUDIT-003": without(kind(COVERED), "proof_obligations", "falsification_tests"),
    "PV-AUD-001": without(kind(COVERED), "  - id: FALSIFY-2", "kani_harnesses"),
    "PV-AUD-003": edited("  - id: OB-1\n", "  - id: OB-10\n").replace("obligation: OB-1", "obligation: y is finite"),
    "PV-AUD-004": edited("    domain: all x\n", ""),
    "PV-AUD-005": edited("type: invariant", "type: equivalence"),
    "BIND-001": edited("  scaled:\n", "  scales:\n"),
    "BIND-002": COVERED,
    "BIND-003": COVERED,
    "BIND-101": COVERED,
    "PV-ENF-001": edited("    preconditions: [x is finite]\n", ""),
    "PV-ENF-002": edited("    lean_theorem: Scaled.finite\n", "    lean_theorem: ''\n").replace(
        "formal: isfinite(y)", "formal: isfinite(y)\n    lean: {theorem: T, status: proved}"
    ),
    "PV-LCK-001": LOCKED,
    "PV-SCR-001": COVERED,
    "PV-SCR-003": without(edited("    strategy: exhaustive\n", ""), "  - id: KANI-2", "qa_gate"),
    "PV-SCR-004": edited("formal: isfinite(y)", "formal: isfinite(y)\n    lean: {theorem: T}"),
    "PV-PRV-003": without(COVERED, "  - id: KANI-2", "qa_gate"),
    "PV-PRV-004": edited("    lean_theorem: Scaled.finite\n", ""),
}
BESIDE = {"BIND-001": ["BIND-101"], "PV-SCR-003": ["PV-PRV-003"], "PV-PRV-004": ["PV-ENF-002"]}
"""Codes that a mutant has as well."""


@pytest.fixture
def registry(tmp_path: Path) -> BindingRegistry:
    return registry_of(tmp_path, REGISTRY)


def registry_of(folder: Path, text: str, source: SourceTree | None = None) -> BindingRegistry:
    path = folder / "binding.yaml"
    path.write_text(text)
    return read_bindings(path, source)


def test_the_untouched_contract_has_no_finding(registry: BindingRegistry) -> None:
    assert audit(document(COVERED), AuditContext(registry, 0.8)) == ()
    assert audit(document(kind(COVERED)), AuditContext()) == ()


def test_every_rule_has_its_mutant() -> None:
    assert list(MUTANTS) == [rule.code for rule in AUDIT_RULES]


@pytest.mark.parametrize("code", MUTANTS)
def test_a_rule_catches_its_mutant(code: str, registry: BindingRegistry, tmp_path: Path) -> None:
    context = AuditContext(registry if code.startswith("BIND") else None)
    if code in ("BIND-002", "BIND-003"):
        status = {"BIND-002": "partial", "BIND-003": "not_implemented"}[code]
        context = AuditContext(registry_of(tmp_path, REGISTRY.replace("implemented", status)))
    if code == "BIND-101":
        odd = "  - {contract: sample, equation: scales, status: implemented}\n"
        context = AuditContext(registry_of(tmp_path, REGISTRY + odd))
    if code == "PV-SCR-001":
        context = AuditContext(least_score=0.95)
    found = audit(document(MUTANTS[code]), context)
    rule = next(rule for rule in AUDIT_RULES if rule.code == code)
    assert sorted(finding.code for finding in found) == sorted([code, *BESIDE.get(code, [])]), found
    assert next(finding for finding in found if finding.code == code).severity is rule.severity


def test_an_invalid_contract_has_the_errors_of_validate_and_is_not_audited() -> None:
    found = audit(document(edited("version: 1.0", "version: ''")), AuditContext(least_score=1.0))
    assert [finding.code for finding in found] == ["SCHEMA-002"]


def test_rules_of_kernels_leave_other_kinds_alone() -> None:
    assert audit(document(kind(edited("    preconditions: [x is finite]\n", ""))), AuditContext()) == ()


def test_the_score_is_the_weighted_sum_of_its_shares(registry: BindingRegistry) -> None:
    text = COVERED.replace("strategy: exhaustive", "strategy: stub_float", 1).replace(
        "formal: isfinite(y)", "formal: isfinite(y)\n    tolerance: 1.0e-6"
    )
    score = score_of(document(text), registry)
    assert score.shares == pytest.approx(
        {"specification": 0.85, "tests": 1.0, "harnesses": 0.9, "theorems": 0.0, "bindings": 1.0}
    )
    assert score.total == pytest.approx(0.2 * 0.85 + 0.25 + 0.25 * 0.9 + 0.2)
    assert score.grade == "B"
    assert score_of(document(text)).grade == "C", "without a registry nothing is bound"


def test_a_harness_counts_by_its_strategy_and_fully_once_it_was_run() -> None:
    def share(strategy: str) -> float:
        return score_of(document(COVERED.replace("strategy: exhaustive", strategy))).shares["harnesses"]

    strategies = ("exhaustive", "bounded_int", "stub_float", "compositional")
    assert [share(f"strategy: {name}") for name in strategies] == pytest.approx([1, 0.9, 0.8, 0.7])
    assert share("solver: cadical") == pytest.approx(0.5)
    assert share("strategy: stub_float\n    actually_verified: true") == pytest.approx(1)


def test_a_contract_that_is_no_kernel_needs_no_bindings_and_has_half_of_its_theorems() -> None:
    shares = score_of(document(kind(COVERED))).shares
    assert (shares["bindings"], shares["theorems"]) == (1.0, 0.5)


def test_levels_are_those_of_tests_and_harnesses_and_a_claimed_proof_is_a_claim() -> None:
    summary = "verification_summary: {total_obligations: 2, l4_lean_proved: 2}\n"
    assert proof_level(document(COVERED)).name == "L3"
    assert proof_level(document(without(COVERED, "kani_harnesses", "qa_gate"))).name == "L2"
    assert proof_level(document(without(COVERED, "  - id: FALSIFY-2", "kani_harnesses"))).name == "L1"
    claimed = document(COVERED + summary)
    assert claims_proof(claimed) and proof_level(claimed).name == "L3"
    assert not claims_proof(document(COVERED + summary.replace("proved: 2", "proved: 1")))
    assert claims_proof(document(COVERED + summary.replace("proved: 2", "proved: 1, l4_not_applicable: 1")))


def test_enforcement_goes_from_basic_to_proven(registry: BindingRegistry) -> None:
    assert enforcement_level(document(kind(without(COVERED, "kani", "qa_gate")))) is EnforcementLevel.BASIC
    assert enforcement_level(document(COVERED)) is EnforcementLevel.STANDARD
    assert enforcement_level(document(COVERED), registry) is EnforcementLevel.STRICT
    proven = COVERED + "verification_summary: {l4_lean_proved: 1}\n"
    assert enforcement_level(document(proven)) is EnforcementLevel.PROVEN
    gap = COVERED + "verification_summary: {l4_lean_proved: 1, l4_sorry_count: 1}\n"
    assert enforcement_level(document(gap)) is EnforcementLevel.STANDARD


@pytest.mark.parametrize(
    ("word", "finding"),
    [
        ("L3", ""), ("Standard", ""), ("strict", "locked at strict, and fell to standard"),
        ("L7", "locked_level 'L7': expected one of basic, l1, standard, l2, l3, strict, l4, proven, l5"),
    ],
)  # fmt: skip
def test_a_lock_holds_what_it_says_and_an_unknown_word_is_no_lock(word: str, finding: str) -> None:
    found = audit(document(LOCKED.replace("L5", word)), AuditContext())
    assert [(entry.code, entry.message) for entry in found] == ([("PV-LCK-001", finding)] if finding else [])


def test_a_declared_or_demanded_level_of_enforcement_is_held_against_what_is_there() -> None:
    declared = document(edited("  version: 1.0\n", "  version: 1.0\n  enforcement_level: strict\n"))
    (finding,) = audit(declared, AuditContext())
    assert finding.message == "it declares the enforcement level strict, and reaches standard"
    (finding,) = audit(document(COVERED), AuditContext(least_level=EnforcementLevel.PROVEN))
    assert finding.message == "it has to have the enforcement level proven, and reaches standard"


def test_a_function_that_no_source_has_is_not_implemented(tmp_path: Path) -> None:
    (tmp_path / "scale.rs").write_text("// fn run\nfn walk() { run() }\n")
    registry = registry_of(tmp_path, REGISTRY, SourceTree(tmp_path))
    (finding,) = audit(document(COVERED), AuditContext(registry))
    assert finding.code == "BIND-003"
    said = "equation 'scaled' is implemented by scale::run, but the source tree has no run"
    assert finding.message == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\n", ":1: bindings: expected a list of contract, equation, function and status"),
        ("bindings: [x]\n", ":1: a binding: expected the fields contract, equation, function and status"),
        (REGISTRY.replace("equation: scaled, ", ""), ":4: a binding: equation is missing: write it"),
        (
            REGISTRY.replace("implemented", "implmented"),
            ":4: a binding: status 'implmented': did you mean implemented?",
        ),
        (REGISTRY.replace("implemented", "7"), ": expected one of implemented, partial, not_implemented, pending"),
        ("", "is empty: expected a registry: a mapping with bindings"),
    ],
)
def test_a_registry_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UnreadableError) as refused:
        registry_of(tmp_path, text)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_one_name_for_two_contracts_that_differ_is_an_error(tmp_path: Path) -> None:
    for folder, text in (("a", COVERED), ("b", COVERED), ("c", COVERED.replace("twice", "thrice"))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same-v1.yaml").write_text(text)
    first, second, third = (read_document(tmp_path / name / "same-v1.yaml") for name in "abc")
    assert duplicates([first, second]) == ()
    assert [finding.path.parent.name for finding in duplicates([first, second, third])] == ["a", "b", "c"]


def test_the_command_shows_levels_and_scores_and_ends_with_1_for_errors(aprtui: Run, tmp_path: Path) -> None:
    path, registry = tmp_path / "sample.yaml", tmp_path / "binding.yaml"
    path.write_text(COVERED)
    registry.write_text(REGISTRY)
    done = aprtui("contracts", "audit", tmp_path, "--binding", registry)
    assert done.code == 0 and "L3     strict    0.85 B" in done.out
    assert "1 contract(s): 1 at L3; score 0.85, least 0.85" in done.out
    assert aprtui("contracts", "audit", path, "--min-score", "0.9").code == 1
    assert aprtui("contracts", "audit", path, "--min-level", "proven").code == 0
    assert aprtui("contracts", "audit", path, "--min-level", "proven", "--strict").code == 1
    records = [json.loads(line) for line in aprtui("contracts", "audit", path, "--json").out.splitlines()]
    assert [(found["record"], found.get("score")) for found in records] == [("contract", 0.65), ("summary", None)]
    assert records[-1]["levels"] == {"L3": 1} and records[-1]["least_score"] == 0.65
    assert aprtui("contracts", "audit", path, "--binding", tmp_path / "none").code == 3


def test_many_findings_alike_are_shown_by_a_few(aprtui: Run, tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"n{number}-v1.yaml").write_text(edited("    domain: all x\n", ""))
    done = aprtui("contracts", "audit", tmp_path)
    assert done.out.count("[WARN] PV-AUD-004") == 3 and "… and 6 more PV-AUD-004: --format json lists all" in done.out
    assert "0 error(s), 9 warning(s)" in done.out


def test_real_contracts_are_audited(conformance: Path, aprtui: Run) -> None:
    done = aprtui("contracts", "audit", conformance / "contracts", "--suppress", "PV-ENF-*")
    assert done.code in (0, 1) and "contract(s):" in done.out and done.err == ""
