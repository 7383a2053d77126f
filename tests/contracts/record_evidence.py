"""Record evidence for our own contracts: of falsifiers without fresh evidence, or of those whose ids match globs.

Each falsifier is judged by the command that a person would give, on captures that its `test` makes, so that the
evidence says what was done. Commit what is to be vouched for first: evidence of a dirty tree cannot carry DISCHARGED.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from aprtui.contracts.documents.document import Document, Falsifier, Maturity
from aprtui.contracts.documents.loading import load_documents
from aprtui.contracts.evidence.assessment import Standing, ledger_of
from aprtui.errors import ExitCode
from tests.conftest import CHECKOUT
from tests.contracts.own_captures import captures_of, filled, plain_model, wants_plain_model

WORK = Path("build") / "evidence"


def record(document: Document, falsifier: Falsifier) -> int:
    """Make the captures of one falsifier and record the judgement of its check; returns the exit code."""
    sides: list[str] = []
    for side, words in captures_of(falsifier.test):
        directory = WORK / falsifier.id / side.lower()
        shutil.rmtree(CHECKOUT / directory, ignore_errors=True)
        if _aprtui(*filled(words, directory)) == ExitCode.PASS:
            sides += [f"--{side.lower()}", str(directory)]
    if wants_plain_model(falsifier.test):
        sides += ["--model", str(plain_model(CHECKOUT / WORK / "plain.gguf").relative_to(CHECKOUT))]
    contract = str(document.path.relative_to(CHECKOUT))
    return _aprtui("contracts", "check", contract, "--id", falsifier.id, *sides, "--record")


def is_fresh(document: Document, falsifier: Falsifier) -> bool:
    """Whether the newest evidence is a PASS that still holds."""
    assessment = ledger_of(document).assess(falsifier, falsifier.check)
    return assessment.newest is not None and assessment.newest.standing is Standing.FRESH and not assessment.refuted


def _aprtui(*words: str) -> int:
    return subprocess.run([sys.executable, "-m", "aprtui", *words], cwd=CHECKOUT, check=False).returncode


def main(globs: list[str]) -> int:
    """Record the selected falsifiers; returns 1 where one that claims to work does not hold."""
    found = [
        (document, test)
        for document in load_documents([CHECKOUT / "contracts"]).readable
        for test in document.falsifiers
        if (any(fnmatchcase(test.id, glob) for glob in globs) if globs else not is_fresh(document, test))
    ]
    codes = [(test, record(document, test)) for document, test in found]
    return int(any(code != ExitCode.PASS for test, code in codes if test.maturity >= Maturity.FUNCTIONAL))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
