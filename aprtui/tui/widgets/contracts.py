"""The falsifiers of contracts as rows, and the table of what they say about one stage of another screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from textual import work
from textual.message import Message
from textual.worker import get_current_worker

from aprtui.errors import AprtuiError
from aprtui.recordings.captures.stand_in import open_capture
from aprtui.resources import contracts as own_contracts
from aprtui.trace.graph.stage import Node
from aprtui.tui.draw.numbers import UNKNOWN, number
from aprtui.tui.widgets.table import Column, Row, Table, Tone

if TYPE_CHECKING:  # all checks come with them, which only the thread that judges needs
    from aprtui.contracts.documents.loading import Documents
    from aprtui.contracts.evidence.assessment import Assessment
    from aprtui.contracts.panel import PanelRow

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
        from aprtui.contracts.documents.loading import load_documents
        from aprtui.contracts.evidence.assessment import NO_LEDGER
        from aprtui.contracts.panel import panel

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
