"""The diff screen: two captures side by side, from divergence to divergence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from rich.segment import Segment
from textual import on, work
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input, Static

from aprtui.compare.align.pairing import Unpaired
from aprtui.compare.comparison import Comparison, StageComparison
from aprtui.compare.conclusion import judge_by_bound
from aprtui.compare.metrics.logits import Flip
from aprtui.compare.metrics.measure import Metric
from aprtui.compare.report.records import read_comparison
from aprtui.compare.verdict import Tolerance, moved_bound
from aprtui.errors import UsageError
from aprtui.trace.graph import Node
from aprtui.tui.draw.text import as_typed, clipped
from aprtui.tui.frame.child import ChildSource, Ended, Event, Progressed, Record, Remark
from aprtui.tui.frame.keymap import Chord
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.frame.tool_screen import ToolScreen
from aprtui.tui.screens.diff.cells import METRICS, cells, greys, layout, rows
from aprtui.tui.screens.diff.grid import DiffGrid
from aprtui.tui.screens.diff.pair import Sides, open_sides
from aprtui.tui.screens.diff.panes import DiffPanes, Place
from aprtui.tui.screens.diff.source import DiffRequest, DiffSource
from aprtui.tui.screens.diff.words import (
    ELEMENT_COLUMNS,
    EXPLANATION,
    HYPOTHESIS_COLUMNS,
    NO_ELEMENTS,
    NO_HYPOTHESES,
    NOTHING_TO_COMPARE,
    SEPARATOR,
    element_rows,
    flip_words,
    hypothesis_rows,
    stage_words,
    verdict_lines,
)
from aprtui.tui.widgets.contracts import ContractsDock
from aprtui.tui.widgets.line_widget import LineWidget
from aprtui.tui.widgets.table import Table

POLLS_PER_SECOND = 20

WIDE = 160
"""From this width on, lists stand beside the grid."""

IDLE_SECONDS = 2.0

HIGH = 34
"""From this height on, panes and lists are seen together."""

MOST_REMARKS = 6
"""Lines of warnings that are shown at once."""

VERDICT_COLUMN = 10
"""Cells of the verdict's word and the space around it."""


@dataclass(frozen=True, slots=True)
class VerdictText:
    """A word (PASS, FAIL, UNKNOWN, or what is going on) and lines beside it, what it rests on."""

    word: str = ""
    lines: tuple[str, ...] = ()


class VerdictLines(LineWidget):
    """The verdict of a comparison on four lines, the last of which can be done without."""

    PREFIX = "verdict"
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"verdict--{name}" for name in ("pass", "fail", "unknown", "other", "first", "rest")
    }
    DEFAULT_CSS = """
    VerdictLines {
        height: 4; padding: 0 1; background: $panel;
        .verdict--pass { color: $background; background: $accent; text-style: bold; }
        .verdict--fail { color: $background; background: $error; text-style: bold; }
        .verdict--unknown { color: $background; background: $foreground; text-style: bold; }
        .verdict--other { color: $accent; text-style: bold; }
        .verdict--first { color: $foreground; text-style: bold; }
        .verdict--rest { color: $text-muted; }
        &:nocolor .verdict--pass, &:nocolor .verdict--fail, &:nocolor .verdict--unknown { text-style: reverse bold; }
    }
    """

    text: reactive[VerdictText] = reactive(VerdictText())

    def render_line(self, y: int) -> Strip:
        width, content = self.size.width, self.text
        name = content.word.lower() if content.word in ("PASS", "FAIL", "UNKNOWN") else "other"
        word = content.word if y == 0 else ""
        style = self.style(name) if word else self.style()
        text = clipped(content.lines[y] if y < len(content.lines) else "", max(width - VERDICT_COLUMN, 0))
        rest = self.style("first" if y == 0 else "rest")
        segments = [
            Segment(f" {word} ".center(VERDICT_COLUMN - 1), style),
            Segment(" ", self.style()),
            Segment(text, rest),
        ]
        return Strip(segments).adjust_cell_length(width, self.style())


class ModelInput(Input):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Replay"),
        Binding("escape", "screen.leave_model", "Leave"),
    ]


class DiffScreen(ToolScreen):
    """Compare two captures. The verdict is the headless command's; the screen walks through it."""

    NAME = ScreenName.DIFF
    EXPLANATION = EXPLANATION
    WIDGETS = (DiffGrid, DiffPanes, Table)
    AUTO_FOCUS = "DiffGrid"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "turn_view", "Next view", id="diff.view"),
        Binding("R", "replay", "Replay", id="diff.replay"),
        Binding("r", "again", "Compare again", show=False, id="diff.again"),
        Binding("c", "cancel", "Cancel", show=False, id="diff.cancel"),
        Binding("x", "swap", "Swap sides", show=False, id="diff.swap"),
        Binding("M", "turn_metric", "Next metric", show=False, id="diff.metric"),
        Binding("b", "move_bound(1)", "Move bound", key_display="b B", id="diff.bound.wider"),
        Binding("B", "move_bound(-1)", "Narrower bound", show=False, id="diff.bound.narrower"),
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
        DiffGrid { height: auto; max-height: 75%; }
        #lists Table { height: 1fr; min-height: 4; }
    }
    DiffScreen.-low VerdictLines { height: 3; }
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
    DiffScreen.-high.-stacked.-of-contracts { #dock { display: block; } #hypotheses { display: none; } }
    DiffScreen.-wide {
        #body { layout: horizontal; }
        #stages { width: 3fr; height: 100%; }
        #lists { width: 2fr; height: 100%; }
    }
    DiffScreen.-empty #nothing { display: block; }
    DiffScreen.-empty #body, DiffScreen.-empty VerdictLines { display: none; }
    DiffScreen ModelInput { border: none; height: 1; padding: 0 1; background: $panel; display: none; }
    DiffScreen.-asks ModelInput { display: block; }
    """

    class SidesOpened(Message):
        """Both captures were opened; `model` is the embedded one where both are of it."""

        def __init__(self, sides: Sides, model: Path | None) -> None:
            super().__init__()
            self.sides, self.model = sides, model

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
        self._sides = Sides(None, None)
        # As the command reported it; as it is displayed, judged again where the bound was moved; before a replay.
        self._reported: Comparison | None = None
        self._comparison: Comparison | None = None
        self._before: Comparison | None = None
        self._entries: Mapping[Node, StageComparison | Unpaired] = {}
        self._folded = False
        self._marks: dict[str, Node] = {}
        self._flip: Flip | None = None
        self._idle: Timer | None = None
        self._ran = self._request
        self._judge = state.text("judge")
        self._bound = _bound(state, self._metric)
        self._embedded: Path | None = None
        self._records: list[Mapping[str, Any]] = []
        self._remarks: list[str] = []
        self._progress = ""
        self._problem = ""
        self.comparing = False

    def compose_body(self) -> Iterable[Widget]:
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
        yield ModelInput(placeholder="path of the model to replay with", select_on_focus=False)

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
        self.query_one(DiffGrid).border_title = "Stages"
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

    @work(thread=True, exclusive=True, group="sides")
    def _open_sides(self, request: DiffRequest) -> None:
        sides = open_sides(request.a, request.b)
        self.post_message(self.SidesOpened(sides, sides.embedded))

    def on_diff_screen_sides_opened(self, message: SidesOpened) -> None:
        """Judge by the embedded model where both sides are captures of it and the state asks for nothing else."""
        self._sides, self._embedded = message.sides, message.model
        request = self._request
        assert request is not None
        if request.model is None and (request.replay or (not self._judge and request.floor is None)):
            request = replace(request, model=message.model)
        self._request = request
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
            self._metric = self._metric or self._reported.metric
            self._show_comparison(self._judged(self._reported))
        self._show_verdict()

    def _notify_remarks(self) -> None:
        """Show the warnings of the command; its last line may be the problem, which has its own place."""
        remarks = [text for text in self._remarks if text and text != self._problem]
        if len(remarks) > MOST_REMARKS:
            more = len(remarks) - MOST_REMARKS
            remarks = [*remarks[:MOST_REMARKS], f"and {more} lines more: y copies the command that writes them all"]
        if remarks:
            self.notify("\n".join(remarks), title="Compared", severity="warning", markup=False, timeout=15)

    def _show_comparison(self, comparison: Comparison) -> None:
        """Draw another comparison; the cursor goes where the state wants it, else to the stage to blame."""
        self._comparison = comparison
        self._show_grid()
        self._show_lists(comparison)
        wanted, self._wanted = self._wanted, None
        place, self._wanted_place = self._wanted_place, None
        if wanted is not None and wanted not in self._entries:
            self.notify(f"{wanted} is not in this comparison.", severity="warning", markup=False)
            wanted = None
        if wanted is not None:
            self._go(wanted, place)
        elif comparison.first_divergence is not None and self._before is None:
            self._go(comparison.first_divergence.verdict.node)

    def _show_grid(self) -> None:
        comparison = self._comparison
        if comparison is None or self._metric is None:
            return
        shape = layout(comparison)
        self._entries = comparison.by_node
        self.query_one(DiffGrid).show(
            shape, rows(comparison, shape, self._folded), cells(comparison, self._metric, self._before),
            self._entries, greys(comparison, self._metric),
        )  # fmt: skip
        self.query_one(DiffGrid).border_title = f"Stages, by {self._metric}"

    def _show_lists(self, comparison: Comparison) -> None:
        hypotheses, elements = self.query_one("#hypotheses", Table), self.query_one("#elements", Table)
        hypotheses.show(hypothesis_rows(comparison))
        hypotheses.border_title = "what the error looks like"
        elements.show(element_rows(comparison))
        focus = comparison.focus
        elements.border_title = f"largest differences of {focus.node}" if focus is not None else "differences"
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
        if self.comparing:
            lines.text = VerdictText("…", ("comparing" if not self._progress else self._progress, "c cancels"))
        elif self._comparison is None or self._ran is None:
            lines.text = VerdictText("–", ("no verdict", "r compares again"))
        else:
            bound = None if self._comparison is self._reported else self._bound
            words = verdict_lines(self._comparison, self._ran, bound)
            lines.text = VerdictText(str(self._comparison.verdict), words)

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
            self.say(stage_words(self._entries[node], self._metric))

    def on_diff_panes_pointed(self, message: DiffPanes.Pointed) -> None:
        if self.query_one(DiffPanes).has_focus:
            self.say(message.words)

    def on_descendant_focus(self) -> None:
        if self.query_one(DiffPanes).has_focus:
            self.say(self.query_one(DiffPanes).words)
        elif self.query_one(DiffGrid).has_focus:
            self.on_diff_grid_pointed()

    def on_table_pointed(self, message: Table.Pointed) -> None:
        """Show the row in full: the table may have no room for all of it."""
        row = next((row for row in message.table.rows if row.key == message.table.key), None)
        if message.table.has_focus and row is not None:
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
        """Open the stage under the cursor in the Tensor screen: side B's, or A's where only A has it."""
        node, request = self.query_one(DiffGrid).node, self._request
        if node is None or request is None or self._comparison is None:
            return
        entry = self._entries[node]
        side = request.a if isinstance(entry, Unpaired) and entry.side == "a" else request.b
        if side.is_file():
            self.program.open_state(screen_state(ScreenName.TENSOR, path=side))
        else:
            self.program.open_state(screen_state(ScreenName.TENSOR, capture=side, layer=node.layer, stage=node.stage))

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
        order = {node: index for index, node in enumerate(self._entries)}
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
            self.notify("No logits of all tokens on both sides: `aprtui trace --logits all` has them.", markup=False)
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
        """On a small screen: from the grid to the values, the lists and the contracts; else contracts or hypotheses."""
        views = ["", "-of-panes", "-of-lists", "-of-contracts"]
        if self.has_class("-high") or self.has_class("-wide"):
            views = ["", "-of-contracts"]
        current = next((view for view in views[1:] if self.has_class(view)), "")
        self._see(views[(views.index(current) + 1) % len(views)])

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

    def action_fold(self) -> None:
        self._folded = not self._folded
        self._show_grid()

    def action_mark(self, letter: str) -> None:
        node = self.query_one(DiffGrid).node
        if node is not None:
            self._marks[letter] = node
            self.notify(f"mark {letter}: {node}", timeout=3)

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
        self._sides = Sides(self._sides.b, self._sides.a)
        self.detail(f"A {as_typed(request.b)} ↔ B {as_typed(request.a)}")
        self._compare(self._bounded(self._request))

    def action_replay(self) -> None:
        """Replay both sides with their model; ask for it where it is not known."""
        request = self._request
        if request is None:
            return
        model = request.model or self._embedded
        if model is None:
            self.set_class(True, "-asks")
            model_input = self.query_one(ModelInput)
            name = self._sides.model_name
            model_input.placeholder = f"path of the model to replay with{f' ({name})' if name else ''}"
            model_input.focus()
        else:
            self._replay(model)

    def on_input_submitted(self, message: Input.Submitted) -> None:
        path = Path(message.value).expanduser()
        if not path.is_file():
            self.notify(f"{path}: is no file: expected a GGUF model", severity="error", markup=False)
            return
        self.action_leave_model()
        self._replay(path)

    def action_leave_model(self) -> None:
        self.set_class(False, "-asks")
        self.query_one(DiffGrid).focus()

    def _replay(self, model: Path) -> None:
        assert self._request is not None
        self._bound = None
        self._judge = "replay"
        self._request = replace(self._request, model=model, floor=None, replay=True)
        self._compare(self._request)


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
