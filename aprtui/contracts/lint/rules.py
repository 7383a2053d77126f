"""Drift that validation cannot see: what a contract names and is not there, and claims without what backs them.

What lies outside of a contract is handed in: a source tree, and the options that our commands take.
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterator

from aprtui.contracts.checks.registry import CHECKS
from aprtui.contracts.documents.document import Document, Falsifier
from aprtui.contracts.documents.finding import Finding, Severity
from aprtui.contracts.documents.maturity import Maturity
from aprtui.contracts.evidence.assessment import ALGORITHM_EVIDENCE
from aprtui.contracts.lint.evidence_rules import EVIDENCE_RULES, backings
from aprtui.contracts.lint.named_tests import missing_tests
from aprtui.contracts.lint.rule import Breaches, LintRule, Surroundings

PROGRAM = "aprtui"
_NUMBERED = re.compile(r"(.*\D)(\d+)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:::[A-Za-z_][A-Za-z0-9_]*)*")


def lint(document: Document, surroundings: Surroundings) -> tuple[Finding, ...]:
    """Every breach of a rule, in the order of `LINT_RULES`."""
    return tuple(
        Finding(rule.code, rule.severity, message, document.path, line)
        for rule in LINT_RULES
        for line, message in rule.find(document, surroundings)
    )


def _orphan_binding(document: Document, surroundings: Surroundings) -> Breaches:
    names = {equation.name for equation in document.equations}
    for test in document.falsifiers:
        for name in test.binds_to:
            if name not in names:
                yield test.line_of("binds_to"), f"{test.id}: binds to {name!r}, no equation is called so"


def _orphan_harness(document: Document, surroundings: Surroundings) -> Breaches:
    known = {obligation.id for obligation in document.obligations}
    known |= {obligation.property for obligation in document.obligations}
    for harness in document.harnesses:
        if harness.obligation and harness.obligation not in known:
            yield harness.line_of("obligation"), f"{harness.id}: no obligation is {harness.obligation!r:.60}"


def _gap_in_ids(document: Document, surroundings: Surroundings) -> Breaches:
    numbers: dict[str, dict[int, Falsifier]] = defaultdict(dict)
    for test in document.falsifiers:
        match = _NUMBERED.fullmatch(test.id)
        if match and len(match[2]) <= 4:
            numbers[match[1]][int(match[2])] = test
    for prefix, found in numbers.items():
        before = None
        for number in sorted(found):
            if before is not None and number > before + 1:
                yield (
                    found[number].line_of("id"),
                    f"{prefix}{before:03d} is followed by {found[number].id}: what lay between is not told",
                )
            before = number


def _claims_too_much(document: Document, surroundings: Surroundings) -> Breaches:
    recorded = {test.id for test, backing in backings(document, surroundings) if backing.ever >= Maturity.FUNCTIONAL}
    for test in document.falsifiers:
        if test.id in recorded:
            continue
        live = [entry for entry in test.evidence if entry.key != ALGORITHM_EVIDENCE and (entry.texts or entry.parts)]
        for claim in test.claims:
            if claim.maturity >= Maturity.FUNCTIONAL and not live:
                yield claim.line, f"{test.id}: {claim.key} {claim.status} without evidence of a live run"


def _unknown_check(document: Document, surroundings: Surroundings) -> Breaches:
    for test in document.falsifiers:
        if test.check is not None and test.check.name not in CHECKS:
            yield test.line_of("check"), f"{test.id}: no check is called {test.check.name!r:.40}"


def _missing_option(document: Document, surroundings: Surroundings) -> Breaches:
    for test in document.falsifiers:
        problems = (problem for line in test.test.splitlines() for problem in _option_problems(line, surroundings))
        for problem in dict.fromkeys(problems):
            yield test.line_of("test", "command"), f"{test.id}: {problem}"


def _option_problems(line: str, surroundings: Surroundings) -> Iterator[str]:
    words = words_of_ours(line)
    if words is None or not surroundings.options:
        return
    name = command_of_ours(words, surroundings.options)
    if name is None:
        yield f"{PROGRAM} has no command {' '.join(words[:1])!r:.40}"
        return
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("-") and option not in surroundings.options[name] and not _is_number(option):
            yield f"{PROGRAM} {name} has no option {option:.40}"


def words_of_ours(line: str) -> list[str] | None:
    """The words after `aprtui` where `line` is a command line of ours; None where it is something else."""
    try:
        written = shlex.split(line)
    except ValueError:
        return None
    return written[1:] if written[:1] == [PROGRAM] else None


def command_of_ours(words: list[str], commands: Collection[str]) -> str | None:
    """Which of `commands` (`trace`, `contracts check`) the words begin with."""
    return next((name for count in (2, 1) if (name := " ".join(words[:count])) in commands), None)


def _is_number(word: str) -> bool:
    return word[1:2].isdigit() or word == "-"


def _missing_file(document: Document, surroundings: Surroundings) -> Breaches:
    if surroundings.source is None:
        return
    for test in document.falsifiers:
        for entry in test.evidence:
            for path in entry.parts.get("file_paths", ()):
                # Prose may follow a path: `scripts/x/  (PR #1)`.
                written = path.split()[0] if path.split() else ""
                if written and not surroundings.source.has_file(written):
                    yield entry.line, f"{test.id}: there is no file {written:.80}"


def _missing_function(document: Document, surroundings: Surroundings) -> Breaches:
    if surroundings.source is None:
        return
    for test in document.falsifiers:
        for entry in test.evidence:
            for name in entry.parts.get("function_names", ()):
                match = _NAME.match(name.strip())
                last = match[0].rpartition("::")[2] if match else ""
                if last and not surroundings.source.has_name(last):
                    yield entry.line, f"{test.id}: no code names {last:.80}"


def _missing_test(document: Document, surroundings: Surroundings) -> Breaches:
    if surroundings.source is None:
        return
    for test in document.falsifiers:
        for problem in dict.fromkeys(missing_tests(test.test, surroundings.source)):
            yield test.line_of("test", "command"), f"{test.id}: {problem}"


_E, _W = Severity.ERROR, Severity.WARN

LINT_RULES: tuple[LintRule, ...] = (
    LintRule("LINT-001", _W, "binds_to names an equation", _orphan_binding),
    LintRule("LINT-002", _W, "a harness names an obligation, by id or property", _orphan_harness),
    LintRule("LINT-003", _W, "ids of falsifiers have no gaps", _gap_in_ids),
    LintRule("LINT-004", _W, "a status of FUNCTIONAL or more has evidence of a live run", _claims_too_much),
    LintRule("LINT-005", _E, "a check exists", _unknown_check),
    LintRule("LINT-006", _E, "commands of ours in a test, and their options, exist", _missing_option),
    LintRule("LINT-007", _E, "files of the evidence are in the source tree", _missing_file),
    LintRule("LINT-008", _E, "functions of the evidence are named in the code of the source tree", _missing_function),
    LintRule("LINT-015", _W, "tests of cargo and pytest that a falsifier runs are in the source tree", _missing_test),
    *EVIDENCE_RULES,
)
