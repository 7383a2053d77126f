"""Contracts as rows and lines of text, and the table of what they say about one stage of another screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from textual import work
from textual.content import Content
from textual.message import Message
from textual.worker import get_current_worker

from aprtui.compare.verdict import Verdict
from aprtui.compare.wording import counted
from aprtui.contracts.checks.judgement import Judgement
from aprtui.contracts.documents.document import Document, Falsifier
from aprtui.contracts.documents.loading import Documents, LoadedContract, load_documents
from aprtui.contracts.documents.validation import Finding, Severity, validate
from aprtui.contracts.evidence.assessment import NO_LEDGER, Assessment
from aprtui.contracts.lint.rules import WITHOUT_LIVE_RUN, LintContext, lint
from aprtui.contracts.panel import PanelRow, panel
from aprtui.contracts.settling import Lack
from aprtui.errors import AprtuiError
from aprtui.recordings.captures.as_capture import open_capture
from aprtui.resources import contracts as own_contracts
from aprtui.trace.graph.stage import Node
from aprtui.tui.draw.numbers import UNKNOWN, number
from aprtui.tui.draw.text import SEPARATOR, clipped
from aprtui.tui.widgets.table import Column, Row, Table, Tone

DOCUMENT_COLUMNS = (
    Column("contract", grows=True), Column("life cycle", rank=1), Column("falsifiers", right=True, rank=3),
    Column("form", rank=2),
)  # fmt: skip
FALSIFIER_COLUMNS = (
    Column("result"), Column("rule", grows=True, least=50), Column("falsifier", grows=True, end_matters=True, rank=4),
    Column("maturity", rank=3), Column("evidence", rank=1), Column("number", right=True, rank=2),
    Column("bound", right=True, rank=2),
)  # fmt: skip
DOCK_COLUMNS = FALSIFIER_COLUMNS[:3]

NOT_TESTABLE = "not testable"
NOT_BOUND = "no check"
WAITING = "…"

LOOKS: Mapping[str, tuple[str, Tone]] = {
    "PASS": ("✓", Tone.GOOD), "FAIL": ("✗", Tone.BAD), "UNKNOWN": ("?", Tone.UNSURE), NOT_TESTABLE: ("?", Tone.UNSURE),
    NOT_BOUND: ("–", Tone.MUTED), WAITING: ("…", Tone.MUTED),
}  # fmt: skip
"""The sign and the tone of each result."""

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


def falsifier_row(row: PanelRow, judged: bool) -> Row:
    """A falsifier in the list; until it is `judged`, `…` stands for its result."""
    falsifier, judgement = row.falsifier, row.judgement
    figures = ("", "") if judgement is None else (_number(judgement.number), _number(judgement.bound))
    result = result_word(row) if judged else WAITING
    sign, tone = LOOKS[result]
    evidence = evidence_word(row.assessment) if judged else WAITING
    cells = (
        f"{sign} {result}" if judged else WAITING, row.sentence or UNKNOWN, falsifier.id or UNKNOWN,
        falsifier.status or UNKNOWN, evidence, *figures,
    )  # fmt: skip
    whole = {Tone.BAD: Tone.BAD, Tone.MUTED: Tone.MUTED}.get(tone, Tone.PLAIN)
    return Row(falsifier.id or falsifier.line, cells, whole, tone)


def dock_rows(rows: Sequence[PanelRow], node: Node | None) -> list[Row]:
    """The falsifiers that are about `node`; those that fail come first."""
    about = [row for row in rows if node is not None and _is_about(row, node)]
    order = ("FAIL", "PASS", "UNKNOWN", NOT_TESTABLE, NOT_BOUND)
    about.sort(key=lambda row: order.index(result_word(row)))
    whole = (falsifier_row(row, judged=True) for row in about)
    return [replace(row, cells=row.cells[: len(DOCK_COLUMNS)]) for row in whole]


def _is_about(row: PanelRow, node: Node) -> bool:
    layers = row.binding.layers
    bound = node.stage in row.binding.stages and (layers is None or node.layer is None or node.layer in layers)
    return bound or node in row.nodes


def result_word(row: PanelRow) -> str:
    """The live result of a falsifier: PASS, FAIL, UNKNOWN, `not testable`, `no check`."""
    if row.judgement is None:
        return NOT_BOUND
    return row.judgement.verdict.value if row.judgement.testable else NOT_TESTABLE


def evidence_word(assessment: Assessment) -> str:
    """Whether recorded evidence holds: fresh, stale, unbound, void, refuted; `–` if nothing is recorded."""
    if assessment.newest is None:
        return UNKNOWN
    return "refuted" if assessment.refuted else str(assessment.newest.standing)


def _number(value: float | None) -> str:
    return "" if value is None else number(value, 4)


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


CapturePaths = tuple[Path | None, Path | None]
"""The reference and the capture that falsifiers are judged on."""


def contract_paths(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Where contracts are read from: those of `paths`, given on the command line, our own, and ./contracts."""
    named = [path for path in paths if path.suffix in (".yaml", ".yml")]
    folders = [path for path in (own_contracts(), Path("contracts")) if path.is_dir()]
    return tuple(dict.fromkeys(path.absolute() for path in (*named, *folders)))


class ContractsDock(Table):
    """The falsifiers that are about one stage, judged on the captures at hand; enter opens one of them.

    `paths` are those given on the command line.
    """

    class Judged(Message):
        def __init__(self, rows: Sequence[tuple[str, PanelRow]], capture_paths: CapturePaths) -> None:
            super().__init__()
            self.rows, self.capture_paths = rows, capture_paths

    def __init__(self, paths: Sequence[Path], *, id: str | None = None) -> None:
        super().__init__(DOCK_COLUMNS, "Reading…", id=id)
        self._paths = paths
        self._documents: Documents | None = None
        self._judged: Sequence[tuple[str, PanelRow]] = ()
        self._node: Node | None = None
        self._capture_paths: CapturePaths = (None, None)

    def on_mount(self) -> None:
        self.border_title = "contracts"
        self._judge()

    def judge(self, reference: Path | None, capture: Path | None) -> None:
        """Judge on these captures; without a capture, nothing is testable."""
        if (reference, capture) != self._capture_paths:
            self._capture_paths = (reference, capture)
            self._judge()

    def point_at(self, node: Node | None) -> None:
        if node != self._node:
            self._node = node
            self._show()

    def document_of(self, key: object) -> str:
        """The name of the contract that the falsifier in row `key` is from."""
        return next((name for name, row in self._judged if row.falsifier.id == key), "")

    @work(thread=True, exclusive=True)
    def _judge(self) -> None:
        worker, (reference, capture) = get_current_worker(), self._capture_paths
        before = self._documents
        documents = load_documents(contract_paths(self._paths)) if before is None else before.refreshed()
        try:
            a, b = (None if path is None else open_capture(path, copied=True) for path in (reference, capture))
        except AprtuiError:
            a = b = None  # the screen that shows the captures says what is wrong with them
        rows = []
        for document in documents.readable:
            for row in panel(document, b, a, ledger=NO_LEDGER):
                if worker.is_cancelled:
                    return
                rows.append((document.name, row))
        if not worker.is_cancelled:
            self._documents = documents
            self.post_message(self.Judged(rows, (reference, capture)))

    def on_contracts_dock_judged(self, message: Judged) -> None:
        if message.capture_paths == self._capture_paths:
            self._judged, self.empty = message.rows, "No contract speaks of this stage."
            self._show()

    def _show(self) -> None:
        node = self._node
        self.border_title = "contracts" if node is None else f"contracts about {node}"
        self.show(dock_rows([row for _, row in self._judged], node))
