"""A promotion changes three places of a contract and no other byte, in whatever form the contract is written."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from aprtui.contracts.changes.promotion import Promotion, next_version, promoted
from aprtui.contracts.documents.document import ContractError, Document, Falsifier
from aprtui.contracts.documents.loading import load_documents
from aprtui.contracts.documents.reader import document_of
from aprtui.contracts.evidence.project import Project
from aprtui.contracts.evidence.stated import missing_parts, stated_level
from aprtui.resources import contracts
from aprtui.yaml_file import parse_yaml
from tests.contracts.evidence_samples import PASSED
from tests.contracts.samples import PATH

BLOCK = """\
# The head stays.
metadata:
  version: "1.9.0"   # bumped by hand until now
  references: [a,   b]

falsification_tests:
  # about the first
  - id: X-1
    # about its rule
    rule:   kept as it is
    status: FUNCTIONAL  # since spring
  - {id: X-2, prediction: p}   # in a line
  - id: 'X-3'
    discharge_status: "PARTIAL_ALGORITHM_LEVEL"
    status_v1_2_0: PASS
"""


def parts(text: str, name: str) -> tuple[Document, Falsifier]:
    document = document_of(parse_yaml(text.lstrip("\ufeff"), PATH))
    return document, next(test for test in document.falsifiers if test.id == name)


def raised(text: str, name: str = "X-1", status: str = "DISCHARGED") -> str:
    document, falsifier = parts(text, name)
    return promoted(text, document, [Promotion(falsifier, status)], "2026-11-27")


def changes(before: str, after: str) -> list[str]:
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line for line in lines if line[0] in "+-"]


LOG = ["+   changelog:", '+     "1.10.0":', '+       - "2026-11-27: X-1 FUNCTIONAL to DISCHARGED"']


def test_status_version_and_changelog_change_and_nothing_else() -> None:
    assert changes(BLOCK, raised(BLOCK)) == [
        '-   version: "1.9.0"   # bumped by hand until now',
        '+   version: "1.10.0"   # bumped by hand until now',
        *LOG,
        "-     status: FUNCTIONAL  # since spring",
        "+     status: DISCHARGED  # since spring",
    ]


def test_several_are_raised_in_one_version_with_their_evidence_beside_them() -> None:
    document = document_of(parse_yaml(BLOCK, PATH))
    one, _, three = document.falsifiers
    there = Promotion(one, "DISCHARGED", PASSED, "contracts/evidence/x/one.json")
    result = promoted(
        BLOCK, document, [there, Promotion(three, "FUNCTIONAL", PASSED, "evidence/three.json")], "2026-11-27"
    )
    raised_too = "X-3 PARTIAL_ALGORITHM_LEVEL to FUNCTIONAL, by three.json"
    measured = "wrong files 0, bound 0; aprtui contracts check sample.yaml --id FALSIFY-1"
    assert changes(BLOCK, result) == [
        '-   version: "1.9.0"   # bumped by hand until now',
        '+   version: "1.10.0"   # bumped by hand until now',
        "+   changelog:",
        '+     "1.10.0":',
        f'+       - "2026-11-27: X-1 FUNCTIONAL to DISCHARGED, by one.json; {raised_too}"',
        "-     status: FUNCTIONAL  # since spring",
        "+     status: DISCHARGED  # since spring",
        "+     live_discharge:",
        '+       date: "2026-11-20"',
        '+       host: "here, a processor"',
        '+       artifact: "m"',
        f'+       artifact_sha256: "{"a" * 64}"',
        '+       command: "aprtui contracts check sample.yaml --id FALSIFY-1"',
        '+       metrics: {"wrong files": 0.0, "bound": 0.0}',
        '+       evidence_file: "contracts/evidence/x/one.json"',
        '-     discharge_status: "PARTIAL_ALGORITHM_LEVEL"',
        '+     discharge_status: "FUNCTIONAL"',
        "+     functional_evidence:",
        f'+       - "PASS 2026-11-20 on here, a processor, m sha256 {"a" * 64}: {measured}"',
        '+       - "Evidence: evidence/three.json"',
    ]
    again = document_of(parse_yaml(result, PATH))
    assert [block.key for test in again.falsifiers for block in test.evidence] == [
        "live_discharge",
        "functional_evidence",
    ]
    block = again.falsifiers[0].evidence[0]
    assert (
        missing_parts(block) == () and stated_level(again.falsifiers[0], Project(Path(), Path())).label == "DISCHARGED"
    )


def test_a_block_that_is_there_stays_as_it_is() -> None:
    text = BLOCK.replace("    rule:   kept as it is", "    live_discharge: {date: 2026-01-01}")
    document = document_of(parse_yaml(text, PATH))
    result = promoted(text, document, [Promotion(document.falsifiers[0], "DISCHARGED", PASSED, "x.json")], "2026-11-27")
    assert result.count("live_discharge") == 1 and "{date: 2026-01-01}" in result


def test_a_status_that_is_not_there_is_added_after_the_id() -> None:
    text = BLOCK.replace("    status: FUNCTIONAL  # since spring\n", "")
    assert changes(text, raised(text))[-1] == "+     status: DISCHARGED"
    assert "  - id: X-1\n    status: DISCHARGED\n    # about its rule\n" in raised(text)


def test_of_two_keys_that_claim_the_one_that_claims_more_is_changed_in_its_quotes() -> None:
    result = raised(BLOCK, "X-3", "FUNCTIONAL")
    assert '    discharge_status: "FUNCTIONAL"\n    status_v1_2_0: PASS\n' in result
    both = BLOCK.replace("    status_v1_2_0: PASS", "    status: PROPOSED")
    assert "status: PROPOSED" in raised(both, "X-3", "FUNCTIONAL")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "changelog:\n    1.9.0:\n    - first\n",
            'changelog:\n    1.10.0:\n      - "2026-11-27: X-1 FUNCTIONAL to DISCHARGED"\n    1.9.0:',
        ),
        (
            "changelog:  # newest first\n    '1.9.0': first\n",
            '# newest first\n    "1.10.0": "2026-11-27: X-1 FUNCTIONAL to DISCHARGED"\n',
        ),
        (
            "changelog:\n  - '1.9.0 - first'\n",
            'changelog:\n  - "1.10.0 - 2026-11-27 - X-1 FUNCTIONAL to DISCHARGED"\n  - \'1.9.0',
        ),
        (
            "changelog:\n    - version: 1.9.0\n      date: 2026-01-01\n      summary: first\n",
            '    - version: "1.10.0"\n      date: "2026-11-27"\n      summary: "X-1 FUNCTIONAL to DISCHARGED"\n',
        ),
        (
            "changelog:\n    - version: 1.9.0\n      changes: [first]\n",
            '    - version: "1.10.0"\n      changes: ["X-1 FUNCTIONAL to DISCHARGED"]\n    - version: 1.9.0\n',
        ),
    ],
)
def test_a_changelog_grows_on_top_in_its_own_form(before: str, after: str) -> None:
    text = BLOCK.replace("  references", f"  {before}  references")
    assert after in raised(text)


def test_line_ends_byte_order_mark_and_a_missing_last_line_end_stay() -> None:
    text = "\ufeff" + BLOCK.replace("\n", "\r\n").removesuffix("\r\n")
    result = raised(text, "X-3", "FUNCTIONAL")
    assert result.startswith("\ufeff# The head") and not result.endswith("\n")
    assert result.count("\n") == result.count("\r\n") == text.count("\n") + 3


def test_a_version_of_two_numbers_stays_text_where_it_could_be_read_as_a_number() -> None:
    assert 'version: "1.10"' in raised(BLOCK.replace('"1.9.0"', "1.9"))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"1.9.0"', "draft", "expected numbers, as 1.2.0"),
        ('  version: "1.9.0"', "  versions: 1", "expected numbers"),
        ("metadata:\n", "metadata: &m\n", None),
        ("  references: [a,   b]", "  changelog: [one]", "no line an entry"),
        ("  references: [a,   b]", "  changelog: {}", "no line an entry"),
        ("  references: [a,   b]", "  changelog: prose", "no line an entry"),
        ("status: FUNCTIONAL  # since spring", "status: |\n      FUNCTIONAL", "not written in one line"),
        ("status: FUNCTIONAL  # since spring", "status: &s FUNCTIONAL\n    name: *s", "edit it by hand"),
        ("rule:   kept as it is", "rule: &s FUNCTIONAL\n    discharge_status: *s", None),
    ],
)
def test_what_cannot_be_edited_in_place_is_refused_with_its_line(old: str, new: str, problem: str | None) -> None:
    assert old in BLOCK
    text = BLOCK.replace(old, new, 1)
    if problem is None:
        assert raised(text)
        return
    with pytest.raises(ContractError, match=problem) as caught:
        raised(text)
    assert caught.value.line is not None


def test_an_alias_of_the_status_is_not_changed_at_its_anchor() -> None:
    text = BLOCK.replace(
        "    rule:   kept as it is\n    status: FUNCTIONAL  # since spring", "    rule: &s FUNCTIONAL\n    status: *s"
    )
    with pytest.raises(ContractError, match="edit it by hand"):
        raised(text)


def test_an_entry_in_a_line_is_refused_where_a_line_would_be_added_and_edited_where_not() -> None:
    with pytest.raises(ContractError, match="has no line of its own"):
        raised(BLOCK, "X-2")
    text = BLOCK.replace("{id: X-2, prediction: p}", "{id: X-2, prediction: p, status: PROPOSED}")
    assert "  - {id: X-2, prediction: p, status: DISCHARGED}   # in a line\n" in raised(text, "X-2")


def test_an_entry_that_its_section_names_gets_its_status_after_what_stands_first() -> None:
    text = "metadata: \n  version: 1.0.0\nfalsification_tests:\n  X-1:\n    rule: a\n    name: b\n  X-2: {}\n"
    assert "  X-1:\n    rule: a\n    status: DISCHARGED\n    name: b\n" in raised(text)
    with pytest.raises(ContractError, match="edit it by hand"):
        raised(text, "X-2")


def test_our_own_contracts_are_promoted_in_six_lines_at_most() -> None:
    for document in load_documents([contracts()]).readable:
        promote_each(document)


@pytest.mark.group("conformance")
def test_real_contracts_are_promoted_in_six_lines_at_most(conformance: Path) -> None:
    done = sum(promote_each(document) for document in load_documents([conformance / "contracts"]).readable)
    assert done > 70


def promote_each(document: Document) -> int:
    text = document.path.read_bytes().decode()
    done = 0
    for test in {test.id: test for test in (*document.falsifiers[:1], *document.falsifiers[-1:])}.values():
        if not document.metadata.version or test.status == "DISCHARGED":
            continue
        result = promoted(text, document, [Promotion(test, "DISCHARGED")], "2026-11-27")
        changed = changes(text, result)
        assert len(changed) <= 7 and sum(line[0] == "-" for line in changed) <= 2, (document.path, test.id, changed)
        read = document_of(parse_yaml(result, document.path))
        assert read.metadata.version == next_version(document) and len(read.falsifiers) == len(document.falsifiers)
        done += 1
    return done
