"""Contracts and their falsifiers in the words of the contracts screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from textual.content import Content

from aprtui.compare.verdict import Verdict
from aprtui.compare.wording import counted
from aprtui.contracts.checks.judgement import Judgement
from aprtui.contracts.documents.document import Document, Falsifier
from aprtui.contracts.documents.loading import LoadedContract
from aprtui.contracts.documents.validation import Finding, Severity, validate
from aprtui.contracts.evidence.assessment import Assessment
from aprtui.contracts.lint.rules import WITHOUT_LIVE_RUN, LintContext, lint
from aprtui.contracts.panel import PanelRow
from aprtui.contracts.settling import Lack
from aprtui.tui.draw.numbers import UNKNOWN
from aprtui.tui.draw.text import SEPARATOR, clipped
from aprtui.tui.widgets.contracts import LOOKS, NOT_BOUND, NOT_TESTABLE, WAITING, result_word
from aprtui.tui.widgets.table import Column, Row, Tone

DOCUMENT_COLUMNS = (
    Column("contract", grows=True), Column("life cycle", rank=1), Column("falsifiers", right=True, rank=3),
    Column("form", rank=2),
)  # fmt: skip

ADVICE: Mapping[Lack, str] = {
    Lack.CHECK: "read its test:",
    Lack.RUN: "which no screen does:",
    Lack.DEVICE: "on a machine that has one:",
    Lack.CAPTURE: "to be made by this and opened in Browse (2):",
    Lack.REFERENCE: "both to be made by this and marked with space in Browse (2):",
    Lack.OTHER_CAPTURE: "to be made by this and opened in Browse (2):",
    Lack.SUBJECT: "which is to be made by this:",
    Lack.BOUND: "so a PASS says nothing: give its check a bound that a result can break",
}
PLAIN_LACKS = frozenset({Lack.CHECK, Lack.RUN, Lack.CAPTURE, Lack.REFERENCE})
"""What is lacking says all there is to say."""

MOST_COMMANDS = 4
"""Of a longer test, only the first lines stand in the summary."""


FORM_WORDS = {Severity.ERROR: "error", Severity.WARN: "warning"}


def form_of(document: Document) -> tuple[Finding, ...]:
    """What is wrong with a contract as it is written: the findings of `validate`, and those of `lint` that need neither
    sources nor evidence."""
    drift = (finding for finding in lint(document, LintContext()) if finding.code != WITHOUT_LIVE_RUN)
    return (*validate(document), *drift)


def document_row(loaded: LoadedContract, form: Sequence[Finding] = ()) -> Row:
    """A contract file in the list, with how many faults of form it has; one that cannot be read says so."""
    document = loaded.document
    if document is None:
        return Row(loaded.path, (loaded.path.stem, "cannot be read", "", ""), Tone.BAD)
    counts = Counter(finding.severity for finding in form)
    words = [counted(counts[severity], word) for severity, word in FORM_WORDS.items() if counts[severity]]
    cells = (document.name, document.life_cycle or UNKNOWN, str(len(document.falsifiers)), ", ".join(words) or "sound")
    return Row(loaded.path, cells)


def counts_title(rows: Sequence[PanelRow], judged: bool, captures: str) -> str:
    if not rows:
        return f"falsifiers, {captures}"
    if not judged:
        return f"{counted(len(rows), 'falsifier')}, being {captures}"
    counts = Counter(result_word(row) for row in rows)
    order = [verdict.value for verdict in (Verdict.FAIL, Verdict.PASS, Verdict.UNKNOWN)] + [NOT_TESTABLE, NOT_BOUND]
    return ", ".join(f"{counts[word]} {word}" for word in order if counts[word]) + f", {captures}"


def captures_title(reference: Path | None, capture: Path | None) -> str:
    if capture is None:
        return "judged without a capture"
    return f"judged on {capture.name}" + (f" against {reference.name}" if reference is not None else "")


def row_words(row: PanelRow | None, width: int) -> str:
    if row is None:
        return ""
    reason = row.judgement.reason if row.judgement is not None else "no built-in check is bound to it"
    return clipped(SEPARATOR.join([row.falsifier.id, result_word(row), reason]), width)


MOST_RECORDED = 5
"""Of more evidence files, only the newest are shown."""

TONES = {
    Tone.GOOD: "bold $success", Tone.BAD: "bold $error", Tone.UNSURE: "bold", Tone.MUTED: "$text-muted",
}  # fmt: skip


def summary(row: PanelRow, judged: bool) -> Content:
    """A falsifier in short: its rule, the result, for UNKNOWN why and what settles it, and what the rule predicts."""
    result = result_word(row) if judged else WAITING
    sign, tone = LOOKS[result]
    parts = [(row.sentence, "bold"), (f"\n{sign} {result}" if judged else "\n… being judged", TONES[tone])]
    if judged and (row.settling is None or row.settling.lack not in PLAIN_LACKS):
        parts.append((f"  {_reason(row.judgement)}", ""))
    if judged and row.settling is not None:
        commands = row.settling.commands
        parts.append((f"\n{row.settling.lack}, {ADVICE[row.settling.lack]}", ""))
        parts += [(f"\n  {command}", "$accent") for command in commands[:MOST_COMMANDS]]
        parts += [("\n  …", "$text-muted")] if len(commands) > MOST_COMMANDS else []
    prediction = " ".join(row.falsifier.prediction.split())
    if prediction and prediction not in row.sentence:
        parts.append((f"\n{prediction}", "$text-muted"))
    return Content.assemble(*parts)


def _reason(judgement: Judgement | None) -> str:
    if judgement is None:
        return ""
    if judgement.number is None:
        return judgement.reason
    bound = f", bound {judgement.bound:.4g}" if judgement.bound is not None else ""
    return f"{judgement.reason} ({judgement.metric} {judgement.number:.4g}{bound})"


def falsifier_lines(row: PanelRow, form: Sequence[Finding] = ()) -> list[tuple[str, str]]:
    """All that is known beside the summary, and the faults of its document's form: lines of a name and a text; no name
    where a text continues."""
    faults = [f"line {finding.line}: {finding.message} ({finding.code})" for finding in form]
    return [
        (name if index == 0 else "", text)
        for name, texts in (*_paragraphs(row), ("form", faults or ["sound"]))
        for index, text in enumerate(texts)
        if text
    ]


def _paragraphs(row: PanelRow) -> Iterator[tuple[str, list[str]]]:
    falsifier = row.falsifier
    yield "formula", list(row.formulas)
    yield "recorded", list(_recorded(row.assessment))
    yield "if it fails", [falsifier.if_fails]
    yield "binds to", [_binding(row)]
    yield "document", [f"life cycle {row.life_cycle or 'not stated'}"]
    yield "maturity", [f"{claim.status} ({claim.key})" for claim in falsifier.claims] or ["nothing is claimed"]
    yield "evidence", list(_evidence(falsifier))
    yield "waits for", [f"{blocker.text} ({blocker.key})" for blocker in falsifier.blockers]
    yield "test", falsifier.test.strip().splitlines()
    check = row.check
    yield "check", [f"{check.name} {dict(check.parameters) or ''}".strip()] if check is not None else ["none is bound"]


def _binding(row: PanelRow) -> str:
    if not row.binding.stages:
        return "no stage"
    layers = row.binding.layers
    where = "" if layers is None else f", layers {', '.join(map(str, sorted(layers)))}"
    inferred = " (read out of its text)" if row.binding.inferred else ""
    return f"{', '.join(row.binding.stages)}{where}{inferred}"


def _evidence(falsifier: Falsifier) -> Iterator[str]:
    for evidence in falsifier.evidence:
        yield from (f"{text} ({evidence.key})" for text in evidence.texts)
        for part, texts in evidence.parts.items():
            yield f"{evidence.key} {part}: {', '.join(texts)}"


def _recorded(assessment: Assessment) -> Iterator[str]:
    """The level that evidence files carry, and the files, the newest first."""
    if assessment.evidence:
        fell = f", gave {assessment.ever.label}" if assessment.ever > assessment.now else ""
        yield f"carries {assessment.now.label}{fell}"
    if assessment.against is not None:
        failed = assessment.against
        yield f"refuted by the FAIL of {failed.record.date[:10]}: {failed.record.reason} ({failed.path.name})"
    for piece in assessment.evidence[:MOST_RECORDED]:
        evidence = piece.record
        yield f"{evidence.verdict} of {evidence.date[:10]} on {evidence.host.name}, {piece.words} ({piece.path.name})"
    if len(assessment.evidence) > MOST_RECORDED:
        yield f"and {counted(len(assessment.evidence) - MOST_RECORDED, 'older file')}"
