"""Each rule catches a contract made wrong in its way, at its line, and nothing else does; the untouched twin passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.contracts.documents.loading import contract_files
from aprtui.contracts.documents.validation import RULES, Severity, validate
from tests.contracts.samples import SOUND, document, edited, line_of


def without(section: str) -> str:
    """The sound contract without a top-level section."""
    kept, dropping = [], False
    for line in SOUND.splitlines(keepends=True):
        if not line.startswith((" ", "-")):
            dropping = line.startswith(f"{section}:")
        if not dropping:
            kept.append(line)
    assert len(kept) < len(SOUND.splitlines())
    return "".join(kept)


HERE = "# here"

# Code: the contract made wrong. The finding must be at the line that says so; at the file's first where none does.
MUTANTS: dict[str, str] = {
    "SCHEMA-001": edited("references:\n    - a book", "references: # here"),
    "SCHEMA-002": edited("version: 1.0", "version: # here"),
    "SCHEMA-003": without("equations"),
    "SCHEMA-004": edited("formula: y = a * x", "formula: '' # here"),
    "SCHEMA-005": edited("property: y is finite", "property: # here"),
    "SCHEMA-006": edited("formal: base(y)", "formal: isfinite(y) # here"),
    "SCHEMA-007": edited("id: FALSIFY-2", "id: FALSIFY-1 # here"),
    "SCHEMA-008": edited("prediction: no NaN", "prediction: '' # here"),
    "SCHEMA-009": edited("if_fails: a is not finite", "if_fails: # here"),
    "SCHEMA-010": edited("id: KANI-2", "id: KANI-1 # here"),
    "SCHEMA-011": edited("obligation: OB-1", "obligation: # here"),
    "SCHEMA-012": edited("id: KANI-2\n    obligation: OB-2\n    bound: 4", "id: KANI-2 # here\n    obligation: OB-2"),
    "SCHEMA-013": without("qa_gate"),
    "SCHEMA-014": edited("formal: isfinite(y)", "requires: x is finite # here"),
    "SCHEMA-015": edited("formal: isfinite(y)", "applies_to_phase: first # here"),
    "SCHEMA-016": edited("formal: isfinite(y)", "parent_contract: base-v1 # here"),
    "SCHEMA-017": edited("parent_contract: base-v1", "parent_contract: other-v1 # here"),
    "SCHEMA-018": SOUND + "kind: kernel # here\n",
    "SCHEMA-019": SOUND + "enforcements: {} # here\n",
    "SCHEMA-020": edited("    domain: all x\n", "    domain: all x\n    domain: all y # here\n"),
    "SCHEMA-021": edited("formal: isfinite(y)", "applies_to: not_applicable # here\n    na_owner: me"),
    "SCHEMA-022": edited("formal: isfinite(y)", "applies_to: not_applicable # here\n    na_reason: floats"),
    "SCHEMA-023": edited("formal: isfinite(y)", "na_reason: floats # here"),
    "PROVABILITY-001": without("kani_harnesses"),
}
WARNINGS = {"SCHEMA-006", "SCHEMA-009", "SCHEMA-012", "SCHEMA-013"}


def test_the_untouched_contract_passes() -> None:
    assert validate(document()) == ()


def test_every_rule_has_its_mutant() -> None:
    assert list(MUTANTS) == [rule.code for rule in RULES]


@pytest.mark.parametrize("code", MUTANTS)
def test_a_rule_catches_its_mutant_at_its_line_and_no_other_rule_does(code: str) -> None:
    text = MUTANTS[code]
    (finding,) = validate(document(text))
    assert (finding.code, finding.line) == (code, line_of(text, HERE) if HERE in text else 1)
    assert finding.severity is (Severity.WARN if code in WARNINGS else Severity.ERROR)


@pytest.mark.parametrize(
    ("section", "breaches"), [("proof_obligations", 1), ("falsification_tests", 2), ("kani_harnesses", 1)]
)
def test_a_kernel_without_one_of_its_sections_cannot_be_proved(section: str, breaches: int) -> None:
    codes = [finding.code for finding in validate(document(without(section)))]
    assert codes == ["PROVABILITY-001"] * breaches, "no tests are fewer than the obligations, too"


def test_a_kernel_with_fewer_tests_than_obligations_cannot_be_proved() -> None:
    text = SOUND[: SOUND.index("  - id: FALSIFY-2")] + SOUND[SOUND.index("kani_harnesses") :]
    (finding,) = validate(document(text))
    assert finding.code == "PROVABILITY-001" and "found 1 for 2" in finding.message
    assert finding.line == line_of(text, "falsification_tests")


@pytest.mark.parametrize("head", ["kind: pattern", "kind: schema", "registry: true"])
def test_what_is_no_kernel_is_not_held_to_what_kernels_must_have(head: str) -> None:
    text = f"metadata:\n  {head}\n  version: '1'\n  description: d\n  references: [a]\n"
    assert validate(document(text)) == ()
    assert validate(document(text + "equations: {a: {formula: ''}}\n")) == ()
    codes = [finding.code for finding in validate(document(text + "proof_obligations: [{property: ''}]\n"))]
    assert codes == ["SCHEMA-005"]


def test_the_first_error_of_a_kindless_contract_says_that_it_was_judged_as_a_kernel() -> None:
    text = "metadata: {version: '1', description: d, references: [a]}\n"
    noted = ["judged as a kernel" in finding.message for finding in validate(document(text))]
    assert noted == [True, False, False, False, False]
    stated = document(text.replace("version", "kind: kernel, version"))
    assert not any("judged as" in finding.message for finding in validate(stated))


@pytest.mark.parametrize("key", ["equation", "falsification_test", "kani-harnesses", "qa_gates", "Metadata_", "QAGate"])
def test_a_misspelt_section_is_named_with_the_right_spelling(key: str) -> None:
    (finding,) = validate(document(SOUND + f"{key}: {{}}\n"))
    assert finding.code == "SCHEMA-019" and "did you mean" in finding.message


@pytest.mark.parametrize(
    "key", ["falsification", "version", "obligations", "abstract", "verification", "invariants", "gates", "spec"]
)
def test_a_section_of_ones_own_is_not_taken_for_a_misspelt_one(key: str) -> None:
    assert validate(document(SOUND + f"{key}: []\n")) == ()


def test_below_a_folder_what_pv_takes_for_no_contract_is_left_out_unless_it_is_named(tmp_path: Path) -> None:
    for name in ("a-v1.yaml", "binding.yaml", "sub/ontology.yaml", "kaizen/b-v1.yaml", ".pv/c-v1.yaml", "sub/d-v1.yml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("bindings: []\n")
    assert [path.name for path in contract_files([tmp_path])] == ["a-v1.yaml", "d-v1.yml"]
    named = [tmp_path / "binding.yaml", tmp_path / "kaizen"]
    assert [path.name for path in contract_files(named)] == ["binding.yaml", "b-v1.yaml"]
