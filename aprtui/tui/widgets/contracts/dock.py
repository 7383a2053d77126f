"""What contracts say about one stage: a small table that stands beside the stage grid of another screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from textual import work
from textual.message import Message
from textual.worker import get_current_worker

from aprtui.contracts.documents.loading import Documents, load_documents
from aprtui.contracts.evidence.assessment import NO_LEDGER
from aprtui.contracts.panel import PanelRow, panel
from aprtui.errors import AprtuiError
from aprtui.resources import contracts as own_contracts
from aprtui.trace.capture import Capture
from aprtui.trace.graph import Node
from aprtui.tui.widgets.contracts.rows import dock_rows
from aprtui.tui.widgets.table import Column, Table

COLUMNS = (
    Column("result"), Column("falsifier", grows=True, end_matters=True), Column("maturity", rank=1),
)  # fmt: skip
READING, SILENT = "Reading…", "No contract speaks of this stage."

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
        super().__init__(COLUMNS, READING, id=id)
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
        """Show the falsifiers that are about `node`."""
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
            a, b = (None if path is None else Capture.open(path) for path in (reference, capture))
        except AprtuiError:
            a = b = None  # the screen that shows the captures says what is wrong with them
        rows = [
            (document.name, row) for document in documents.readable for row in panel(document, b, a, ledger=NO_LEDGER)
        ]
        if not worker.is_cancelled:
            self._documents = documents
            self.post_message(self.Judged(rows, (reference, capture)))

    def on_contracts_dock_judged(self, message: Judged) -> None:
        if message.capture_paths == self._capture_paths:
            self._judged, self.empty = message.rows, SILENT
            self._show()

    def _show(self) -> None:
        node = self._node
        self.border_title = "contracts" if node is None else f"contracts about {node}"
        self.show(dock_rows([row for _, row in self._judged], node))
