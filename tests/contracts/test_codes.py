"""Every code has one row, and the document has the rows of the program."""

from __future__ import annotations

import json
from collections.abc import Callable

from aprtui.contracts.codes import CODES
from aprtui.contracts.documents.kinds import KIND_RULES
from aprtui.contracts.suppression import NOT_HIDDEN
from tests.cli.conftest import Outcome
from tests.conftest import CHECKOUT
from tests.contracts.test_pv_mutants import MUTANTS

DOCUMENT = CHECKOUT / "docs" / "contract-codes.md"


def test_the_document_has_the_table_of_the_program() -> None:
    rows = [
        f"| {known.code} | {known.severity.lower()} | {known.command} | {known.states} | {known.fix} |"
        for known in CODES.values()
    ]
    written = [
        line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ") and not line.startswith("| code |")
    ]
    assert written == rows


def test_every_code_of_a_kind_is_raised_by_a_mutant() -> None:
    raised = {code for _, codes in MUTANTS.values() for code in codes}
    assert set(KIND_RULES) <= raised
    assert raised <= set(CODES)


def test_what_cannot_be_hidden_exists() -> None:
    assert set(CODES) >= NOT_HIDDEN


def test_a_code_is_explained_and_an_unknown_one_has_its_nearest_offered(aprtui: Callable[..., Outcome]) -> None:
    done = aprtui("contracts", "explain", "lint-012")
    assert done.code == 0 and "LINT-012  ERROR  (lint)\n  sound: no FAIL refutes a claim\n  fix:   change a" in done.out
    done = aprtui("contracts", "explain", "LINT-0012")
    assert done.code == 2 and "no code is called 'LINT-0012': did you mean LINT-012?" in done.err
    records = [json.loads(line) for line in aprtui("contracts", "explain", "--json").out.splitlines()]
    assert [record["code"] for record in records] == list(CODES)
