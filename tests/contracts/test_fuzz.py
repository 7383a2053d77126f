"""Whatever a contract or evidence holds, all that reads it answers or refuses with a typed error, within bounds."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aprtui.cli.contracts.lint import options_by_command
from aprtui.cli.main import cli
from aprtui.contracts.changes.difference import changes
from aprtui.contracts.changes.promotion import Promotion, promoted
from aprtui.contracts.documents.document import Document
from aprtui.contracts.documents.reader import document_of
from aprtui.contracts.documents.validation import validate
from aprtui.contracts.evidence.assessment import Ledger
from aprtui.contracts.evidence.files import FORMAT, VERSION, EvidenceFile, RecordedEvidence, read_evidence, sealed
from aprtui.contracts.evidence.project import Project
from aprtui.contracts.lint.rules import LintContext, lint
from aprtui.contracts.panel import panel
from aprtui.contracts.rollup import assess_falsifiers, levels, waits
from aprtui.errors import AprtuiError, UnreadableError
from aprtui.trace.json_value import json_value
from aprtui.yaml_file import YamlError, parse_yaml
from tests.contracts.evidence_samples import PASSED
from tests.contracts.samples import PATH, SOUND, document
from tests.test_yaml_file import HOSTILE

FIELDS = """    status: FUNCTIONAL
    check: {name: cosine_floor, stages: [lm_head], layers: 0..2, at_least: 0.99}
    binds_to: [scaled]
    vouches_for: [aprtui/errors.py]
    full_discharge_blocks_on: FALSIFY-2 holds
    algorithm_evidence: {file_paths: [a.py], function_names: [f]}
    live_discharge: {date: 2026-11-20, evidence_file: evidence/x.json}
"""
FULL = SOUND.replace("    status: FUNCTIONAL\n", FIELDS, 1)
OLD = document(FULL)
OPTIONS = options_by_command(cli)
YAML_PIECES = st.sampled_from(
    [
        "metadata:", "equations:", "proof_obligations:", "falsification_tests:", "falsification:", "kani_harnesses:",
        "qa_gate:", "  ", "- ", "\n", "id: X", "status: ", "check: ", "&a ", "*a", "[", "]", "{", "}", "!!map ",
        "!!python/none ", "? ", ": ", "| ", "> ", "'", '"', "#", "---\n", "...\n", "<<: ", "\t", "é", "\x00", "1e999",
        "version: ", "algorithm_evidence:", "binds_to: ",
    ]
)  # fmt: skip
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
SECTION = st.sampled_from(
    ["metadata", "equations", "proof_obligations", "falsification_tests", "falsification", "kani_harnesses", "qa_gate",
     "enforcement", "kind"]
)  # fmt: skip
ODD = st.sampled_from(
    ["", " ", "\n", "0", "-1", "1e999", "../..", "/", "\0", "a\0b", "é", "*", "[", "{", "BLOCKER_", "x" * 5000]
)
VALUES = DOCUMENTS | ODD


def paths_in(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a document."""
    if path:
        yield path
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        yield from paths_in(value, (*path, key))


PLAIN = yaml.safe_load(FULL)
PATHS = list(paths_in(PLAIN))


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """The full contract with one to three of its values replaced."""
    tree = deepcopy(PLAIN)
    for path in draw(st.lists(st.sampled_from(PATHS), min_size=1, max_size=3, unique=True)):
        with suppress(KeyError, IndexError, TypeError):  # an earlier one may have taken the way to it
            reduce(getitem, path[:-1], tree)[path[-1]] = draw(VALUES)
    return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)


def read_by_all(text: str, ledger: Ledger) -> None:
    """Hand a text to everything that reads contracts."""
    try:
        read = document_of(parse_yaml(text, PATH))
    except YamlError as error:
        assert "\n" not in str(error)
        return
    validate(read)
    lint(read, LintContext(options=OPTIONS, ledgers={read.path: ledger}))
    tuple(panel(read, ledger=ledger))
    levels(assess_falsifiers([read], {read.path: ledger}))
    waits([read, OLD])
    changes(OLD, read)
    assert changes(read, read) == ()
    promote_all(read, text)


def promote_all(read: Document, text: str) -> None:
    for test in read.falsifiers:
        if read.duplicates:
            return
        try:
            result = promoted(text, read, [Promotion(test, "DISCHARGED")], "2026-11-27")
        except YamlError:
            continue
        after = document_of(parse_yaml(result, PATH))
        changed = {(change.section, change.field) for change in changes(read, after)}
        assert changed <= {("falsifier", "status")}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    files = (EvidenceFile(Path("x.json"), PASSED),)
    return Ledger(Project(tmp_path_factory.mktemp("project"), Path("evidence")), RecordedEvidence({"FALSIFY-1": files}))


LOOSE = settings(max_examples=150, deadline=3000, suppress_health_check=[HealthCheck.too_slow])


@LOOSE
@given(text=mutated())
def test_a_contract_with_odd_values_is_read_by_all_or_refused(ledger: Ledger, text: str) -> None:
    read_by_all(text, ledger)


@LOOSE
@given(tree=st.dictionaries(SECTION, DOCUMENTS))
def test_a_random_document_is_read_by_all_or_refused(ledger: Ledger, tree: dict[str, object]) -> None:
    read_by_all(yaml.safe_dump(tree, allow_unicode=True), ledger)


@settings(max_examples=400, deadline=3000)
@given(text=st.lists(YAML_PIECES | st.text(max_size=6), max_size=40).map("".join))
def test_random_text_is_read_by_all_or_refused(ledger: Ledger, text: str) -> None:
    read_by_all(text, ledger)


@LOOSE
@given(name=st.sampled_from(list(asdict(PASSED))), value=VALUES)
def test_an_evidence_file_with_an_odd_value_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, ledger: Ledger, name: str, value: object
) -> None:
    path = tmp_path_factory.mktemp("odd") / "x.json"
    written = {"format": FORMAT, "version": VERSION, **asdict(PASSED), name: value}
    path.write_text(json.dumps(sealed(json_value(written))), encoding="utf-8")
    try:
        evidence = read_evidence(path)
    except UnreadableError as error:
        assert "\n" not in str(error)
        return
    recorded = RecordedEvidence({"FALSIFY-1": (EvidenceFile(path, evidence),)})
    Ledger(ledger.project, recorded).assess(OLD.falsifiers[0], OLD.falsifiers[0].check)


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_takes_little_memory(case: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(AprtuiError):
            parse_yaml(HOSTILE[case][0], PATH).mapping("a mapping")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 64 << 20
