"""Reverse coverage: our commands and stages that no falsifier binds, and that therefore never fail.

A falsifier binds a command where its test runs it, and stages where its check names them; a check of captures that
names no stages binds all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from os.path import commonpath
from pathlib import Path

from aprtui.contracts.checks.arguments import named_stages
from aprtui.contracts.checks.registry import CHECKS, CaptureCheck, PairCheck
from aprtui.contracts.documents.document import Document, Falsifier
from aprtui.contracts.documents.validation import Finding, Severity
from aprtui.contracts.lint.rules import PROGRAM, command_of_ours, words_of_ours
from aprtui.errors import UsageError
from aprtui.trace.graph import known_names

COMMAND, STAGE = "LINT-101", "LINT-102"

COVERAGE_RULES = {
    COMMAND: "every command of ours is run by the test of a falsifier",
    STAGE: "every stage is bound by the check of a falsifier",
}
"""What each code demands."""


def reverse_coverage(documents: Sequence[Document], commands: Collection[str]) -> tuple[Finding, ...]:
    """Those of `commands` and of the stages that no falsifier of `documents` binds.

    A finding is about all of the documents: it points at the folder that holds them, or at the only file.
    """
    if not documents:
        return ()
    falsifiers = [test for document in documents for test in document.falsifiers]
    run = {command for test in falsifiers for command in _commands(test, commands)}
    bound = {stage for test in falsifiers for stage in _stages(test)}
    missing = [(COMMAND, f"no falsifier runs {PROGRAM} {command}") for command in commands if command not in run]
    missing += [(STAGE, f"no falsifier binds the stage {stage}") for stage in known_names() if stage not in bound]
    place = _common([document.path for document in documents])
    return tuple(Finding(code, Severity.INFO, message, place, 1) for code, message in missing)


def _common(paths: list[Path]) -> Path:
    mixed = len({path.is_absolute() for path in paths}) > 1
    return Path(commonpath([path.absolute() for path in paths] if mixed else paths))


def _commands(test: Falsifier, commands: Collection[str]) -> Iterator[str]:
    for line in test.test.splitlines():
        words = words_of_ours(line)
        command = None if words is None else command_of_ours(words, commands)
        if command is not None:
            yield command


def _stages(test: Falsifier) -> Iterator[str]:
    check = None if test.check is None else CHECKS.get(test.check.name)
    if test.check is None or not isinstance(check, CaptureCheck | PairCheck):
        return
    try:
        names = named_stages(test.check.parameters) or check.stages or ("*",)
    except UsageError:
        return  # evaluation reports what is wrong with the parameters
    yield from (stage for stage in known_names() if any(fnmatchcase(stage, name) for name in names))
