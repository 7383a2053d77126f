"""Contracts, each wrong in one way, with the code that `pv` has for it, or refused as `pv` refuses it."""

from __future__ import annotations

import pytest

from aprtui.contracts.documents.validation import REFUSED, validate
from tests.contracts.samples import SOUND, document, edited

FORMAL, TEST, HARNESS = "formal: isfinite(y)", "rule: finite", "obligation: OB-1"
BEAT = """\
metadata: {version: 1.0, description: d, references: [a], kind: beat-benchmark}
beat:
  incumbent: scikit-learn 1.5
  metric: accuracy
  direction: higher_is_better
  beat_threshold: 0.9
  ci_gate_name: beats_it
  approved_compute: CPU
"""
KAIZEN = """\
metadata: {version: 1.0, description: d, references: [a], kind: kaizen}
contract: C-1
status: implemented
baseline: {alloc_bytes: 100, batch_size: 4}
target: {alloc_bytes: '<=50', batch_size: 4}
"""
STORY = (
    "metadata: {version: 1.0, description: d, references: [a], kind: registry}\n"
    "stories: [{id: A, competitor: burn, demand_score: 3}]\n"
)


def of(text: str, old: str, new: str) -> str:
    assert old in text, old
    return text.replace(old, new, 1)


def added(*lines: str) -> str:
    """The sound contract with lines in its first obligation."""
    return edited(FORMAL, "\n    ".join((FORMAL, *lines)))


MUTANTS: dict[str, tuple[str, list[str]]] = {
    # what pv does not read
    "no metadata": (SOUND[SOUND.index("equations") :], [REFUSED]),
    "a binding registry": ("bindings: [{contract: a, function: f}]\n", [REFUSED]),
    "an ontology": ("version: 1\nterms: {a: b}\n", [REFUSED]),
    "unknown kind": (edited("  version: 1.0", "  kind: kernal\n  version: 1.0"), [REFUSED]),
    "kind in capitals": (edited("  version: 1.0", "  kind: Kernel\n  version: 1.0"), [REFUSED]),
    "unknown obligation type": (edited("type: invariant", "type: invariance"), [REFUSED]),
    "unknown enforcement level": (edited("  version: 1.0", "  enforcement_level: full\n  version: 1.0"), [REFUSED]),
    "unknown intake status": (edited("  version: 1.0", "  intake_status: maybe\n  version: 1.0"), [REFUSED]),
    "unknown strategy": (edited(HARNESS, f"{HARNESS}\n    strategy: stub-float"), [REFUSED]),
    "test without id": (edited("- id: FALSIFY-1\n    rule", "- rule"), [REFUSED]),
    "harness without id": (edited("- id: KANI-1\n    obligation", "- obligation"), [REFUSED]),
    "rule and description": (edited(TEST, f"{TEST}\n    description: too"), [REFUSED]),
    "prediction and expected": (edited(TEST, f"{TEST}\n    expected: too"), [REFUSED]),
    "test and command": (edited(TEST, f"{TEST}\n    command: too"), [REFUSED]),
    "if_fails and fails_if": (edited(TEST, f"{TEST}\n    fails_if: too"), [REFUSED]),
    "property and statement": (added("statement: too"), [REFUSED]),
    "formal and verification": (added("verification: too"), [REFUSED]),
    "no version": (edited("  version: 1.0\n", ""), [REFUSED]),
    "no description": (edited("  description: A sample\n", ""), [REFUSED]),
    "references as a text": (edited("references:\n    - a book", "references: a book"), [REFUSED]),
    "registry as a word": (edited("  version: 1.0", "  registry: 'yes'\n  version: 1.0"), [REFUSED]),
    "demand as a fraction": (edited("  version: 1.0", "  demand_score: 3.5\n  version: 1.0"), [REFUSED]),
    "a formula that is a number": (edited("formula: y = a * x", "formula: 4"), [REFUSED]),
    "a formula that is nothing": (edited("formula: y = a * x", "formula:"), [REFUSED]),
    "an equation that is a text": (edited("\n    formula: y = a * x\n    domain: all x\n", " y = x\n"), [REFUSED]),
    "tolerance in words": (added("tolerance: 1 ULP"), [REFUSED]),
    "tolerance as a number": (added("tolerance: 1.0e-6"), []),
    "unknown lean status": (added("lean: {theorem: T, status: done}"), [REFUSED]),
    "lean without theorem": (added("lean: {status: proved}"), [REFUSED]),
    "obligations by name": (edited("proof_obligations:\n", "proof_obligations:\n  a: {}\n  # ").replace(
        SOUND[SOUND.index("  - id: OB-1") : SOUND.index("falsification_tests")], "\n"), [REFUSED]),
    "a test that is a list": (edited("test: run it", "test: [run, it]"), [REFUSED]),
    "no obligation at all": (edited(f"    {HARNESS}\n", ""), [REFUSED]),
    "bound in quotes": (edited("bound: 4", "bound: '4'"), [REFUSED]),
    "bound by a name": (edited("bound: 4", "bound: N"), [REFUSED]),
    "bound below zero": (edited("bound: 4", "bound: -4"), [REFUSED]),
    "harness verified in words": (edited(HARNESS, f"{HARNESS}\n    actually_verified: maybe"), [REFUSED]),
    "summary without total": (SOUND + "verification_summary: {l4_lean_proved: 1}\n", [REFUSED]),
    "phase without description": (SOUND + "kernel_structure: {phases: [{name: a}]}\n", [REFUSED]),
    "enforcement in a word": (SOUND + "enforcement: {a: strict}\n", [REFUSED]),
    "invariant of no type": (SOUND + "type_invariants: [{name: a, predicate: p}]\n", [REFUSED]),
    "sections that pv reads": (
        SOUND + "verification_summary: {total_obligations: 2}\n"
        "kernel_structure: {phases: [{name: a, description: d}]}\n"
        "enforcement: {a: {description: d}}\n"
        "type_invariants: [{name: a, type: T, predicate: p}]\n"
        "simd_dispatch: {a: {b: c}}\n"
        "coq_spec: {module: M}\n", [],
    ),
    # metadata, equations, obligations
    "no references": (edited("  references:\n    - a book\n", ""), ["SCHEMA-001"]),
    "empty references": (edited("references:\n    - a book", "references: []"), ["SCHEMA-001"]),
    "empty version": (edited("version: 1.0", "version: ''"), ["SCHEMA-002"]),
    "no equations": (edited("equations:\n  scaled:\n    formula: y = a * x\n    domain: all x\n", ""), ["SCHEMA-003"]),
    "empty formula": (edited("formula: y = a * x", "formula: ''"), ["SCHEMA-004"]),
    "empty formula of no kernel": (
        edited("formula: y = a * x", "formula: ''").replace("  version", "  kind: schema\n  version", 1), [],
    ),
    "empty property": (edited("property: y is finite", "property: ''"), ["SCHEMA-005"]),
    "same formal twice": (edited("formal: base(y)", FORMAL), ["SCHEMA-006"]),
    "same test id": (edited("id: FALSIFY-2", "id: FALSIFY-1"), ["SCHEMA-007"]),
    "empty prediction": (edited("prediction: no NaN", "prediction: ''"), ["SCHEMA-008"]),
    "no prediction": (edited("    prediction: no NaN\n", ""), ["SCHEMA-008"]),
    "no if_fails": (edited("    if_fails: a is not finite\n", ""), ["SCHEMA-009"]),
    "same harness id": (edited("id: KANI-2", "id: KANI-1"), ["SCHEMA-010"]),
    "empty obligation": (edited(HARNESS, "obligation: ''"), ["SCHEMA-011"]),
    "no bound": (edited("    bound: 4\n", ""), ["SCHEMA-012"]),
    "no gate": (SOUND[: SOUND.index("qa_gate")], ["SCHEMA-013"]),
    "requires on an invariant": (added("requires: PRE"), ["SCHEMA-014"]),
    "phase on an invariant": (added("applies_to_phase: first"), ["SCHEMA-015"]),
    "parent on an invariant": (added("parent_contract: base-v1"), ["SCHEMA-016"]),
    "parent that is not depended on": (edited("depends_on: [base-v1]", "depends_on: []"), ["SCHEMA-017"]),
    "parent with a remark in depends_on": (
        edited("depends_on: [base-v1]", "depends_on: [base-v1 (the base)]"), ["SCHEMA-017"],
    ),
    "kind at the top": (SOUND + "kind: kernel\n", ["SCHEMA-018"]),
    "plural of a section": (SOUND + "qa_gates: {}\n", ["SCHEMA-019"]),
    "section in other letters": (SOUND + "ProofObligations: []\n", ["SCHEMA-019"]),
    "section of one's own": (SOUND + "family: bert\n", []),
    "same key twice": (edited("    domain: all x\n", "    domain: all x\n    domain: all y\n"), ["SCHEMA-020"]),
    "not applicable without reason": (added("applies_to: not_applicable", "na_owner: a bench"), ["SCHEMA-021"]),
    "not applicable with a blank reason": (
        added("applies_to: not_applicable", "na_owner: a bench", "na_reason: ' '"), ["SCHEMA-021"],
    ),
    "not applicable without owner": (added("applies_to: not_applicable", "na_reason: speed"), ["SCHEMA-022"]),
    "not applicable without both": (added("applies_to: not_applicable"), ["SCHEMA-021", "SCHEMA-022"]),
    "not applicable, sound": (added("applies_to: not_applicable", "na_owner: b", "na_reason: speed"), []),
    "reason although applicable": (added("applies_to: simd", "na_reason: speed"), ["SCHEMA-023"]),
    "reason and owner although applicable": (added("na_reason: speed", "na_owner: b"), ["SCHEMA-023", "SCHEMA-023"]),
    "a lean status is no such word": (added("lean: {theorem: T, status: not-applicable}"), []),
    "fewer tests than obligations": (
        edited("kani_harnesses", "# none\nkani_harnesses").replace(
            SOUND[SOUND.index("  - id: FALSIFY-2") : SOUND.index("kani_harnesses")], ""), ["PROVABILITY-001"],
    ),
    "no harnesses": (
        SOUND[: SOUND.index("kani_harnesses")] + SOUND[SOUND.index("qa_gate") :], ["PROVABILITY-001"],
    ),
    # benchmarks
    "no beat": (BEAT[: BEAT.index("beat:")], ["BEAT-001"]),
    "incumbent of one's own": (of(BEAT, "scikit-learn 1.5", "ourselves"), ["BEAT-002"]),
    "no metric": (of(BEAT, "  metric: accuracy\n", ""), ["BEAT-003"]),
    "no direction": (of(BEAT, "higher_is_better", "up"), ["BEAT-004"]),
    "no threshold": (of(BEAT, "0.9", ".inf"), ["BEAT-005"]),
    "no gate that enforces": (of(BEAT, "beats_it", "''"), ["BEAT-006"]),
    "other compute": (of(BEAT, "CPU", "TPU"), ["BEAT-007"]),
    # improvement records
    "record without id": (of(KAIZEN, "contract: C-1\n", ""), ["KAIZEN-001"]),
    "record with a list for a state": (of(KAIZEN, "status: implemented", "status: [implemented]"), [REFUSED]),
    "unknown state": (of(KAIZEN, "status: implemented", "status: done"), ["KAIZEN-002"]),
    "nothing that can fail": (KAIZEN[: KAIZEN.index("baseline")], ["KAIZEN-003"]),
    "a target of other metrics": (
        of(KAIZEN, "target: {alloc_bytes: '<=50', batch_size", "target: {x"), ["KAIZEN-004", "KAIZEN-005"],
    ),
    "nothing moves": (of(KAIZEN, "'<=50'", "100"), ["KAIZEN-005"]),
    "a cost that grows": (of(KAIZEN, "'<=50'", "200 MB"), ["KAIZEN-006"]),
    # user stories
    "demand out of range": (edited("  version: 1.0", "  demand_score: 6\n  version: 1.0"), ["CRUX-001"]),
    "unknown source": (edited("  version: 1.0", "  competitor: nobody\n  version: 1.0"), ["CRUX-002"]),
    "story without demand": (of(STORY, ", demand_score: 3", ""), ["CRUX-001"]),
    "story without source": (of(STORY, "competitor: burn, ", ""), ["CRUX-002"]),
}  # fmt: skip


def test_there_are_ninety_and_the_sound_ones_are_sound() -> None:
    assert len(MUTANTS) >= 90
    for text in (SOUND, BEAT, KAIZEN, STORY):
        assert validate(document(text)) == ()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_has_its_code_and_no_other(name: str) -> None:
    text, codes = MUTANTS[name]
    assert [finding.code for finding in validate(document(text))] == codes


def test_a_document_that_is_refused_says_where_and_what_to_do() -> None:
    def said(name: str) -> str:
        (finding,) = validate(document(MUTANTS[name][0]))
        return f"{finding.line}: {finding.message}"

    assert (
        said("bound in quotes")
        == "38: harness KANI-1.bound: expected a whole number, found '4': write the number alone"
    )
    assert said("tolerance in words").endswith(
        "OB-1.tolerance: expected a number, found '1 ULP': write the number alone"
    )
    assert said("no description") == "2: metadata has no description: write it"
    assert said("a formula that is nothing").endswith(
        "equation scaled.formula: expected a text, found nothing: write it in quotes"
    )


def test_a_near_word_is_offered() -> None:
    (finding,) = validate(document(MUTANTS["unknown kind"][0]))
    assert finding.message == "metadata.kind 'kernal': did you mean kernel?"
    (finding,) = validate(document(MUTANTS["a binding registry"][0]))
    assert finding.message == "this is no contract: it has no metadata (its sections are bindings)"
