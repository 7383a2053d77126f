"""The contracts screen: what is claimed, how well it is backed, and whether it holds for the capture at hand."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from rich.table import Table as TextTable
from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Static
from textual.worker import get_current_worker

from aprtui.compare.verdict import Verdict
from aprtui.contracts.documents.document import Document
from aprtui.contracts.documents.loading import Documents, load_documents
from aprtui.contracts.documents.validation import Finding
from aprtui.contracts.evidence.assessment import NO_LEDGER, stamps
from aprtui.contracts.panel import PanelRow, panel
from aprtui.errors import AprtuiError
from aprtui.recordings.captures.stand_in import open_capture
from aprtui.trace.capture import Capture
from aprtui.tui.draw.text import as_typed
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.frame.tool_screen import ToolScreen
from aprtui.tui.screens.contracts.words import (
    DOCUMENT_COLUMNS,
    captures_title,
    counts_title,
    document_row,
    falsifier_lines,
    form_of,
    row_words,
    summary,
)
from aprtui.tui.widgets.cells_grid import CellsGrid
from aprtui.tui.widgets.contracts import FALSIFIER_COLUMNS, CapturePaths, contract_paths, falsifier_row
from aprtui.tui.widgets.table import Table

SECONDS_BETWEEN_LOOKS = 1.0
BESIDE, WIDE = 110, 160
"""From these widths on, the cells of a falsifier are beside its text, and both are beside the lists."""

EXPLANATION = """\
A contract says what must hold of an engine, how it could be shown false (its falsifiers), and what backs each claim. \
The life cycle of the document and the maturity of a falsifier are two things; both stand here as they are written.

Each rule stands in plain words behind its result. The result is live: each falsifier that a built-in check can \
judge is judged on the capture at hand, which is the one that Browse, Tensor or Diff showed last (in Diff: B against \
A). PASS and FAIL come with a number and its bound; UNKNOWN says why, and which command or key settles it. "not \
testable" means that the capture lacks the stage; "no check" that no machine here can judge it. The cells that a \
falsifier is about are lit in the grid. Enter shows all that is known: evidence, what follows from a failure, how it \
is tested.

Evidence is what was recorded earlier (aprtui contracts check --record): fresh while the claim, the sources and the \
check are as they were, else stale; unbound where it vouches for no source; void where it contradicts itself, or is \
about another subject than the claim or about an injected fault; refuted where the newest, or one on the same sources, \
is a FAIL. Enter says which, and why.

The form of a contract is what aprtui contracts validate and lint say of it as it is written; Enter lists it.

A contract that is edited on disk, and evidence that is recorded, is read again by itself.
"""

NO_CONTRACTS = """\
No contracts here.
`aprtui open FOLDER/contract.yaml` opens some; so does a folder called contracts below the working directory."""


class ContractsScreen(ToolScreen):
    """Documents, their falsifiers, and the live result of each."""

    NAME = ScreenName.CONTRACTS
    EXPLANATION = EXPLANATION
    SIGNS = (("✓", "PASS"), ("✗", "FAIL"), ("?", "UNKNOWN, or not testable"), ("–", "no check judges it"))
    WIDGETS = (Table,)
    AUTO_FOCUS = "#falsifiers"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "turn_cells", "Cells or words", id="contracts.cells"),
        Binding("r", "judge", "Judge again", id="contracts.judge"),
    ]
    HORIZONTAL_BREAKPOINTS = [(0, "-stacked"), (BESIDE, "-beside"), (WIDE, "-wide")]  # noqa: RUF012  # Textual declares it per instance
    DEFAULT_CSS = """
    ContractsScreen {
        #body { height: 1fr; }
        #lists { height: 1fr; }
        #documents { height: auto; min-height: 4; max-height: 30%; }
        #falsifiers { height: 1fr; min-height: 5; }
        #one { height: 15; }
        #details { height: 1fr; }
        #text { display: none; margin-top: 1; }
        #cells { height: auto; max-height: 60%; }
        &.-whole #lists { display: none; }
        &.-whole #one { height: 100%; }
        &.-whole #text { display: block; }
    }
    ContractsScreen.-beside #one { layout: horizontal; #details { width: 1fr; height: 100%; } }
    ContractsScreen.-beside #cells { width: 77; height: 100%; max-height: 100%; }
    ContractsScreen.-stacked {
        #documents { height: 4; max-height: 4; }
        #documents:focus { height: 50%; max-height: 50%; }
        #one { height: auto; max-height: 10; }
        #details { height: auto; max-height: 10; }
        #cells { display: none; }
        &.-of-cells #one { height: 10; }
        &.-of-cells #cells { display: block; max-height: 100%; height: 1fr; }
        &.-of-cells #details { display: none; }
        &.-whole #one, &.-whole #details { height: 100%; max-height: 100%; }
    }
    ContractsScreen.-wide {
        #body { layout: horizontal; }
        #lists { width: 3fr; height: 100%; }
        #one { width: 2fr; height: 100%; layout: vertical; }
        #details { width: 100%; height: 1fr; }
        #cells { width: 100%; height: auto; max-height: 50%; }
        #text { display: block; }
        &.-whole #one { width: 100%; }
    }
    """

    class DocumentsRead(Message):
        def __init__(self, documents: Documents) -> None:
            super().__init__()
            self.documents = documents
            self.form = {document.path: form_of(document) for document in documents.readable}

    class Judged(Message):
        """The falsifiers of a document were judged; `problem` says why a capture could not be read."""

        def __init__(
            self, document: Document, rows: tuple[PanelRow, ...], capture: Capture | None, problem: str
        ) -> None:
            super().__init__()
            self.document, self.rows, self.capture, self.problem = document, rows, capture, problem

    def __init__(self, session: Session, state: ScreenState) -> None:
        super().__init__(session, state)
        self._given_path = state.path("path")
        self._paths = contract_paths(session.paths) if self._given_path is None else (self._given_path.absolute(),)
        self._documents: Documents | None = None
        self._form: Mapping[Path, Sequence[Finding]] = {}
        self._document: Document | None = None
        self._rows: tuple[PanelRow, ...] = ()
        self._judged = False
        self._capture: Capture | None = None
        self._capture_paths = (state.path("reference"), state.path("capture"))
        self._captures_given = any(self._capture_paths)
        self._cursors_to_restore = (state.text("document"), state.text("falsifier"))

    def compose_body(self) -> Iterable[Widget]:
        with Container(id="body"):
            with Container(id="lists"):
                yield Table(DOCUMENT_COLUMNS, "Reading…", id="documents")
                yield Table(FALSIFIER_COLUMNS, "Choose a contract above.", id="falsifiers")
            with Container(id="one"):
                with VerticalScroll(id="details", classes="pane"):
                    yield Static(id="summary", markup=False)
                    yield Static(id="text", markup=False)
                with VerticalScroll(id="cells", classes="pane"):
                    yield CellsGrid()

    def on_mount(self) -> None:
        self.query_one("#documents", Table).border_title = "contracts"
        self.query_one("#details").border_title = "falsifier"
        self.query_one("#cells").border_title = "what it is about"
        self._take_captures()
        self._watch()

    def on_screen_resume(self) -> None:
        """Judge on the captures that other screens have shown meanwhile."""
        if self.is_mounted:
            self._take_captures()

    def captures(self) -> tuple[Path, ...]:
        return tuple(path for path in self._capture_paths if path is not None)

    def state(self) -> ScreenState:
        row = self._row
        reference, capture = self._capture_paths
        return screen_state(
            self.NAME, path=self._given_path, document=self._document.name if self._document else None,
            falsifier=row.falsifier.id if row else None, reference=reference, capture=capture,
        )  # fmt: skip

    def command(self) -> Sequence[str]:
        """The check of this document on the same captures; without a capture its validation."""
        if self._document is None:
            return []
        reference, capture = self._capture_paths
        path = as_typed(self._document.path)
        if capture is None:
            return ["aprtui", "contracts", "validate", path]
        words = ["aprtui", "contracts", "check", path, "--capture", as_typed(capture)]
        return words + (["--reference", as_typed(reference)] if reference is not None else [])

    def action_turn_cells(self) -> None:
        """On a narrow screen: show the cells of a falsifier in place of its text, or the text again."""
        self.toggle_class("-of-cells")

    def action_judge(self) -> None:
        self._take_captures(again=True)

    def _take_captures(self, again: bool = False) -> None:
        """Take the captures of another screen, unless the state named some; judge if they are others, or `again`."""
        before = self._capture_paths
        if not self._captures_given:
            found = self.program.captures_at_hand()
            self._capture_paths = (found[0], found[1]) if len(found) > 1 else (None, found[0] if found else None)
        if self._capture_paths != before or again:
            self._judge()

    @work(thread=True, group="read")
    def _watch(self) -> None:
        """Read the contracts, and again those that change; watch the evidence, too."""
        worker, documents = get_current_worker(), load_documents(self._paths)
        before = stamps(documents.readable)
        self.post_message(self.DocumentsRead(documents))
        while not worker.is_cancelled:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            if not self.is_current:
                continue
            fresh, recorded = documents.refreshed(), stamps(documents.readable)
            if worker.is_cancelled:
                return
            if fresh is not documents:
                documents, recorded = fresh, stamps(fresh.readable)
                self.post_message(self.DocumentsRead(documents))
            elif recorded != before:
                self.call_later(self._judge)  # which reads the evidence again
            before = recorded

    @work(thread=True, group="judge", exclusive=True, description="document")
    def _judge_in_thread(self, document: Document, paths: CapturePaths) -> None:
        worker = get_current_worker()
        reference, capture, problem = None, None, ""
        try:
            reference, capture = (None if path is None else open_capture(path, copied=True) for path in paths)
        except AprtuiError as error:
            problem = str(error)
        rows = []
        for row in panel(document, capture, reference):
            if worker.is_cancelled:
                return
            rows.append(row)
        if not worker.is_cancelled:
            self.post_message(self.Judged(document, tuple(rows), capture, problem))

    def on_contracts_screen_documents_read(self, message: DocumentsRead) -> None:
        """Show the documents; the open one is judged again if it has changed."""
        self._documents, self._form = message.documents, message.form
        table = self.query_one("#documents", Table)
        table.empty = message.documents.error or NO_CONTRACTS
        table.show([document_row(loaded, message.form.get(loaded.path, ())) for loaded in message.documents.files])
        name, self._cursors_to_restore = self._cursors_to_restore[0], ("", self._cursors_to_restore[1])
        for loaded in message.documents.files:
            if name and loaded.path.stem == name:
                table.point(loaded.path)
        self._open_document()

    def on_contracts_screen_judged(self, message: Judged) -> None:
        if message.document is self._document:
            self._rows, self._judged, self._capture = message.rows, True, message.capture
            if message.problem:
                self.notify(message.problem, severity="error")
            self._show_rows()

    def on_table_pointed(self, message: Table.Pointed) -> None:
        if message.table.id == "documents":
            self._open_document()
        else:
            self._show_one()

    def on_table_chosen(self, message: Table.Chosen) -> None:
        if message.table.id == "documents":
            self.set_focus(self.query_one("#falsifiers"))
        elif self._row is not None:
            self._show_whole(True)

    def action_back(self) -> None:
        """Go from all about a falsifier to the list, else to the previous screen."""
        if self._whole:
            self._show_whole(False)
        else:
            super().action_back()

    @property
    def _whole(self) -> bool:
        return self.has_class("-whole")

    def _show_whole(self, whole: bool) -> None:
        """All that is known of the falsifier in place of the lists, or the lists again."""
        self.set_class(whole, "-whole")
        self.set_focus(self.query_one("#details" if whole else "#falsifiers"))
        self._show_one()

    def _open_document(self) -> None:
        key = self.query_one("#documents", Table).key
        loaded = next((file for file in self._documents.files if file.path == key), None) if self._documents else None
        document = loaded.document if loaded is not None else None
        if document is self._document and document is not None:
            return
        self._document = document
        self._judge()
        if loaded is not None and loaded.error:
            self.query_one("#falsifiers", Table).empty = loaded.error
            self.query_one("#falsifiers", Table).show([])

    def _judge(self) -> None:
        """Show the falsifiers without results, and begin to judge them."""
        self._judged = False
        self._rows = () if self._document is None else tuple(panel(self._document, mapping={}, ledger=NO_LEDGER))
        self._show_rows()
        if self._document is not None:
            self._judge_in_thread(self._document, self._capture_paths)

    def _show_rows(self) -> None:
        table = self.query_one("#falsifiers", Table)
        table.border_title = counts_title(self._rows, self._judged, captures_title(*self._capture_paths))
        table.show([falsifier_row(row, self._judged) for row in self._rows])
        if self._cursors_to_restore[1] and table.point(self._cursors_to_restore[1]):
            self._cursors_to_restore = ("", "")
        self._show_one()

    @property
    def _row(self) -> PanelRow | None:
        """The falsifier under the cursor."""
        key = self.query_one("#falsifiers", Table).key
        return next((row for row in self._rows if (row.falsifier.id or row.falsifier.line) == key), None)

    def _show_one(self) -> None:
        row, grid = self._row, self.query_one(CellsGrid)
        self.query_one("#summary", Static).update("" if row is None else summary(row, self._judged))
        text = TextTable.grid(padding=(0, 1))
        text.add_column(style="dim", no_wrap=True)
        text.add_column(overflow="fold")
        form = () if self._document is None else self._form.get(self._document.path, ())
        for name, line in falsifier_lines(row, form) if row is not None else ():
            text.add_row(name, Text(line))
        self.query_one("#text", Static).update(text)
        details = self.query_one("#details")
        details.border_title = row.falsifier.id if row is not None else "falsifier"
        details.border_subtitle = "" if row is None else "escape: the list" if self._whole else "enter: all about it"
        failed = row is not None and row.judgement is not None and row.judgement.verdict is Verdict.FAIL
        graph = None if self._capture is None else self._capture.graph
        grid.show(graph, row.nodes if row is not None and self._judged else (), bad=failed)
        self.query_one("#cells").scroll_to(y=grid.first_lit_line, animate=False)
        self.say(row_words(row, self.size.width - 2))
