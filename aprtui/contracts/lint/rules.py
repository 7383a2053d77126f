"""Drift that validation cannot see: names of things that do not exist, claims without evidence, and (reverse coverage)
our commands and stages that no falsifier binds, and that therefore never fail.

The caller passes in everything outside of the contract: a source tree, the options of our commands, and the evidence.
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import pairwise
from os.path import commonpath
from pathlib import Path

from aprtui.contracts.checks.arguments import known_stages, named_stages
from aprtui.contracts.checks.claimed import claim_texts, looser_than_claimed
from aprtui.contracts.checks.mapping import check_of, own_mapping
from aprtui.contracts.checks.registry import CHECKS, CaptureCheck, PairCheck
from aprtui.contracts.checks.vacuous import why_vacuous
from aprtui.contracts.documents.document import Claim, Document, Falsifier, Maturity, nearest_status
from aprtui.contracts.documents.shape import SECTIONS
from aprtui.contracts.documents.validation import Breaches, Finding, Severity
from aprtui.contracts.evidence.assessment import Assessment, Ledger, Standing
from aprtui.contracts.evidence.stated import ALGORITHM_EVIDENCE, EVIDENCE_FILE
from aprtui.contracts.source_tree import NAME_PATH, SourceTree, missing_tests
from aprtui.errors import UsageError
from aprtui.trace.graph.names import known_names

PROGRAM = "aprtui"
_TEST_NAME = re.compile(r"(?:test|prop|proptest|falsify)_\w+")
_NUMBERED = re.compile(r"(.*\D)(\d+)")


@dataclass(frozen=True, slots=True)
class LintContext:
    """Everything outside of a contract that rules compare it with.

    `options` are the options of each of our commands, by its words (`trace`, `contracts check`). `ledgers` are the
    recorded evidence, by the contract's path. Rules about a thing that is not given find nothing.
    """

    source: SourceTree | None = None
    options: Mapping[str, frozenset[str]] = field(default_factory=dict)
    ledgers: Mapping[Path, Ledger] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LintRule:
    """A rule: it `states` what holds of a sound contract, `fix` says what to do where it does not, and `find` yields
    line and message for every breach."""

    code: str
    severity: Severity
    states: str
    fix: str
    find: Callable[[Document, LintContext], Breaches]


def lint(document: Document, context: LintContext) -> tuple[Finding, ...]:
    """Every breach of a rule, in the order of `LINT_RULES`."""
    return tuple(
        Finding(rule.code, rule.severity, message, document.path, line)
        for rule in LINT_RULES
        for line, message in rule.find(document, context)
    )


def _orphan_binding(document: Document, context: LintContext) -> Breaches:
    names = {equation.name for equation in document.equations}
    for test in document.falsifiers:
        for name in test.binds_to:
            if name not in names:
                yield test.line_of("binds_to"), f"{test.id}: binds to {name!r}, but no equation has that name"


def _orphan_harness(document: Document, context: LintContext) -> Breaches:
    ids = {obligation.id for obligation in document.obligations} - {""}
    known = ids | {obligation.property for obligation in document.obligations}
    orphans = [harness for harness in document.harnesses if harness.obligation and harness.obligation not in known]
    if len(orphans) > 1 and not ids:
        named = f"{orphans[0].id} and {len(orphans) - 1} more harnesses name obligations, {orphans[0].obligation!r:.40}"
        yield orphans[0].line_of("obligation"), f"{named} and so on, but no obligation has an id"
        return
    for harness in orphans:
        yield harness.line_of("obligation"), f"{harness.id}: no obligation is {harness.obligation!r:.60}"


def _gap_in_ids(document: Document, context: LintContext) -> Breaches:
    numbers: dict[str, dict[int, Falsifier]] = defaultdict(dict)
    for test in document.falsifiers:
        match = _NUMBERED.fullmatch(test.id)
        if match and len(match[2]) <= 4:
            numbers[match[1]][int(match[2])] = test
    for prefix, found in numbers.items():
        for before, number in pairwise(sorted(found)):
            if number > before + 1:
                gap = f"{prefix}{before:03d} is followed by {found[number].id}"
                yield found[number].line_of("id"), f"{gap}: the ids between are not explained"


def _claims_too_much(document: Document, context: LintContext) -> Breaches:
    recorded = {
        test.id for test, assessment in _assessments(document, context) if assessment.ever >= Maturity.FUNCTIONAL
    }
    for test in document.falsifiers:
        if test.id in recorded:
            continue
        live = [entry for entry in test.evidence if entry.key != ALGORITHM_EVIDENCE and (entry.texts or entry.parts)]
        for claim in test.claims:
            if claim.maturity >= Maturity.FUNCTIONAL and not live:
                yield claim.line, f"{test.id}: {claim.key} {claim.status} without evidence of a live run"


def _unknown_check(document: Document, context: LintContext) -> Breaches:
    for test in document.falsifiers:
        if test.check is not None and test.check.name not in CHECKS:
            yield test.line_of("check"), f"{test.id}: no check is called {test.check.name!r:.40}"


def _vacuous_check(document: Document, context: LintContext) -> Breaches:
    for test in document.falsifiers:
        check = check_of(test, own_mapping())
        if check is not None and (vacuous := why_vacuous(check)):
            yield test.line_of("check", "id"), f"{test.id}: its check {check.name} is vacuous: {vacuous}"


def _looser_check(document: Document, context: LintContext) -> Breaches:
    for test in document.falsifiers:
        check = check_of(test, own_mapping())
        if check is not None and (looser := looser_than_claimed(check, claim_texts(document.equations, test))):
            yield test.line_of("check", "id"), f"{test.id}: {looser}"


def _missing_option(document: Document, context: LintContext) -> Breaches:
    for test in document.falsifiers:
        problems = (problem for line in test.test.splitlines() for problem in _option_problems(line, context))
        for problem in dict.fromkeys(problems):
            yield test.line_of("test", "command"), f"{test.id}: {problem}"


def _option_problems(line: str, context: LintContext) -> Iterator[str]:
    words = _words_of_ours(line)
    if words is None or not context.options:
        return
    name = _command_of_ours(words, context.options)
    if name is None:
        yield f"{PROGRAM} has no command {' '.join(words[:1])!r:.40}"
        return
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("-") and option not in context.options[name] and not _is_number(option):
            yield f"{PROGRAM} {name} has no option {option:.40}"


def _words_of_ours(line: str) -> list[str] | None:
    """The words after `aprtui` in a command line of ours; None for any other line."""
    try:
        written = shlex.split(line)
    except ValueError:
        return None
    return written[1:] if written[:1] == [PROGRAM] else None


def _command_of_ours(words: list[str], commands: Collection[str]) -> str | None:
    """The one of `commands` (`trace`, `contracts check`) that the words begin with."""
    return next((name for count in (2, 1) if (name := " ".join(words[:count])) in commands), None)


def _is_number(word: str) -> bool:
    return word[1:2].isdigit() or word == "-"


def _missing_file(document: Document, context: LintContext) -> Breaches:
    if context.source is None:
        return
    for test in document.falsifiers:
        for entry in test.evidence:
            for path in entry.parts.get("file_paths", ()):
                # Prose may follow a path: `scripts/x/  (PR #1)`.
                written = path.split()[0] if path.split() else ""
                if written and not context.source.has_file(written):
                    yield entry.line, f"{test.id}: there is no file {written:.80}"


def _missing_function(document: Document, context: LintContext) -> Breaches:
    if context.source is None:
        return
    for test in document.falsifiers:
        for entry in test.evidence:
            for name in entry.parts.get("function_names", ()):
                match = NAME_PATH.match(name.strip())
                last = match[0].rpartition("::")[2] if match else ""
                if last and not context.source.has_name(last):
                    near = context.source.nearest_name(last)
                    yield (
                        entry.line,
                        f"{test.id}: no code names {last:.80}" + (f": did you mean {near}?" if near else ""),
                    )


def _missing_test(document: Document, context: LintContext) -> Breaches:
    if context.source is None:
        return
    for test in document.falsifiers:
        harness = test.extras.get("test_harness")
        text = f"{test.test}\n{harness if isinstance(harness, str) else ''}"
        for problem in dict.fromkeys(missing_tests(text, context.source)):
            yield test.line_of("test", "command", "test_harness"), f"{test.id}: {problem}"
        if _TEST_NAME.fullmatch(test.name) and not context.source.has_name(test.name):
            yield test.line_of("name"), f"{test.id}: no code names the test {test.name:.80}"


def _wrong_discharge(document: Document, context: LintContext) -> Breaches:
    if context.source is None:
        return
    for test in document.falsifiers:
        for entry in test.evidence:
            for text in entry.texts if entry.key == "evidence_discharged_by" else ():
                path = text.split()[0] if text.split() else ""
                if "/" in path and "." in path.rpartition("/")[2] and not context.source.has_file(path):
                    yield entry.line, f"{test.id}: there is no file {path:.80}"
                for problem in dict.fromkeys(missing_tests(text, context.source)):
                    yield entry.line, f"{test.id}: {problem}"


def _misspelt_status(document: Document, context: LintContext) -> Breaches:
    for test in document.falsifiers:
        for claim in test.claims:
            if claim.maturity is Maturity.UNRANKED and (near := nearest_status(claim.status)):
                yield claim.line, f"{test.id}: {claim.key} {claim.status!r:.40}: did you mean {near}?"


def _unread_tests(document: Document, context: LintContext) -> Breaches:
    for section in ("falsification_conditions", "tests"):
        entries = document.extras.get(section)
        if isinstance(entries, list | dict) and entries:
            what = f"{section} holds {len(entries)} that no falsifier is made of"
            yield document.line_of(section), f"{what}: move them to falsification_tests"


def _near_section(document: Document, context: LintContext) -> Breaches:
    for key in document.keys:
        near = () if key in SECTIONS or len(key) > 40 else get_close_matches(key.lower(), SECTIONS, 1, 0.88)
        if near:
            yield document.line_of(key), f"no section is called {key!r}: did you mean {near[0]}?"


def _assessments(document: Document, context: LintContext) -> Iterator[tuple[Falsifier, Assessment]]:
    """The assessment of each falsifier's evidence; nothing where no ledger is given."""
    ledger = context.ledgers.get(document.path)
    if ledger is not None:
        for test in document.falsifiers:
            yield test, ledger.assess(test, check_of(test, own_mapping()))


def _claims(document: Document, context: LintContext) -> Iterator[tuple[Falsifier, Assessment, Claim]]:
    """The highest claim of each falsifier that claims anything and needs, or has, evidence files."""
    for test, assessment in _assessments(document, context):
        claim = max(test.claims, key=lambda claim: claim.maturity, default=None)
        if claim and claim.maturity >= Maturity.ALGORITHM and (test.check is not None or assessment.evidence):
            yield test, assessment, claim


def _missing_source(document: Document, context: LintContext) -> Breaches:
    ledger = context.ledgers.get(document.path)
    if ledger is None:
        return
    default = document.metadata.lines.get("vouches_for", document.line)
    found = [(default, source) for source in document.metadata.vouches_for]
    found += [
        (test.lines["vouches_for"], source)
        for test in document.falsifiers
        if "vouches_for" in test.lines
        for source in test.vouches_for
    ]
    for line, source in dict.fromkeys(found):
        if ledger.project.digest(source) is None:
            yield line, f"vouches_for {source!r:.80}: no file or folder of sources of the project"


def _overclaimed(document: Document, context: LintContext) -> Breaches:
    for test, assessment, claim in _claims(document, context):
        if claim.maturity > assessment.ever:
            more = f" ever carried more than {assessment.ever.label}" if assessment.evidence else ""
            yield claim.line, f"{test.id}: {claim.key} {claim.status}, no evidence{more}"


def _stale(document: Document, context: LintContext) -> Breaches:
    for test, assessment, claim in _claims(document, context):
        newest = assessment.newest
        if newest is None or assessment.refuted or not assessment.now < claim.maturity <= assessment.ever:
            continue
        if newest.standing is not Standing.FRESH:
            yield claim.line, f"{test.id}: evidence of {newest.record.date[:10]} is {newest.words}"
        else:
            held = assessment.now.label
            yield claim.line, f"{test.id}: a part of the evidence is stale, the rest carries {held}: record it again"


def _refuted(document: Document, context: LintContext) -> Breaches:
    for test, assessment, claim in _claims(document, context):
        if assessment.against is not None:
            evidence = assessment.against.record
            yield claim.line, f"{test.id}: {claim.status}, but FAIL on {evidence.date[:10]}: {evidence.reason:.120}"


def _missing_evidence_file(document: Document, context: LintContext) -> Breaches:
    ledger = context.ledgers.get(document.path)
    if ledger is None:
        return
    for test in document.falsifiers:
        for entry in test.evidence:
            for name in entry.parts.get(EVIDENCE_FILE, ()):
                if ledger.project.file(name) is None:
                    yield entry.line, f"{test.id}: there is no evidence file {name:.80}"
    for test, assessment, claim in _claims(document, context):
        if not assessment.evidence and claim.maturity <= assessment.ever:
            yield claim.line, f"{test.id}: nothing is recorded: aprtui contracts check --id {test.id} --record"


def _odd_file(document: Document, context: LintContext) -> Breaches:
    ledger = context.ledgers.get(document.path)
    if ledger is None:
        return
    for _, problem in ledger.recorded.broken:
        yield document.line, problem
    known = {test.id for test in document.falsifiers}
    for name, files in ledger.recorded.files.items():
        if name not in known:
            yield document.line, f"{files[-1].path}: is evidence for {name!r:.60}, but no falsifier has that id"


def _edited_file(document: Document, context: LintContext) -> Breaches:
    ledger = context.ledgers.get(document.path)
    for problem in () if ledger is None else ledger.recorded.edited:
        yield document.line, problem


_E, _W = Severity.ERROR, Severity.WARN

WITHOUT_LIVE_RUN = "LINT-004"
"""The rule that needs the recorded evidence to say that there is none."""

LINT_RULES: tuple[LintRule, ...] = (
    LintRule(
        "LINT-001",
        _W,
        "binds_to names an equation",
        "write the name of an equation, or add the equation",
        _orphan_binding,
    ),
    LintRule(
        "LINT-002",
        _W,
        "a harness names an obligation, by id or property",
        "write the id or the property of an obligation",
        _orphan_harness,
    ),
    LintRule(
        "LINT-003",
        _W,
        "ids of falsifiers have no gaps",
        "say in the changelog what became of the ids between, or number on",
        _gap_in_ids,
    ),
    LintRule(
        WITHOUT_LIVE_RUN,
        _W,
        "a status of FUNCTIONAL or more has evidence of a live run",
        "record a run (aprtui contracts check --record), or withdraw the status",
        _claims_too_much,
    ),
    LintRule("LINT-005", _E, "a check exists", "write one of the checks that docs/contracts.md lists", _unknown_check),
    LintRule(
        "LINT-006",
        _E,
        "commands of ours in a test, and their options, exist",
        "correct the command: aprtui COMMAND --help lists its options",
        _missing_option,
    ),
    LintRule(
        "LINT-007", _E, "files of the evidence are in the source tree", "correct the path, or remove it", _missing_file
    ),
    LintRule(
        "LINT-008",
        _E,
        "functions of the evidence are named in the code of the source tree",
        "correct the name as offered, or remove it",
        _missing_function,
    ),
    LintRule(
        "LINT-015",
        _W,
        "tests of cargo and pytest that a falsifier runs are in the source tree",
        "write the test, or correct its name",
        _missing_test,
    ),
    LintRule(
        "LINT-017", _W, "some result can fail a check", "give the check a bound that some result breaks", _vacuous_check
    ),
    LintRule(
        "LINT-022",
        _E,
        "a check asks for what the claim says",
        "give the check the bound of the claim, or the claim that of the check",
        _looser_check,
    ),
    LintRule(
        "LINT-018", _W, "a status is a word of the ladder, or unlike any", "write the word as offered", _misspelt_status
    ),
    LintRule(
        "LINT-019",
        _W,
        "files and tests that discharge evidence are in the source tree",
        "correct the path or the name, or remove it",
        _wrong_discharge,
    ),
    LintRule(
        "LINT-020",
        _W,
        "falsifiers stand in the section that is read",
        "move the entries to falsification_tests",
        _unread_tests,
    ),
    LintRule(
        "LINT-021",
        _W,
        "no section is nearly called as one that is read",
        "rename the section as offered",
        _near_section,
    ),
    LintRule(
        "LINT-009", _E, "sources that evidence vouches for exist", "correct the path in vouches_for", _missing_source
    ),
    LintRule(
        "LINT-010",
        _E,
        "a status claims no more than some evidence gave",
        "withdraw the status, or record what carries it",
        _overclaimed,
    ),
    LintRule(
        "LINT-011",
        _W,
        "evidence that a status rests on still holds",
        "record it again: aprtui contracts check --record",
        _stale,
    ),
    LintRule(
        "LINT-012",
        _E,
        "no FAIL refutes a claim",
        "change a source until the check passes and record that, or withdraw the status",
        _refuted,
    ),
    LintRule(
        "LINT-013", _W, "evidence files exist", "record it: aprtui contracts check --record", _missing_evidence_file
    ),
    LintRule(
        "LINT-014",
        _W,
        "evidence files can be read and belong to a falsifier",
        "delete the file, or move it to the falsifier that it is about",
        _odd_file,
    ),
    LintRule(
        "LINT-016",
        _E,
        "evidence files are as they were recorded",
        "restore the file as it was recorded, or delete it and record again",
        _edited_file,
    ),
)
"""Rules about evidence files apply only where the contract itself names the check that would write them: contracts of
others keep their evidence in their own ways. Stale evidence is a warning, so that work can go on; a claim that no
evidence ever carried is an error."""


COMMAND, STAGE = "LINT-101", "LINT-102"

COVERAGE_RULES = {
    COMMAND: ("every command of ours is run by the test of a falsifier", "write a falsifier whose test runs it"),
    STAGE: ("every stage is bound by the check of a falsifier", "write a falsifier whose check names the stage"),
}
"""What each code, an information, demands, and what to do where it is not so."""


def reverse_coverage(documents: Sequence[Document], commands: Collection[str]) -> tuple[Finding, ...]:
    """Those of `commands` and of the stages that no falsifier of `documents` binds.

    A falsifier binds a command where its test runs it, and stages where its check names them; a check of captures that
    names no stages binds all of them. A finding is about all of the documents: it points at the folder that holds
    them, or at the only file.
    """
    if not documents:
        return ()
    falsifiers = [test for document in documents for test in document.falsifiers]
    run = {command for test in falsifiers for command in _commands_run(test, commands)}
    bound = {stage for test in falsifiers for stage in _stages_bound(test)}
    missing = [(COMMAND, f"no falsifier runs {PROGRAM} {command}") for command in commands if command not in run]
    missing += [(STAGE, f"no falsifier binds the stage {stage}") for stage in known_names() if stage not in bound]
    place = _common([document.path for document in documents])
    return tuple(Finding(code, Severity.INFO, message, place, 1) for code, message in missing)


def _common(paths: list[Path]) -> Path:
    mixed = len({path.is_absolute() for path in paths}) > 1
    return Path(commonpath([path.absolute() for path in paths] if mixed else paths))


def _commands_run(test: Falsifier, commands: Collection[str]) -> Iterator[str]:
    for line in test.test.splitlines():
        words = _words_of_ours(line)
        command = None if words is None else _command_of_ours(words, commands)
        if command is not None:
            yield command


def _stages_bound(test: Falsifier) -> Iterator[str]:
    check = None if test.check is None else CHECKS.get(test.check.name)
    if test.check is None or not isinstance(check, CaptureCheck | PairCheck):
        return
    try:
        names = named_stages(test.check.parameters) or check.stages or ("*",)
    except UsageError:
        return  # evaluation reports what is wrong with the parameters
    yield from known_stages(names)
