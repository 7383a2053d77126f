"""A change in meaning is reported with its kind; formatting is no change."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from aprtui.contracts.changes.difference import Change, ChangeKind, changes, moved, moved_in_text
from aprtui.contracts.documents.loading import contract_files
from aprtui.contracts.documents.reader import document_of
from aprtui.resources import contracts
from aprtui.yaml_file import parse_yaml, plain, read_yaml
from tests.contracts.samples import SOUND, document

FIELDS = """    status: FUNCTIONAL
    check: {name: cosine_floor, at_least: 0.99, stages: [lm_head, ffn_up]}
    full_discharge_blocks_on: a GPU
    functional_evidence: [a run]
"""
OLD = SOUND.replace("    status: FUNCTIONAL\n", FIELDS, 1)


def edited(*edits: tuple[str, str]) -> list[Change]:
    text = OLD
    for old, new in edits:
        assert old in text, f"{old!r} is not in the sample"
        text = text.replace(old, new, 1)
    return list(changes(document(OLD), document(text)))


def summary(change: Change) -> tuple[str, str, str, str]:
    return str(change.kind), change.section, change.name, change.field


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("status: FUNCTIONAL", "status: DISCHARGED", ("raised", "falsifier", "FALSIFY-1", "status")),
        ("status: FUNCTIONAL", "status: BLOCKER_X", ("lowered", "falsifier", "FALSIFY-1", "status")),
        ("    status: FUNCTIONAL\n", "", ("lowered", "falsifier", "FALSIFY-1", "status")),
        ("status: FUNCTIONAL", "status: PASS", ("changed", "falsifier", "FALSIFY-1", "status")),
        ("status: FUNCTIONAL", "status: FUNCTIONAL_DISCHARGED", ("changed", "falsifier", "FALSIFY-1", "status")),
        ("status: ACTIVE", "status: DRAFT", ("changed", "metadata", "", "life cycle")),
        ("at_least: 0.99", "at_least: 0.9", ("loosened", "falsifier", "FALSIFY-1", "check.at_least")),
        ("at_least: 0.99", "at_least: 0.999", ("tightened", "falsifier", "FALSIFY-1", "check.at_least")),
        ("at_least: 0.99, ", "", ("removed", "falsifier", "FALSIFY-1", "check.at_least")),
        ("name: cosine_floor", "name: sigma_band", ("changed", "falsifier", "FALSIFY-1", "check")),
        ("lm_head, ffn_up", "lm_head", ("removed", "falsifier", "FALSIFY-1", "check.stages")),
        ("formula: y = a * x", "formula: y = b * x", ("changed", "equation", "scaled", "formula")),
        ("  scaled:\n", "  doubled:\n    formula: y = 2 * x\n  scaled:\n", ("added", "equation", "doubled", "")),
        ("prediction: no NaN", "prediction: no Inf", ("changed", "falsifier", "FALSIFY-1", "prediction")),
        ("blocks_on: a GPU", "blocks_on: two GPUs", ("changed", "falsifier", "FALSIFY-1", "full_discharge_blocks_on")),
        ("[a run]", "[a run, another]", ("added", "falsifier", "FALSIFY-1", "functional_evidence")),
        ("depends_on: [base-v1]", "depends_on: []", ("removed", "metadata", "", "depends_on")),
        ("name: the gate", "name: the gate\n  checks: [a]", ("added", "qa_gate", "GATE-1", "checks")),
        ("bound: 4", "bound: 8", ("changed", "harness", "KANI-1", "bound")),
    ],
)  # fmt: skip
def test_a_change_of_meaning_is_told_by_its_kind(old: str, new: str, expected: tuple[str, str, str, str]) -> None:
    assert [summary(change) for change in edited((old, new))] == [expected]


def test_entries_that_go_and_come_are_told_with_their_lines() -> None:
    (gone, come) = edited(("id: FALSIFY-2", "id: FALSIFY-3"))
    assert (summary(gone), summary(come)) == (
        ("removed", "falsifier", "FALSIFY-2", ""), ("added", "falsifier", "FALSIFY-3", "")
    )  # fmt: skip
    assert gone.old == come.new == "scaled"
    assert (gone.new_line, come.old_line) == (None, None) and gone.old_line == come.new_line


@pytest.mark.parametrize(
    "edit",
    [
        ("version: 1.0", "version: 2.0"),
        ("description: A sample", "description: Another"),
        ("created: 2026-11-24", "created: 2027-01-01\n  updated: 2027-01-01\n  author: me"),
        ("    - a book", "    - two books"),
        ("prediction: no NaN", "prediction: >\n      no\n      NaN"),
        ("rule: finite", "rule: 'finite'  # a remark"),
        ("stages: [lm_head, ffn_up]", "stages: [ffn_up, lm_head]"),
        ("at_least: 0.99", "at_least: 9.9e-1"),
        ("prediction: no NaN", "expected: no NaN"),
        ("[a run]", "\n      - a run"),
    ],
)
def test_formatting_and_words_about_the_document_are_no_change(edit: tuple[str, str]) -> None:
    assert edited(edit) == []


def rewritten_is_the_same(paths: list[Path]) -> None:
    for path in paths:
        tree = read_yaml(path)
        text = yaml.safe_dump(plain(tree.root), sort_keys=True, width=60, allow_unicode=True)
        assert changes(document_of(tree), document_of(parse_yaml(text, path))) == (), path


def test_our_own_contracts_written_anew_are_the_same() -> None:
    rewritten_is_the_same(list(contract_files([contracts()])))


@pytest.mark.group("conformance")
def test_real_contracts_written_anew_are_the_same(conformance: Path) -> None:
    rewritten_is_the_same(list(contract_files([conformance / "contracts"])))


@pytest.mark.parametrize(
    ("field", "old", "new", "expected"),
    [
        ("at_least", 0.9, 0.99, ChangeKind.TIGHTENED),
        ("cosine_at_least", 0.9, 0.8, ChangeKind.LOOSENED),
        ("check.high", 2.0, 1.5, ChangeKind.TIGHTENED),
        ("below", 0.99, 0.999, ChangeKind.LOOSENED),
        ("tolerance", 1e-6, 1e-4, ChangeKind.LOOSENED),
        ("min_executed", 3, 4, ChangeKind.TIGHTENED),
        ("at_least", 1, 1.0, None),
        ("tokens", 3, 4, None),
        ("min_max", 3, 4, None),
    ],
)
def test_a_parameter_s_direction_is_in_its_name(
    field: str, old: float, new: float, expected: ChangeKind | None
) -> None:
    assert moved(field, old, new) is expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("cos >= 0.99", "cos >= 0.999", ChangeKind.TIGHTENED),
        ("cos ≥ 0.99 at layer 3", "cos ≥ 0.9 at layer 3", ChangeKind.LOOSENED),
        ("0.5 <= r <= 2.0", "0.4 <= r <= 2.5", ChangeKind.LOOSENED),
        ("0.5 <= r <= 2.0", "0.6 <= r <= 2.5", None),
        ("|d| < 1e-4", "|d| < 1e-6", ChangeKind.TIGHTENED),
        ("is at least 30.0 tokens/s", "is at least 25 tokens/s", ChangeKind.LOOSENED),
        ("layer 3 is right", "layer 4 is right", None),
        ("cos >= 0.99 at layer 3", "cos >= 0.999 at layer 4", None),
        ("cos >= 0.99", "cosine >= 0.999", None),
        ("q8_0 within 3 ulp", "q8_1 within 3 ulp", None),
    ],
)
def test_a_bound_in_a_text_moves_where_the_words_beside_it_say_how(
    old: str, new: str, expected: ChangeKind | None
) -> None:
    assert moved_in_text(old, new) is expected


def test_bounds_in_claims_move_and_numbers_elsewhere_change() -> None:
    (claim,) = edited(("prediction: no NaN", "prediction: at least 3 runs"))
    assert claim.kind is ChangeKind.CHANGED
    text = OLD.replace("no NaN", "at least 3 runs").replace("test: run it", "test: run --min >= 3", 1)
    new = text.replace("at least 3", "at least 2").replace(">= 3", ">= 2")
    assert [(change.kind, change.field) for change in changes(document(text), document(new))] == [
        (ChangeKind.LOOSENED, "prediction"), (ChangeKind.CHANGED, "test"),
    ]  # fmt: skip
    invariants = SOUND.replace("domain: all x", "invariants: [a <= 3, b is odd]")
    (moved_one,) = changes(document(invariants), document(invariants.replace("a <= 3", "a <= 2")))
    assert (moved_one.kind, moved_one.old, moved_one.new) == (ChangeKind.TIGHTENED, "a <= 3", "a <= 2")


def test_entries_without_ids_are_told_apart_by_what_they_say() -> None:
    old = document("proof_obligations: [{property: a}, {property: b}]\n")
    new = document("proof_obligations: [{property: b}, {property: c}]\n")
    assert [summary(change) for change in changes(old, new)] == [
        ("removed", "obligation", "a", ""), ("added", "obligation", "c", ""),
    ]  # fmt: skip
    twice = document("proof_obligations: [{property: a}, {property: a}]\n")
    assert [summary(change) for change in changes(old, twice)] == [
        ("removed", "obligation", "b", ""), ("added", "obligation", "a #2", ""),
    ]  # fmt: skip


def test_what_the_schema_has_no_field_for_is_compared_too() -> None:
    old, new = OLD + "enforcement: {a: {severity: low}}\n", OLD + "enforcement: {a: {severity: high}}\n"
    (change,) = changes(document(old), document(new))
    assert summary(change) == ("changed", "enforcement", "", "a.severity")
