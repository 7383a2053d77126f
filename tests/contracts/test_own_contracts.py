"""Our own contracts are well formed, and each of their falsifiers is judged on the captures that its test makes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from aprtui.cli.main import main
from aprtui.compare.verdict import Verdict
from aprtui.contracts.checks.arguments import CheckSubject
from aprtui.contracts.checks.judgement import NO_DEVICE
from aprtui.contracts.documents.document import Document, Falsifier, Maturity
from aprtui.contracts.documents.loading import load_documents
from aprtui.contracts.documents.validation import validate
from aprtui.contracts.evaluation import evaluate
from aprtui.engine.cuda import detect
from aprtui.errors import ExitCode
from aprtui.model.model import Model, load_model
from aprtui.resources import contracts, embedded_model
from aprtui.trace.capture import Capture
from tests.contracts.own_captures import captures_of, filled, plain_model, wants_plain_model

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
    def run(words: tuple[str, ...]) -> Path | None:
        directory = tmp_path_factory.mktemp("own") / "capture"
        with pytest.raises(SystemExit) as ended:
            main(filled(words, directory))
        # A test of a backend that this machine lacks makes no capture, and its falsifier must say so.
        assert ended.value.code in (ExitCode.PASS, ExitCode.ENGINE), words
        return directory if ended.value.code == ExitCode.PASS else None

    def captures(test: str) -> dict[str, Path]:
        found = {side: run(words) for side, words in captures_of(test)}
        return {side: path for side, path in found.items() if path is not None}

    return captures


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """The model that a `test` text is about."""
    embedded = load_model(embedded_model())
    plain = load_model(plain_model(tmp_path_factory.mktemp("own") / "plain.gguf"))
    return lambda test: plain if wants_plain_model(test) else embedded


@pytest.mark.parametrize(("document", "falsifier"), FALSIFIERS, ids=[test.id for _, test in FALSIFIERS])
def test_what_claims_to_work_holds_and_what_waits_is_unknown(  # type: ignore[no-untyped-def]
    document: Document, falsifier: Falsifier, made, models: Callable[[str], Model]
) -> None:
    captures = {side: Capture.open(path) for side, path in made(falsifier.test).items()}
    subject = CheckSubject(captures.get("CAPTURE"), captures.get("REFERENCE"), models(falsifier.test))
    judgement = None if falsifier.check is None else evaluate(document, falsifier.check, subject)
    if falsifier.maturity >= Maturity.FUNCTIONAL:
        assert judgement is not None, "no check is bound"
        if judgement.reason.startswith(NO_DEVICE):
            pytest.skip(f"group gpu: {judgement.reason}")  # so that the run's end lists it
        assert judgement.verdict is Verdict.PASS, judgement
        assert judgement.number is not None and judgement.bound is not None, judgement
    elif judgement is not None and judgement.verdict is Verdict.PASS and detect.detect().device is not None:
        # It waited for such a machine; evidence that is recorded here can raise it.
        warnings.warn(f"{falsifier.id} {falsifier.status} holds here: make evidence IDS={falsifier.id}", stacklevel=1)
    else:
        assert judgement is None or judgement.verdict is Verdict.UNKNOWN, f"{judgement}: raise the status, or fix it"
