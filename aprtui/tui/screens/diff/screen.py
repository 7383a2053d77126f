"""The diff screen: two captures side by side, from divergence to divergence."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from textual import on, work
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.message import Message
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Static
from textual.worker import get_current_worker

from aprtui.compare.align.pairing import Unpaired
from aprtui.compare.comparison import Cause, Comparison, Hypothesis, StageComparison
from aprtui.compare.conclusion import judge_by_bound
from aprtui.compare.metrics.logits import Flip
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.report.headline import headline
from aprtui.compare.report.records import read_comparison
from aprtui.compare.verdict import Tolerance, moved_bound
from aprtui.errors import UsageError
from aprtui.trace.archive import is_single_file
from aprtui.trace.graph.stage import Node
from aprtui.tui.draw.text import as_typed
from aprtui.tui.frame.child import ChildSource, Ended, Event, Progressed, Record, Remark
from aprtui.tui.frame.keymap import Chord, first_key
from aprtui.tui.frame.recent import models_at_hand, models_in_caches, remember
from aprtui.tui.frame.session import RecordedVerdict, Session
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.frame.tool_screen import ToolScreen
from aprtui.tui.screens.diff.causes import CausesDialog
from aprtui.tui.screens.diff.cells import COLOUR_TEXTS, METRICS, SIGN_TEXTS, cells, greys, layout, rows
from aprtui.tui.screens.diff.grid import DiffGrid
from aprtui.tui.screens.diff.models import ModelDialog, ModelSearch, search_models
from aprtui.tui.screens.diff.pair import Sides, open_sides
from aprtui.tui.screens.diff.panes import DiffPanes, Place
from aprtui.tui.screens.diff.source import DiffRequest, DiffSource
from aprtui.tui.screens.diff.verdict import HIGH, SEPARATOR, VerdictLines, VerdictText
from aprtui.tui.screens.diff.words import (
    ELEMENT_COLUMNS,
    EXPLANATION,
    HYPOTHESIS_COLUMNS,
    NO_HYPOTHESES,
    NOTHING_TO_COMPARE,
    element_rows,
    flip_words,
    hypothesis_rows,
    hypothesis_words,
    listed_stage,
    next_steps,
    no_causes,
    no_elements,
    no_stage_words,
    place_of,
    stage_words,
    verdict_details,
)
from aprtui.tui.widgets.contracts import ContractsDock
from aprtui.tui.widgets.layer_grid import KIND_MARKS
from aprtui.tui.widgets.moves import BOUNDS
from aprtui.tui.widgets.overview_grid import GridView
from aprtui.tui.widgets.table import Table

POLLS_PER_SECOND = 20

WIDE = 160
"""From this width on, lists stand beside the grid."""

DEEP = 8
"""From more rows on, the grid gets the room of some of the lists."""

CROWDED, TALL = 56, 50
"""With more layers on a screen that is less high, the overview gets the room of the lists."""

HIDDEN = ("-of-panes", "-of-lists", "-of-contracts")
"""Classes of the screen that show what has no room beside the grid."""

IDLE_SECONDS = 2.0

MOST_REMARKS = 6
"""Lines of warnings that are shown at once."""


class DiffScreen(ToolScreen):
    """Compare two captures. The verdict is the headless command's; the screen walks through it."""

    NAME = ScreenName.DIFF
    EXPLANATION = EXPLANATION
    SIGNS = (*COLOUR_TEXTS, *((sign.value, text) for sign, text in SIGN_TEXTS.items()), *KIND_MARKS)
    WIDGETS = (DiffGrid, DiffPanes, Table)
    AUTO_FOCUS = "DiffGrid"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "turn_view", "Next view", id="diff.view"),
        Binding("R", "replay", "Replay", id="diff.replay"),
        Binding("D", "diagnosis", "Causes and their proofs", show=False, id="diff.causes"),
        Binding("r", "again", "Compare again", show=False, id="diff.again"),
        Binding("c", "cancel", "Cancel", show=False, id="diff.cancel"),
        Binding("x", "swap", "Swap sides", show=False, id="diff.swap"),
        Binding("M", "turn_metric", "Next metric", show=False, id="diff.metric"),
        Binding("b", "move_bound(1)", "Move bound", key_display="b B", id="diff.bound.wider", group=BOUNDS),
        Binding("B", "move_bound(-1)", "Narrower bound", show=False, id="diff.bound.narrower", group=BOUNDS),
        Binding("F", "fold", "Fold layers that are alike, or unfold all", show=False, id="diff.fold"),
        Binding("backspace", "drop_bound", "Drop your bound", show=False, id="diff.bound.drop"),
    ]
    CHORDS: ClassVar[tuple[Chord, ...]] = (
        Chord("g d", "first_divergence", "First divergence", "diff.first"),
        Chord("] d", "divergence(1)", "Next divergent stage", "diff.next"),
        Chord("[ d", "divergence(-1)", "Divergent stage before", "diff.previous"),
        Chord("] t", "flip(1)", "Next token whose first choice flips", "diff.flip.next"),
        Chord("[ t", "flip(-1)", "Token before whose first choice flips", "diff.flip.previous"),
        Chord("m *", "mark('*')", "Mark this stage", "diff.mark"),
        Chord("' *", "jump('*')", "Go to a mark", "diff.jump"),
    )
    HORIZONTAL_BREAKPOINTS = [(0, "-stacked"), (WIDE, "-wide")]  # noqa: RUF012  # Textual declares it per instance
    VERTICAL_BREAKPOINTS = [(0, "-low"), (HIGH, "-high")]  # noqa: RUF012
    DEFAULT_CSS = """
    DiffScreen {
        #nothing { height: 1fr; padding: 2 4; display: none; }
        #body { height: 1fr; }
        #problem { height: auto; padding: 0 1; color: $error; text-style: bold; display: none; }
        #stages, #lists { height: 1fr; }
        DiffGrid { height: auto; max-height: 76%; }
        DiffPanes { height: 1fr; min-height: 6; }
        #lists Table { height: 1fr; min-height: 4; }
    }
    DiffScreen.-low.-stacked {
        DiffGrid { max-height: 100%; }
        #panes, #lists { display: none; }
        &.-of-panes { DiffGrid { display: none; } #panes { display: block; } }
        &.-of-lists { #stages { display: none; } #lists { display: block; } #dock { display: none; } }
        &.-of-contracts { #stages, #hypotheses, #elements { display: none; } #lists { display: block; } }
    }
    DiffScreen.-high.-stacked #lists {
        height: 11; layout: horizontal;
        Table { height: 100%; width: 1fr; }
        #dock { display: none; }
    }
    DiffScreen.-high.-stacked.-deep #lists { height: 8; }
    DiffScreen.-high.-stacked.-crowded {
        #lists { display: none; }
        DiffGrid { max-height: 80%; }
        &.-of-lists { #lists { display: block; } #panes { display: none; } }
        &.-of-contracts { #lists { display: block; } #panes { display: none; } }
    }
    DiffScreen.-high.-stacked.-of-contracts #lists { #dock { display: block; } #hypotheses { display: none; } }
    DiffScreen.-wide {
        #body { layout: horizontal; }
        #stages { width: 3fr; height: 100%; }
        #lists { width: 2fr; height: 100%; }
    }
    DiffScreen.-empty #nothing { display: block; }
    DiffScreen.-empty #body, DiffScreen.-empty VerdictLines { display: none; }
    """

    class SidesOpened(Message):
        """Both captures were opened, and their model was looked for."""

        def __init__(self, sides: Sides, search: ModelSearch) -> None:
            super().__init__()
            self.sides, self.search = sides, search

    def __init__(self, session: Session, state: ScreenState, source: DiffSource | None = None) -> None:
        super().__init__(session, state)
        self._source = source or ChildSource()
        a, b = state.path("a"), state.path("b")
        model, floor = state.path("model"), state.path("floor")
        self._request = (
            None if a is None or b is None else DiffRequest(a, b, model, floor, state.text("judge") == "replay")
        )
        self._wanted = Node(state.number("layer"), state.text("stage")) if state.text("stage") else None
        self._wanted_place = _place(state)
        self._metric = _metric(state)
        self._initial_view = _view(state)
        self._sides = Sides(None, None)
        # As the command reported it; as it is displayed, judged again where the bound was moved; before a replay.
        self._reported: Comparison | None = None
        self._comparison: Comparison | None = None
        self._before: Comparison | None = None
        self._entries: Mapping[Node, StageComparison | Unpaired] = {}
        self._folded = False
        self._marks: dict[str, Node] = {}
        self._flip: Flip | None = None
        self._placed: Node | None = None
        """Where the cursor was put by itself: until it is moved, it follows the verdict."""
        self._idle: Timer | None = None
        self._ran = self._request
        self._judge = state.text("judge")
        self._bound = _bound(state, self._metric)
        self._search = ModelSearch()
        self._records: list[Mapping[str, Any]] = []
        self._remarks: list[str] = []
        self._progress = "opening both sides, looking for their model"
        self._problem = ""
        self.comparing = self._request is not None

    def compose_body(self) -> Iterable[Widget]:
        yield VerdictLines()
        yield Static(id="problem", markup=False)
        yield Static(NOTHING_TO_COMPARE, id="nothing", markup=False)
        with Container(id="body"):
            with Container(id="stages"):
                yield DiffGrid(id="grid")
                yield DiffPanes(id="panes")
            with Container(id="lists"):
                yield Table(HYPOTHESIS_COLUMNS, id="hypotheses")
                yield Table(ELEMENT_COLUMNS, id="elements")
                yield ContractsDock(self.session.paths, id="dock")

    def captures(self) -> tuple[Path, ...]:
        """Both sides, the reference first."""
        return () if self._request is None else (self._request.a, self._request.b)

    def state(self) -> ScreenState:
        request = self._request
        if request is None:
            return ScreenState(self.NAME)
        node = self.query_one(DiffGrid).node or self._wanted
        place = self.query_one(DiffPanes).place or self._wanted_place
        return screen_state(
            self.NAME, a=request.a, b=request.b, judge=self._judge, model=request.model, floor=request.floor,
            layer=None if node is None else node.layer, stage=None if node is None else node.stage,
            at=None if node is None or place is None else ",".join(map(str, place)),
            metric=self._metric, bound=None if self._bound is None else self._bound.bound,
            view=self.query_one(DiffGrid).wanted_view,
        )  # fmt: skip

    def command(self) -> Sequence[str]:
        if self._request is None:
            return []
        return self._bounded(self._request).words()

    def _bounded(self, request: DiffRequest) -> DiffRequest:
        if self._bound is None:
            return request
        return DiffRequest(request.a, request.b, tolerance=str(self._bound))

    def on_mount(self) -> None:
        grid = self.query_one(DiffGrid)
        grid.border_title = "Stages"
        grid.show_view(self._initial_view)
        self.set_class(self._request is None, "-empty")
        if self._request is None:
            self.say("Nothing to compare yet.")
            return
        self.detail(f"A {as_typed(self._request.a)} ↔ B {as_typed(self._request.b)}")
        self._show_verdict()
        self.set_interval(1 / POLLS_PER_SECOND, self._poll)
        self._open_sides(self._request)

    def on_unmount(self) -> None:
        self._source.cancel()

    @work(thread=True, exclusive=True, group="sides", description="both sides and their model")
    def _open_sides(self, request: DiffRequest) -> None:
        worker = get_current_worker()
        loaded = self.session.source.info
        places = [] if loaded is None or loaded.path is None else [loaded.path]
        folders = dict.fromkeys(path.absolute().parent for path in (request.a, request.b))
        files = models_at_hand(*places, *self.session.paths, *folders)
        sides = open_sides(request.a, request.b)
        caches = partial(models_in_caches, self.program.config)
        search = search_models(sides, files, lambda: worker.is_cancelled, caches)
        if not worker.is_cancelled:
            self.post_message(self.SidesOpened(sides, search))

    def on_diff_screen_sides_opened(self, message: SidesOpened) -> None:
        """Judge by the model whose bytes both sides state, where it is at hand and the state asks for nothing else."""
        self._sides, self._search = message.sides, message.search
        request = self._request
        assert request is not None
        if request.model is None and request.replay:
            request = replace(request, model=message.search.only)
        elif request.model is None and not self._judge and request.floor is None:
            request = replace(request, model=message.search.proven)
        self._request = request
        if self.comparing:
            self._compare(request)

    def _compare(self, request: DiffRequest) -> None:
        self._ran = request
        self._records, self._remarks, self.comparing = [], [], True
        self._problem = self._progress = ""
        self._source.start(request)
        self._show_verdict()

    def _poll(self) -> None:
        for event in self._source.poll():
            self._follow(event)

    def _follow(self, event: Event) -> None:
        match event:
            case Record(fields=fields):
                self._records.append(fields)
            case Progressed(text=text):
                self._progress = text
                self._show_verdict()
            case Remark(text=text):
                self._remarks.append(text)
            case Ended(problem=problem):
                self._finish(problem)

    def _finish(self, problem: str) -> None:
        """Show the comparison; the one before stays on the screen where there is a problem."""
        self.comparing, self._progress, self._problem = False, "", problem
        self._notify_remarks()
        if not problem:
            replayed = self._ran is not None and self._ran.replay
            if replayed and self._comparison is not None and self._comparison is self._reported:
                self._before = self._before or self._comparison
            self._reported = read_comparison(self._records)
            self._note_verdict(self._reported)
            self._metric = self._metric or self._reported.metric
            self._show_comparison(self._judged(self._reported))
        self._show_verdict()

    def _note_verdict(self, comparison: Comparison) -> None:
        """Leave the verdict where Browse finds it."""
        ran = self._ran
        if ran is not None:
            found = RecordedVerdict(comparison.verdict, headline(comparison), tuple(ran.words()), time.time())
            self.session.judgements[ran.a.absolute(), ran.b.absolute()] = found

    def _notify_remarks(self) -> None:
        """Show the warnings of the command; its last line may be the problem, which has its own place."""
        remarks = [text for text in self._remarks if text and text != self._problem]
        if len(remarks) > MOST_REMARKS:
            more = len(remarks) - MOST_REMARKS
            remarks = [*remarks[:MOST_REMARKS], f"and {more} lines more: y copies the command that writes them all"]
        if remarks:
            self.notify("\n".join(remarks), title="Compared", severity="warning")

    def _show_comparison(self, comparison: Comparison) -> None:
        """Draw another comparison; the cursor goes where the state wants it, else to the stage to blame."""
        self._comparison = comparison
        self._show_grid()
        self._show_lists(comparison)
        wanted, self._wanted = self._wanted, None
        place, self._wanted_place = self._wanted_place, None
        if wanted is not None and wanted not in self._entries:
            self.notify(f"{wanted} is not in this comparison.", severity="warning")
            wanted = None
        if wanted is not None:
            self._go(wanted, place)
        else:
            self._follow_verdict()

    def _follow_verdict(self) -> None:
        """Put the cursor on the stage that the verdict names, unless it was moved."""
        grid, comparison = self.query_one(DiffGrid), self._comparison
        if comparison is None or grid.node not in (None, self._placed, next(iter(self._entries), None)):
            return
        focus = comparison.focus
        node = None if focus is None else focus.node
        if comparison.first_divergence is not None:
            node = comparison.first_divergence.verdict.node
        if node is not None and node != grid.node:
            self._go(node)
            # The rows that are in view are known once the grid has its new height.
            self.call_after_refresh(grid.centre)
        self._placed = grid.node

    def _show_grid(self) -> None:
        comparison = self._comparison
        if comparison is None or self._metric is None:
            return
        shape = layout(comparison)
        self._entries = comparison.by_node
        lines = rows(comparison, shape, self._folded)
        self.query_one(DiffGrid).show(
            shape, lines, cells(comparison, self._metric, self._before),
            self._entries, greys(comparison, self._metric),
            () if self._sides.graph is None else self._sides.graph.layer_marks,
        )  # fmt: skip
        self.query_one(DiffGrid).border_title = f"Stages, by {self._metric}"
        self._make_room()

    def on_resize(self) -> None:
        self._make_room()

    def _make_room(self) -> None:
        """Give a grid of many layers some of the room of the lists, or all of it."""
        layers = self.query_one(DiffGrid).row_count
        self.set_class(layers > DEEP, "-deep")
        self.set_class(layers > CROWDED and self.size.height < TALL, "-crowded")

    def _show_lists(self, comparison: Comparison) -> None:
        hypotheses, elements = self.query_one("#hypotheses", Table), self.query_one("#elements", Table)
        hypotheses.empty, elements.empty = NO_HYPOTHESES[comparison.verdict], no_elements(comparison)
        hypotheses.show(hypothesis_rows(comparison))
        hypotheses.border_title = "what the error looks like"
        elements.show(element_rows(comparison))
        node = listed_stage(comparison)
        elements.border_title = f"largest differences of {node}" if node is not None else "differences"
        self._judge_when_idle()

    def _judge_when_idle(self) -> None:
        """Judge contracts on both sides once the cursor rests: it may read gigabytes."""
        if self._idle is not None:
            self._idle.stop()
        self._idle = self.set_timer(IDLE_SECONDS, self._judge_contracts)

    def _judge_contracts(self) -> None:
        self._idle = None
        if self._request is not None:
            self.query_one(ContractsDock).judge(self._request.a, self._request.b)

    def _show_verdict(self) -> None:
        problem = self.query_one("#problem", Static)
        problem.update(self._problem)
        problem.display = bool(self._problem)
        lines = self.query_one(VerdictLines)
        comparison, ran = self._comparison, self._ran
        if self.comparing:
            lines.text = VerdictText("…", self._progress or "comparing", (f"{self._key('diff.cancel')} cancels",))
        elif comparison is None or ran is None:
            lines.text = VerdictText("–", "no verdict", (f"{self._key('diff.again')} compares again",))
        else:
            bound = None if comparison is self._reported else self._bound
            lines.text = VerdictText(
                str(comparison.verdict), headline(comparison), next_steps(comparison, ran, bound, self._key),
                verdict_details(comparison, ran, bound),
            )  # fmt: skip

    def _key(self, name: str) -> str:
        """The key of a command, by its id in the help, as a person calls it."""
        config = self.program.config
        return first_key(name, self.all_bindings(), self.CHORDS, config.keys, config.ascii)

    def on_diff_grid_pointed(self) -> None:
        node = self.query_one(DiffGrid).node
        if self._idle is not None:
            self._judge_when_idle()
        comparison = self._comparison
        if comparison is None:
            return
        self.query_one(DiffPanes).open(self._sides, node)
        self.query_one(ContractsDock).point_at(node)
        if self._flip is not None and node in comparison.graph.nodes[-1:]:
            self.say(flip_words(self._flip))
        elif node is not None and self._metric is not None:
            kind = "" if self._sides.graph is None else self._sides.graph.kind_words(node.layer)
            entry = self._entries.get(node)
            if entry is None:
                self.say(SEPARATOR.join(filter(None, (no_stage_words(node), kind))))
            else:
                self.say(stage_words(entry, self._metric, node in comparison.adding, kind))

    def on_diff_panes_pointed(self, message: DiffPanes.Pointed) -> None:
        if self.query_one(DiffPanes).has_focus:
            self.say(message.words)

    def on_descendant_focus(self) -> None:
        if self.query_one(DiffPanes).has_focus:
            self.say(self.query_one(DiffPanes).words)
        elif self.query_one(DiffGrid).has_focus:
            self.on_diff_grid_pointed()
        elif isinstance(self.focused, Table):
            self._say_row(self.focused)

    def on_table_pointed(self, message: Table.Pointed) -> None:
        self._say_row(message.table)

    def _say_row(self, table: Table) -> None:
        """Show the row under the cursor in full: the table may have no room for all of it."""
        row = next((row for row in table.rows if row.key == table.key), None)
        if not table.has_focus or row is None:
            return
        if isinstance(row.key, Hypothesis):
            self.say(hypothesis_words(row.key))
        else:
            self.say(SEPARATOR.join(cell for cell in row.cells if cell))

    def on_table_chosen(self, message: Table.Chosen) -> None:
        key = message.table.key
        focus = None if self._comparison is None else self._comparison.focus
        if message.table.id == "elements" and isinstance(key, tuple) and focus is not None:
            self._go(focus.node, key)
            self._see("-of-panes")
            self.query_one(DiffPanes).focus()
        elif isinstance(message.table, ContractsDock):
            request = self._request
            assert request is not None
            self.program.open_state(
                screen_state(
                    ScreenName.CONTRACTS, document=message.table.document_of(key), falsifier=key,
                    reference=request.a, capture=request.b,
                )
            )  # fmt: skip

    @on(DiffGrid.Opened)
    @on(DiffPanes.Opened)
    def open_tensor(self) -> None:
        """Open the stage under the cursor in the Tensor screen, on the value that differs most, or on the one that the
        cursor stands on in the panes: side B's, or A's where only A has it or errs.
        """
        node, request = self.query_one(DiffGrid).node, self._request
        if node is None or request is None or self._comparison is None:
            return
        entry = self._entries.get(node)
        if entry is None:
            self.notify(f"{no_stage_words(node).capitalize()}.", severity="warning")
            return
        cause = self._cause_of(node)
        is_of_a = entry.side == "a" if isinstance(entry, Unpaired) else cause is not None and cause.side == "A"
        side = request.a if is_of_a else request.b
        # Where B's values had to be put into A's order, the place is not that of the value in B's file.
        differing = entry.place if isinstance(entry, StageComparison) and not entry.reordered else {}
        place = self.query_one(DiffPanes).place or (place_of(differing) if differing else None)
        fields: dict[str, object] = {}
        if place is not None and (is_single_file(side) or "element" in differing):
            fields = {"element": place[2]}
        elif place is not None:
            fields = {"head": place[0], "at": f"{place[1]},{place[2]}"}
        if fields:
            # A cell of several values would tell of the largest of them, and not of this one.
            fields["zoom"] = "1,1"
        if is_single_file(side):
            self.program.open_state(screen_state(ScreenName.TENSOR, path=side, **fields))
        else:
            self.program.open_state(
                screen_state(ScreenName.TENSOR, capture=side, layer=node.layer, stage=node.stage, **fields)
            )

    def _go(self, node: Node, place: Place | None = None) -> None:
        self.query_one(DiffGrid).put_cursor(node)
        if place is not None:
            self.query_one(DiffPanes).open(self._sides, node, place)

    def action_first_divergence(self) -> None:
        """The stage to blame; the first beyond its bound where none is."""
        comparison = self._comparison
        if comparison is None:
            return
        if comparison.first_divergence is not None:
            self._go(comparison.first_divergence.verdict.node)
        elif comparison.divergent:
            self._go(comparison.divergent[0].node)
        else:
            self.notify("No stage is beyond its bound.")

    def action_divergence(self, step: int) -> None:
        comparison, node = self._comparison, self.query_one(DiffGrid).node
        if comparison is None or node is None:
            return
        order: dict[Node, float] = {entry: index for index, entry in enumerate(self._entries)}
        if node not in order:  # a blank cell counts as before all that its layer has
            order[node] = min(order[entry] for entry in self._entries if entry.layer == node.layer) - 0.5
        others = [stage.node for stage in comparison.divergent if (order[stage.node] - order[node]) * step > 0]
        if others:
            self._go(others[0] if step > 0 else others[-1])
        else:
            self.notify(f"No divergent stage {'after' if step > 0 else 'before'} this one.")

    def action_flip(self, step: int) -> None:
        comparison = self._comparison
        if comparison is None:
            return
        if comparison.flips is None:
            self.notify("No logits of all tokens on both sides: `aprtui trace --logits all` has them.")
            return
        at = self._flip.row if self._flip is not None else -1 if step > 0 else math.inf
        others = [flip for flip in comparison.flips if (flip.row - at) * step > 0]
        if not others:
            where, count = "after" if step > 0 else "before", len(comparison.flips)
            self.notify(f"No token {where} this one flips ({count} in all).")
            return
        flip = others[0] if step > 0 else others[-1]
        self._flip = flip
        head = next(node for node in self._entries if node.layer is None and node in comparison.graph.nodes[-1:])
        self._go(head, (0, flip.row, flip.token_b))

    def action_turn_view(self) -> None:
        """Show the next view: the layers with a line each, on a small screen the values, the lists and the contracts,
        on others the contracts in place of the hypotheses, then the overview of all layers."""
        grid, hidden = self.query_one(DiffGrid), list(HIDDEN)
        if self.has_class("-high") or self.has_class("-wide"):
            hidden = hidden[1:] if self.has_class("-crowded") and not self.has_class("-wide") else hidden[2:]
        current = next((view for view in hidden if self.has_class(view)), None)
        if current is None and grid.view is GridView.OVERVIEW:
            grid.show_view(GridView.NUMBERS)
            self.call_after_refresh(grid.centre)
        elif current == hidden[-1]:
            self._folded = False
            self._show_grid()
            grid.show_view(GridView.OVERVIEW)
            self._see("")
        else:
            self._see(hidden[0 if current is None else hidden.index(current) + 1])

    def _see(self, view: str) -> None:
        for other in HIDDEN:
            self.set_class(other == view, other)
        wanted = {"": "DiffGrid", "-of-panes": "#panes", "-of-lists": "#hypotheses", "-of-contracts": "#dock"}[view]
        self.set_focus(self.query_one(wanted))

    def action_back(self) -> None:
        """From a pane to the grid; from there to the screen before."""
        if self.query_one(DiffGrid).has_focus or self._request is None:
            super().action_back()
        else:
            self._see("")

    def action_fold(self) -> None:
        self._folded = not self._folded
        self._show_grid()

    def action_mark(self, letter: str) -> None:
        node = self.query_one(DiffGrid).node
        if node is not None:
            self._marks[letter] = node
            self.notify(f"mark {letter}: {node}")

    def action_jump(self, letter: str) -> None:
        if letter in self._marks:
            self._go(self._marks[letter])
        else:
            self.notify(f"There is no mark {letter}: m {letter} sets it.", severity="warning")

    def action_turn_metric(self) -> None:
        """Show the next metric; a bound on another one is dropped."""
        if self._reported is None or self._metric is None:
            return
        place = METRICS.index(self._metric) if self._metric in METRICS else -1
        self._metric = METRICS[(place + 1) % len(METRICS)]
        self._rejudge(None)

    def action_move_bound(self, step: int) -> None:
        if self._comparison is None or self._metric is None:
            return
        bound = None if self._comparison is self._reported else self._bound
        metrics = (stage.metrics for stage in self._comparison.stages)
        self._rejudge(moved_bound(bound, metrics, self._metric, step))

    def action_drop_bound(self) -> None:
        self._rejudge(None)

    def _rejudge(self, bound: Tolerance | None) -> None:
        if self._reported is None or self._request is None or self._ran is None:
            return
        self._bound = bound
        if bound is None and self._ran.tolerance:
            self._compare(self._request)
            return
        self._comparison = self._judged(self._reported)
        self._show_grid()
        self._show_lists(self._comparison)
        self._follow_verdict()
        self._show_verdict()

    def _judged(self, made: Comparison) -> Comparison:
        """As the command judged, unless the bound has moved since."""
        if self._bound is None or (self._ran is not None and str(self._bound) == self._ran.tolerance):
            return made
        return judge_by_bound(made, self._bound)

    def action_again(self) -> None:
        """Compare again, by the bound as it was moved: then each token is judged, too."""
        if self._request is not None:
            self._compare(self._bounded(self._request))

    def action_cancel(self) -> None:
        if self.comparing:
            self._source.cancel()
            self._finish("cancelled: r compares again")

    def action_swap(self) -> None:
        request = self._request
        if request is None:
            return
        self._before = None
        self._request = replace(request, a=request.b, b=request.a)
        self._sides = self._sides.swapped
        self.detail(f"A {as_typed(request.b)} ↔ B {as_typed(request.a)}")
        self._compare(self._bounded(self._request))

    def action_diagnosis(self) -> None:
        """Show each cause with its proof, and what was refuted; go to the stage that is chosen there."""
        comparison = self._comparison
        if comparison is None or not (comparison.causes or comparison.alternatives):
            self.notify(f"No cause was looked for: {no_causes(comparison, self._key('diff.replay'))}.")
            return
        self.app.push_screen(CausesDialog(comparison), self._go_where)

    def _go_where(self, node: Node | None) -> None:
        """Go to a stage of the diagnosis, and in it to the value that its cause is about."""
        if node in self._entries:
            assert node is not None
            cause = self._cause_of(node)
            self._go(node, place_of(cause.place(node)) if cause is not None else None)

    def _cause_of(self, node: Node) -> Cause | None:
        """The cause that a stage shows, with the value that it is about; None where the panes have no such value: where
        B's values are put into another order."""
        entry = self._entries[node]
        if self._comparison is None or (isinstance(entry, StageComparison) and entry.reordered):
            return None
        return next((cause for cause in self._comparison.causes if cause.place(node)), None)

    def action_replay(self) -> None:
        """Replay both sides with their model; ask for it where it is not certain which file that is."""
        request = self._request
        if request is None:
            return
        model = request.model or self._search.only
        if model is None:
            self.app.push_screen(ModelDialog(self._search), self._replay_with)
        else:
            self._replay(model)

    def _replay_with(self, model: Path | None) -> None:
        if model is not None:
            remember(model)
            self._replay(model)

    def _replay(self, model: Path) -> None:
        assert self._request is not None
        self._bound = None
        self._judge = "replay"
        self._request = replace(self._request, model=model, floor=None, replay=True)
        self._compare(self._request)


def _view(state: ScreenState) -> GridView | None:
    text = state.text("view")
    if text and text not in list(GridView):
        raise UsageError(f"{state}: view is {text!r}: expected one of {', '.join(GridView)}")
    return GridView(text) if text else None


def _metric(state: ScreenState) -> Metric | None:
    text = state.text("metric")
    if text and text not in METRICS:
        raise UsageError(f"{state}: metric is {text!r}: expected one of {', '.join(METRICS)}")
    return Metric(text) if text else None


def _place(state: ScreenState) -> Place | None:
    text = state.text("at")
    if not text:
        return None
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts) or not state.text("stage"):
        raise UsageError(f"{state}: at is {text!r}: expected head,row,column of a value as in 0,5,17, and its stage")
    plane, row, column = map(int, parts)
    return plane, row, column


def _bound(state: ScreenState, metric: Metric | None) -> Tolerance | None:
    text = state.text("bound")
    if not text:
        return None
    try:
        bound = float(text)
    except ValueError:
        bound = math.nan
    if metric is None or not math.isfinite(bound):
        raise UsageError(f"{state}: bound is {text!r}: expected a number, and the metric that it bounds")
    return Tolerance(metric, bound)
