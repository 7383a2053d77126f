"""Our own contracts are well formed, and every falsifier of theirs is judged on the captures that its test makes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from aprtui.cli.main import main
from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks.asked import Subject
from aprtui.contracts.document import Document, Falsifier
from aprtui.contracts.loading import load_documents
from aprtui.contracts.panel import panel_row
from aprtui.contracts.validation import validate
from aprtui.resources import contracts
from aprtui.trace.capture import Capture
from tests.contracts.own_captures import captures_of, filled

DOCUMENTS = load_documents([contracts()])
FALSIFIERS = [(document, test) for document in DOCUMENTS.readable for test in document.falsifiers]


def test_all_are_read_and_valid() -> None:
    assert DOCUMENTS.error is None and all(loaded.error is None for loaded in DOCUMENTS.files)
    assert [finding for document in DOCUMENTS.readable for finding in validate(document)] == []
    assert len(FALSIFIERS) == len({test.id for _, test in FALSIFIERS}) > 10


def test_each_is_in_the_folder_s_table() -> None:
    table = (contracts() / "README.md").read_text()
    for document in DOCUMENTS.readable:
        assert f"[{document.name}]({document.path.name})" in table


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """Makes the captures of a `test` text, each command once in the module: CAPTURE and REFERENCE."""

    @cache
    def run(words: tuple[str, ...]) -> Path:
        directory = tmp_path_factory.mktemp("own") / "capture"
        with pytest.raises(SystemExit) as ended:
            main(filled(words, directory))
        assert ended.value.code == 0, words
        return directory

    def captures(test: str) -> dict[str, Path]:
        found = {}
        for side, words in captures_of(test):
            found[side] = run(words)
        return found

    return captures


@pytest.mark.parametrize(("document", "falsifier"), FALSIFIERS, ids=[test.id for _, test in FALSIFIERS])
def test_every_falsifier_holds(document: Document, falsifier: Falsifier, made) -> None:  # type: ignore[no-untyped-def]
    captures = {side: Capture.open(path) for side, path in made(falsifier.test).items()}
    subject = Subject(captures["CAPTURE"], captures.get("REFERENCE"))
    judgement = panel_row(document, falsifier, subject, mapping={}).judgement
    assert judgement is not None, "no check is bound"
    assert judgement.verdict is Verdict.PASS, judgement
