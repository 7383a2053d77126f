"""The half of the browse screen that looks: threads look around and read, the screen shows what they have found."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from textual import work
from textual.containers import Container
from textual.message import Message
from textual.widget import Widget
from textual.worker import get_current_worker

from aprtui.compare.wording import counted
from aprtui.errors import AprtuiError
from aprtui.trace.graph import Node
from aprtui.tui.draw.figures import Statistic, figures, first_bad
from aprtui.tui.frame.recent import recent_paths
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState
from aprtui.tui.frame.tool_screen import ToolScreen
from aprtui.tui.screens.browse.find import Finder, Found, Kind, Listing
from aprtui.tui.screens.browse.load import CaptureContents, Contents, ModelContents, contents
from aprtui.tui.screens.browse.parts import NOTHING_FOUND, CaptureGrid, FilterInput
from aprtui.tui.screens.browse.rows import (
    FOUND_COLUMNS,
    STAGE_COLUMNS,
    TENSOR_COLUMNS,
    found_rows,
    found_words,
    grid_stats,
    place_text,
    stage_rows,
    stage_words,
    tensor_rows,
    tensor_words,
)
from aprtui.tui.widgets.stage_grid import StageGrid
from aprtui.tui.widgets.table import Row, Table

SECONDS_BETWEEN_LOOKS = 1.0

WIDE = 160
"""From this width on, the list stands beside what is in the capture."""

HIGH = 34
"""From this height on, grid and table of statistics are seen together."""


class BrowseView(ToolScreen):
    """Shows captures and models, and what is in the one under the cursor."""

    NAME = ScreenName.BROWSE
    WIDGETS = (Table, CaptureGrid, StageGrid)
    AUTO_FOCUS = "#found"
    HORIZONTAL_BREAKPOINTS = [(0, "-stacked"), (WIDE, "-wide")]  # noqa: RUF012  # Textual declares it per instance
    VERTICAL_BREAKPOINTS = [(0, "-low"), (HIGH, "-high")]  # noqa: RUF012
    DEFAULT_CSS = """
    BrowseView {
        #body { height: 1fr; }
        #found { height: auto; min-height: 6; max-height: 33%; }
        #contents { height: 1fr; }
        .-absent { display: none; }
        #grid { height: auto; max-height: 50%; }
        #stages, #tensors { height: 1fr; }
        #filter { border: none; height: 1; padding: 0 1; background: $panel; display: none; }
    }
    BrowseView.-low.-stacked #found { max-height: 8; }
    BrowseView.-low.-stacked #grid { max-height: 100%; height: 1fr; }
    BrowseView.-low.-stacked.-of-numbers #grid { display: none; }
    BrowseView.-low.-stacked.-of-grid #stages { display: none; }
    BrowseView.-wide {
        #body { layout: horizontal; }
        #found { width: 2fr; height: 100%; max-height: 100%; }
        #contents { width: 3fr; height: 100%; }
    }
    """

    class Listed(Message):
        """What was found."""

        def __init__(self, listing: Listing) -> None:
            super().__init__()
            self.listing = listing

    class Filled(Message):
        """What is in a capture or a model, as far as it is known; or why it cannot be opened."""

        def __init__(self, found: Found, known: Contents | None, problem: str = "") -> None:
            super().__init__()
            self.found, self.known, self.problem = found, known, problem

    def __init__(self, session: Session, state: ScreenState) -> None:
        super().__init__(session, state)
        given = state.path("path")
        self._given = given
        self._roots = (given,) if given is not None else (*session.paths, Path())
        self._listing = Listing()
        self._looked = False
        self._wanted: Path | None = state.path("at") or given
        self._wanted_node = Node(state.number("layer"), state.text("stage")) if state.text("stage") else None
        self._marked = [Path(text) for text in (state.text("a"), state.text("b")) if text]
        self._filters = {
            "found": state.text("filter"),
            "stages": state.text("stages"),
            "tensors": state.text("tensors"),
        }
        self._filtered = "found"
        self._shown: Found | None = None
        self._known: Contents | None = None
        self._problem = ""
        self._problems_told: frozenset[str] = frozenset()

    def compose_body(self) -> Iterable[Widget]:
        """The list, and beside or below it what is in the capture or model under its cursor."""
        with Container(id="body"):
            yield Table(FOUND_COLUMNS, "Looking…", id="found")
            with Container(id="contents"):
                yield CaptureGrid(id="grid")
                yield Table(STAGE_COLUMNS, id="stages")
                yield Table(TENSOR_COLUMNS, id="tensors")
        yield FilterInput(placeholder="show what contains this", id="filter")

    def on_mount(self) -> None:
        """Begin to look."""
        self.add_class("-of-grid")
        self.query_one("#grid").add_class("pane")
        self._show_contents()
        self.detail(place_text(self._roots[0], Path.cwd()))
        self._watch()

    def captures(self) -> tuple[Path, ...]:
        """The marked captures, else the one under the cursor."""
        if len(self._marked) == 2:
            return tuple(self._marked)
        return () if self._shown is None or self._shown.kind is not Kind.CAPTURE else (self._shown.path,)

    @work(thread=True, group="watch")
    def _watch(self) -> None:
        """Look around, again and again, in a thread of its own."""
        worker, finder, last = get_current_worker(), Finder(), None
        while not worker.is_cancelled:
            if self.is_current or last is None:
                listing = finder.look((*self._roots, *recent_paths()), lambda: worker.is_cancelled)
                if listing != last and not worker.is_cancelled:
                    self.post_message(self.Listed(listing))
                    last = listing
            time.sleep(SECONDS_BETWEEN_LOOKS)

    @work(thread=True, group="contents", exclusive=True)
    def _read(self, found: Found) -> None:
        """Read what is in a capture or model; a newer wish ends this."""
        worker = get_current_worker()
        try:
            for known in contents(found, lambda: worker.is_cancelled):
                if worker.is_cancelled:
                    return
                self.post_message(self.Filled(found, known))
        except (AprtuiError, OSError) as error:
            self.post_message(self.Filled(found, None, str(error)))

    def on_browse_view_listed(self, message: Listed) -> None:
        """Show what was found; what has changed is read again."""
        self._listing, self._looked = message.listing, True
        self._table("found").empty = NOTHING_FOUND
        self._show_list()
        problems = (*message.listing.problems, *filter(None, [message.listing.left_out]))
        for problem in problems:
            if problem not in self._problems_told:
                self.notify(problem, severity="warning", markup=False)
        self._problems_told = frozenset(problems)

    def on_browse_view_filled(self, message: Filled) -> None:
        """Show what is known by now."""
        if message.found == self._shown:
            self._known, self._problem = message.known, message.problem
            self._show_contents()

    def _table(self, name: str) -> Table:
        return self.query_one(f"#{name}", Table)

    @property
    def _node(self) -> Node | None:
        """The stage under the cursor of the contents."""
        if self.focused is self.query_one(CaptureGrid):
            return self.query_one(CaptureGrid).node
        key = self._table("stages").key
        return key if isinstance(key, Node) else None

    def _show_list(self) -> None:
        """The rows of the list that the filter lets through."""
        table, working = self._table("found"), Path.cwd()
        rows = found_rows(self._listing.found, self._marked, time.time(), working)
        counts = [sum(entry.kind is kind for entry in self._listing.found) for kind in Kind]
        title = ", ".join(counted(count, kind) for count, kind in zip(counts, Kind, strict=True))
        unread = len(self._listing.problems)
        title += f", {counted(unread, 'folder')} not readable" if unread else ""
        table.border_title = title if self._looked else "captures and models"
        table.show(_matching(rows, self._filters["found"]))
        if self._wanted is not None:
            wanted, self._wanted = self._wanted, None
            for row in rows:
                if isinstance(row.key, Path) and row.key.absolute() == wanted.absolute():
                    table.point(row.key)
        self._look_at_cursor()

    def _look_at_cursor(self) -> None:
        """Read what is in the entry under the cursor, unless that is being read."""
        key = self._table("found").key
        found = next((entry for entry in self._listing.found if entry.path == key), None)
        if found == self._shown:
            return
        if found is None or self._shown is None or found.path != self._shown.path:
            self._known = None
        self._shown, self._problem = found, "" if found is None else found.problem
        self.workers.cancel_group(self, "contents")
        if found is not None and not found.problem:
            self._read(found)
        self._show_contents()

    def _show_contents(self) -> None:
        """Show what is known of the entry under the cursor."""
        known, stages, tensors = self._known, self._table("stages"), self._table("tensors")
        grid = self.query_one(CaptureGrid)
        is_model = self._shown is not None and self._shown.kind is Kind.MODEL
        grid.set_class(not isinstance(known, CaptureContents), "-absent")
        stages.set_class(is_model, "-absent")
        tensors.set_class(not is_model, "-absent")
        name = "" if self._shown is None else place_text(self._shown.path, self._shown.path.absolute().parent)
        self._title(tensors if is_model else stages, name)
        match known:
            case CaptureContents(capture=capture, entries=entries):
                stages.show(_matching(stage_rows(capture, entries), self._filters["stages"]))
                if grid.graph is not capture.graph:
                    grid.open_graph(capture.graph)
                    self._point(self._wanted_node)
                stats = grid_stats(capture.graph, entries)
                grid.show(figures(Statistic.RMS, stats), first_bad(capture.graph, stats))
                grid.border_title = f"{name}: rms of each stage, v: all statistics"
            case ModelContents(tensors=infos, summaries=summaries):
                tensors.show(_matching(tensor_rows(infos, summaries), self._filters["tensors"]))
            case None:
                stages.show(())
                tensors.show(())
        self._say_focused()

    def _title(self, table: Table, name: str) -> None:
        """What the table of the contents says above its rows, or instead of them."""
        what = "tensors" if table.id == "tensors" else "statistics of each stage"
        table.border_title = f"{name}: {what}" if name else "contents"
        if self._problem:
            table.empty = self._problem
        elif self._shown is None:
            table.empty = "What is in a capture or a model stands here." if self._listing.found else ""
        else:
            table.empty = "Nothing matches the filter." if self._known is not None else "Reading…"

    def _point(self, node: Node | None) -> None:
        if node is not None:
            self._table("stages").point(node)
            self.query_one(CaptureGrid).put_cursor(node)

    def _say_focused(self) -> None:
        """Put the row under the cursor of the focused pane into words."""
        known = self._known
        focused = self.focused.id if self.focused is not None else "found"
        if focused in ("stages", "grid") and isinstance(known, CaptureContents) and self._node is not None:
            self.say(stage_words(self._node, known.entries.get(self._node)))
        elif focused == "tensors" and isinstance(known, ModelContents):
            name = self._table("tensors").key
            info = next((info for info in known.tensors if info.name == name), None)
            self.say("" if info is None else tensor_words(info, known.summaries.get(info.name)))
        elif self._shown is not None:
            warnings = known.capture.warnings if isinstance(known, CaptureContents) else ()
            self.say(found_words(self._shown, warnings))
        else:
            self.say("nothing found yet" if not self._looked else "no captures or models here")


def _matching(rows: Sequence[Row], text: str) -> list[Row]:
    """The rows that contain every word of `text` in one of their cells, whatever its case."""
    words = text.lower().split()
    return [row for row in rows if all(word in " ".join(row.cells).lower() for word in words)]
