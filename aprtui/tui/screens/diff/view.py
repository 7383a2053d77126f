"""The half of the diff screen that looks: grid, values and lists of a comparison, and the ways through them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Static

from aprtui.compare.metrics.measure import Metric
from aprtui.errors import UsageError
from aprtui.trace.graph import Node
from aprtui.tui.frame.keymap import Chord
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.frame.tool_screen import ToolScreen
from aprtui.tui.screens.diff.cells import cells, greys, layout, rows
from aprtui.tui.screens.diff.grid import DiffGrid
from aprtui.tui.screens.diff.help_text import NOTHING_TO_COMPARE
from aprtui.tui.screens.diff.lists import (
    ELEMENT_COLUMNS,
    HYPOTHESIS_COLUMNS,
    NO_ELEMENTS,
    NO_HYPOTHESES,
    element_rows,
    hypothesis_rows,
)
from aprtui.tui.screens.diff.model import METRICS, Flip, Judgement, Told
from aprtui.tui.screens.diff.panes import DiffPanes, Place
from aprtui.tui.screens.diff.sides import Sides
from aprtui.tui.screens.diff.source import DiffRequest
from aprtui.tui.screens.diff.verdict import VerdictLines
from aprtui.tui.screens.diff.words import SEPARATOR, flip_words, stage_words
from aprtui.tui.widgets.contracts.dock import ContractsDock
from aprtui.tui.widgets.table import Table

WIDE = 160
"""From this width on, lists stand beside the grid."""

IDLE_SECONDS = 2.0

HIGH = 34
"""From this height on, panes and lists are seen together."""


class DiffView(ToolScreen):
    """Shows a judgement on two captures, and goes from stage to stage."""

    WIDGETS = (DiffGrid, DiffPanes, Table)
    AUTO_FOCUS = "DiffGrid"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "turn_view", "Next view", id="diff.view"),
        Binding("tab", "app.focus_next", "Next pane", show=False),
        Binding("shift+tab", "app.focus_previous", "Pane before", show=False),
    ]
    CHORDS: ClassVar[tuple[Chord, ...]] = (
        Chord("g d", "first_divergence", "First divergence", "diff.first"),
        Chord("] d", "divergence(1)", "Next divergent stage", "diff.next"),
        Chord("[ d", "divergence(-1)", "Divergent stage before", "diff.previous"),
        Chord("] t", "flip(1)", "Next token whose first choice flips", "diff.flip.next"),
        Chord("[ t", "flip(-1)", "Token before whose first choice flips", "diff.flip.previous"),
        Chord("z M", "fold(True)", "Fold layers that are alike", "diff.fold"),
        Chord("z R", "fold(False)", "Unfold all layers", "diff.unfold"),
        Chord("m *", "mark('*')", "Mark this stage", "diff.mark"),
        Chord("' *", "jump('*')", "Go to a mark", "diff.jump"),
    )
    HORIZONTAL_BREAKPOINTS = [(0, "-stacked"), (WIDE, "-wide")]  # noqa: RUF012  # Textual declares it per instance
    VERTICAL_BREAKPOINTS = [(0, "-low"), (HIGH, "-high")]  # noqa: RUF012
    DEFAULT_CSS = """
    DiffView {
        #nothing { height: 1fr; padding: 2 4; display: none; }
        #body { height: 1fr; }
        #problem { height: auto; padding: 0 1; color: $error; text-style: bold; display: none; }
        #stages, #lists { height: 1fr; }
        DiffGrid { height: auto; max-height: 75%; }
        #lists Table { height: 1fr; min-height: 4; }
    }
    DiffView.-low VerdictLines { height: 3; }
    DiffView.-low.-stacked {
        DiffGrid { max-height: 100%; }
        #panes, #lists { display: none; }
        &.-of-panes { DiffGrid { display: none; } #panes { display: block; } }
        &.-of-lists { #stages { display: none; } #lists { display: block; } #dock { display: none; } }
        &.-of-contracts { #stages, #hypotheses, #elements { display: none; } #lists { display: block; } }
    }
    DiffView.-high.-stacked #lists {
        height: 11; layout: horizontal;
        Table { height: 100%; width: 1fr; }
        #dock { display: none; }
    }
    DiffView.-high.-stacked.-of-contracts { #dock { display: block; } #hypotheses { display: none; } }
    DiffView.-wide {
        #body { layout: horizontal; }
        #stages { width: 3fr; height: 100%; }
        #lists { width: 2fr; height: 100%; }
    }
    DiffView.-empty #nothing { display: block; }
    DiffView.-empty #body, DiffView.-empty VerdictLines { display: none; }
    """

    def __init__(self, session: Session, state: ScreenState) -> None:
        super().__init__(session, state)
        a, b = state.path("a"), state.path("b")
        model, floor = state.path("model"), state.path("floor")
        self._request = (
            None if a is None or b is None else DiffRequest(a, b, model, floor, state.text("judge") == "replay")
        )
        self._wanted = Node(state.number("layer"), state.text("stage")) if state.text("stage") else None
        self._wanted_place = _place(state)
        self._metric = _metric(state)
        self._sides = Sides(None, None)
        self._told: Told | None = None
        self._judgement: Judgement | None = None
        self._before: Judgement | None = None
        self._folded = False
        self._marks: dict[str, Node] = {}
        self._flip: Flip | None = None
        self._idle: Timer | None = None

    def compose_body(self) -> Iterable[Widget]:
        """Verdict, grid, panes, lists."""
        yield VerdictLines()
        yield Static(id="problem", markup=False)
        yield Static(NOTHING_TO_COMPARE, id="nothing", markup=False)
        with Container(id="body"):
            with Container(id="stages"):
                yield DiffGrid(id="grid")
                yield DiffPanes(id="panes")
            with Container(id="lists"):
                yield Table(HYPOTHESIS_COLUMNS, NO_HYPOTHESES, id="hypotheses")
                yield Table(ELEMENT_COLUMNS, NO_ELEMENTS, id="elements")
                yield ContractsDock(self.session.paths, id="dock")

    def captures(self) -> tuple[Path, ...]:
        """Both sides, the reference first."""
        return () if self._request is None else (self._request.a, self._request.b)

    def _show_judgement(self, judgement: Judgement) -> None:
        """Draw another comparison; the cursor goes where the state wants it, else to the stage to blame."""
        self._judgement = judgement
        self._show_grid()
        self._show_lists(judgement)
        wanted, self._wanted = self._wanted, None
        place, self._wanted_place = self._wanted_place, None
        if wanted is not None and wanted not in judgement.stages:
            self.notify(f"{wanted} is not in this comparison.", severity="warning", markup=False)
            wanted = None
        if wanted is not None:
            self._go(wanted, place)
        elif judgement.first is not None and self._before is None:
            self._go(judgement.first)

    def _show_grid(self) -> None:
        judgement = self._judgement
        if judgement is None or self._metric is None:
            return
        shape = layout(judgement.told)
        self.query_one(DiffGrid).show(
            shape, rows(judgement, shape, self._folded), cells(judgement, self._metric, self._before),
            judgement.stages, greys(judgement.told, self._metric),
        )  # fmt: skip
        self.query_one(DiffGrid).border_title = f"Stages, by {self._metric}"

    def _show_lists(self, judgement: Judgement) -> None:
        hypotheses, elements = self.query_one("#hypotheses", Table), self.query_one("#elements", Table)
        told = judgement.told
        hypotheses.show(hypothesis_rows(judgement))
        hypotheses.border_title = "what the error looks like"
        elements.show(element_rows(judgement))
        elements.border_title = f"largest differences of {told.focus}" if told.focus is not None else "differences"
        self._judge_when_idle()

    def _judge_when_idle(self) -> None:
        """Judge contracts on both sides once nobody walks through the grid: it may read gigabytes."""
        if self._idle is not None:
            self._idle.stop()
        self._idle = self.set_timer(IDLE_SECONDS, self._judge_contracts)

    def _judge_contracts(self) -> None:
        self._idle = None
        if self._request is not None:
            self.query_one(ContractsDock).judge(self._request.a, self._request.b)

    def on_diff_grid_pointed(self) -> None:
        """Say what the stage under the cursor says; panes and contracts follow it."""
        node = self.query_one(DiffGrid).node
        if self._idle is not None:
            self._judge_when_idle()
        if self._judgement is not None:
            self.query_one(DiffPanes).open(self._sides, node)
            self.query_one(ContractsDock).point_at(node)
        if self._flip is not None and self._told is not None and node in self._told.graph.nodes[-1:]:
            self.say(flip_words(self._flip))
        elif node is not None and self._judgement is not None and self._metric is not None:
            self.say(stage_words(self._judgement.stages[node], self._metric))

    def on_diff_panes_pointed(self, message: DiffPanes.Pointed) -> None:
        """Say the value under the cursor of the panes, while they are walked through."""
        if self.query_one(DiffPanes).has_focus:
            self.say(message.words)

    def on_descendant_focus(self) -> None:
        """Other words for another pane."""
        if self.query_one(DiffPanes).has_focus:
            self.say(self.query_one(DiffPanes).words)
        elif self.query_one(DiffGrid).has_focus:
            self.on_diff_grid_pointed()

    def on_table_pointed(self, message: Table.Pointed) -> None:
        """Say the row in full: there may be no room for all of it."""
        row = next((row for row in message.table.rows if row.key == message.table.key), None)
        if message.table.has_focus and row is not None:
            self.say(SEPARATOR.join(cell for cell in row.cells if cell))

    def on_table_chosen(self, message: Table.Chosen) -> None:
        """Jump to a value that differs most; open a falsifier."""
        key, told = message.table.key, self._told
        if message.table.id == "elements" and isinstance(key, tuple) and told is not None and told.focus is not None:
            self._go(told.focus, key)
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

    def on_diff_panes_opened(self) -> None:
        """Open the stage in the tensor screen."""
        self.on_diff_grid_opened()

    def on_diff_grid_opened(self) -> None:
        """Open the stage under the cursor in the Tensor screen: side B's, or A's where only A has it."""
        node, request = self.query_one(DiffGrid).node, self._request
        if node is None or request is None or self._judgement is None:
            return
        stage = self._judgement.stages[node]
        side = request.a if stage.side == "a" else request.b
        if side.is_file():
            self.program.open_state(screen_state(ScreenName.TENSOR, path=side))
        else:
            self.program.open_state(screen_state(ScreenName.TENSOR, capture=side, layer=node.layer, stage=node.stage))

    def _go(self, node: Node, place: Place | None = None) -> None:
        """To a stage, and there to a value where one is meant."""
        self.query_one(DiffGrid).put_cursor(node)
        if place is not None:
            self.query_one(DiffPanes).open(self._sides, node, place)

    def action_first_divergence(self) -> None:
        """The stage to blame; the first beyond its bound where none is."""
        judgement = self._judgement
        if judgement is None:
            return
        node = judgement.first or next(iter(judgement.divergent), None)
        if node is None:
            self.notify("No stage is beyond its bound.")
        else:
            self._go(node)

    def action_divergence(self, step: int) -> None:
        """The next stage beyond its bound, or the one before."""
        judgement, node = self._judgement, self.query_one(DiffGrid).node
        if judgement is None or node is None:
            return
        order = {node: index for index, node in enumerate(judgement.stages)}
        others = [other for other in judgement.divergent if (order[other] - order[node]) * step > 0]
        if others:
            self._go(others[0] if step > 0 else others[-1])
        else:
            self.notify(f"No divergent stage {'after' if step > 0 else 'before'} this one.")

    def action_flip(self, step: int) -> None:
        """The next token after which the sides would say another token, or the one before; at the logits."""
        told = self._told
        if told is None:
            return
        if told.flips is None:
            self.notify("No logits of all tokens on both sides: `aprtui trace --logits all` has them.", markup=False)
            return
        at = self._flip.token if self._flip is not None else -1 if step > 0 else math.inf
        others = [flip for flip in told.flips if (flip.token - at) * step > 0]
        if not others:
            self.notify(f"No token {'after' if step > 0 else 'before'} this one flips ({len(told.flips)} in all).")
            return
        flip = others[0] if step > 0 else others[-1]
        self._flip = flip
        head = next(node for node in told.stages if node.layer is None and node in told.graph.nodes[-1:])
        self._go(head, (0, flip.token, flip.id_b))

    def action_turn_view(self) -> None:
        """On a small screen: from the grid to the values, the lists and the contracts; else contracts or hypotheses."""
        views = ["", "-of-panes", "-of-lists", "-of-contracts"]
        if self.has_class("-high") or self.has_class("-wide"):
            views = ["", "-of-contracts"]
        shown = next((view for view in views[1:] if self.has_class(view)), "")
        self._see(views[(views.index(shown) + 1) % len(views)])

    def _see(self, view: str) -> None:
        for other in ("-of-panes", "-of-lists", "-of-contracts"):
            self.set_class(other == view, other)
        wanted = {"": "DiffGrid", "-of-panes": "#panes", "-of-lists": "#hypotheses", "-of-contracts": "#dock"}[view]
        self.set_focus(self.query_one(wanted))

    def action_back(self) -> None:
        """From a pane to the grid; from there to the screen before."""
        if self.query_one(DiffGrid).has_focus or self._request is None:
            super().action_back()
        else:
            self._see("")

    def action_fold(self, folded: bool) -> None:
        """Fold the layers that are alike, or unfold all."""
        self._folded = folded
        self._show_grid()

    def action_mark(self, letter: str) -> None:
        """Mark the stage under the cursor."""
        node = self.query_one(DiffGrid).node
        if node is not None:
            self._marks[letter] = node
            self.notify(f"mark {letter}: {node}", timeout=3)

    def action_jump(self, letter: str) -> None:
        """Go to a marked stage."""
        if letter in self._marks:
            self._go(self._marks[letter])
        else:
            self.notify(f"There is no mark {letter}: m {letter} sets it.", severity="warning")


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
