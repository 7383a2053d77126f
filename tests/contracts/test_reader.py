"""Every shape of a contract in use is read, and nothing in it is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprtui.contracts.documents.document import ContractError, Maturity, maturity_of
from aprtui.contracts.documents.reader import document_of
from aprtui.contracts.documents.validation import validate
from aprtui.yaml_file import MOST_BYTES, YamlError, read_yaml
from tests.contracts.samples import SOUND, document, edited, line_of
from tests.hangs import no_hang


def test_a_contract_is_read_with_the_line_of_each_entry() -> None:
    read = document()
    assert (read.metadata.version, read.metadata.extras["created"]) == ("1.0", "2026-11-24")
    assert [equation.name for equation in read.equations] == ["scaled"]
    assert [test.line for test in read.falsifiers] == [line_of(SOUND, "id: FALSIFY-1"), line_of(SOUND, "id: FALSIFY-2")]
    assert read.falsifiers[0].line_of("prediction") == line_of(SOUND, "prediction: no NaN")


def test_equations_are_read_as_a_mapping_a_list_and_as_texts() -> None:
    listed = document("metadata: {}\nequations:\n  - name: a\n    formula: x\n  - id: b\n    formula: y\n")
    mapped = document("metadata: {}\nequations:\n  a: {formula: x}\n  b: y\n")
    assert [(e.name, e.formula) for e in listed.equations] == [(e.name, e.formula) for e in mapped.equations]


def test_algorithm_evidence_is_read_as_a_list_and_as_a_mapping() -> None:
    read = document(
        "falsification_tests:\n- id: A\n  algorithm_evidence: [one, two]\n"
        "- id: B\n  algorithm_evidence:\n    file_paths: [x.rs]\n    notes: a note\n"
    )
    first, second = (test.evidence[0] for test in read.falsifiers)
    assert first.texts == ("one", "two") and not first.parts
    assert second.parts == {"file_paths": ("x.rs",), "notes": ("a note",)} and not second.texts


def test_aliases_of_fields_are_read() -> None:
    read = document(
        "proof_obligations:\n- statement: holds\n  verification: by hand\n"
        "falsification_tests:\n- description: the rule\n  expected: the end\n  command: run\n  fails_if: not\n"
    )
    assert (read.obligations[0].property, read.obligations[0].formal) == ("holds", "by hand")
    test = read.falsifiers[0]
    assert (test.rule, test.prediction, test.test, test.if_fails) == ("the rule", "the end", "run", "not")


def test_the_older_dialect_is_read_and_marked() -> None:
    read = document(
        "kind: X\nstatus: DRAFT\nfalsification:\n- id: GATE\n  description: bytes\n  evidence: cargo test\n"
        "  discharge_status: PARTIAL_ALGORITHM_LEVEL\n  discharges: AC\n  full_discharge_blocks_on: a live run\n"
    )
    (test,) = read.falsifiers
    assert test.legacy and test.title == "bytes" and test.maturity is Maturity.ALGORITHM
    assert test.evidence[0].texts == ("cargo test",) and test.extras["discharges"] == "AC"
    assert [(blocker.key, blocker.text) for blocker in test.blockers] == [("full_discharge_blocks_on", "a live run")]
    assert read.life_cycle == "DRAFT" and read.extras["kind"] == "X"


def test_what_the_schema_has_no_field_for_is_kept() -> None:
    read = document(SOUND + "five_whys:\n  - q: why\n    a: so\n" + "simd: {avx2: {lanes: 8}}\n")
    assert read.extras["five_whys"] == [{"q": "why", "a": "so"}]
    assert read.extras["simd"] == {"avx2": {"lanes": 8}}


def test_life_cycle_of_the_document_and_maturity_of_a_test_are_apart() -> None:
    read = document(edited("status: ACTIVE", "status: PROPOSED"))
    assert read.life_cycle == "PROPOSED" and read.falsifiers[0].maturity is Maturity.FUNCTIONAL


@pytest.mark.parametrize(
    ("status", "maturity"),
    [
        ("", Maturity.NONE), ("PROPOSED", Maturity.NONE), ("planned", Maturity.NONE),
        ("BLOCKER_FIXTURE_ABSENT", Maturity.BLOCKED), ("BLOCKER_ANYTHING", Maturity.BLOCKED),
        ("PARTIAL_ALGORITHM_LEVEL", Maturity.ALGORITHM), ("ALGORITHM_LEVEL_DISCHARGED", Maturity.ALGORITHM),
        ("FUNCTIONAL", Maturity.FUNCTIONAL), ("DISCHARGED", Maturity.DISCHARGED),
        ("LIVE-DISCHARGED", Maturity.DISCHARGED), ("PASS", Maturity.UNRANKED), ("whatever", Maturity.UNRANKED),
    ],
)  # fmt: skip
def test_statuses_are_ranked_and_unknown_words_are_not(status: str, maturity: Maturity) -> None:
    assert maturity_of(status) is maturity


def test_of_several_claims_the_highest_is_the_status_and_all_are_kept() -> None:
    read = document("falsification_tests:\n- id: A\n  status: FUNCTIONAL\n  status_v1_2_0: PASS\n")
    assert read.falsifiers[0].status == "FUNCTIONAL"
    assert [claim.key for claim in read.falsifiers[0].claims] == ["status", "status_v1_2_0"]


def test_a_check_is_a_name_or_a_name_with_parameters() -> None:
    read = document(
        "falsification_tests:\n- id: A\n  check: byte_format\n- id: B\n  check: {name: sigma_bands, low: 0.5}\n"
        "- id: C\n"
    )
    first, second, third = (test.check for test in read.falsifiers)
    assert first is not None and (first.name, first.parameters) == ("byte_format", {})
    assert second is not None and (second.name, second.parameters) == ("sigma_bands", {"low": 0.5})
    assert third is None


@pytest.mark.parametrize("text", ["falsification_tests: some words\n", "metadata: [a]\n", "equations: 3\n"])
def test_a_section_of_another_shape_is_an_error_with_its_line(text: str) -> None:
    with pytest.raises(ContractError, match=r"sample.yaml:2: \w+: expected a"):
        document("x: 1\n" + text)


def test_a_text_of_a_megabyte_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    with no_hang():
        path.write_text(SOUND.replace("A sample", "x" * (MOST_BYTES - len(SOUND))))
        validate(document_of(read_yaml(path)))
        path.write_text(SOUND.replace("A sample", "x" * MOST_BYTES))
        with pytest.raises(YamlError, match="larger than"):
            read_yaml(path)
        path.write_text(f"? {'x' * 500_000}\n: 1\n? {'y' * 400_000}\n: 1\n")
        validate(document_of(read_yaml(path)))
