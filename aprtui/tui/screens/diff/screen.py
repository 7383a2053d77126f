"""The diff screen: two captures side by side, from divergence to divergence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static

from aprtui.compare.metrics.measure import Metric
from aprtui.compare.verdict import Tolerance
from aprtui.errors import UsageError
from aprtui.tui.draw.paths import as_typed
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.screens.diff.grid import DiffGrid
from aprtui.tui.screens.diff.help_text import EXPLANATION
from aprtui.tui.screens.diff.model import METRICS, Fields, Judgement, Told, as_told, by_bound, moved_bound, told
from aprtui.tui.screens.diff.panes import DiffPanes
from aprtui.tui.screens.diff.sides import Sides, open_sides
from aprtui.tui.screens.diff.source import (
    ChildSource,
    DiffRequest,
    DiffSource,
    Ended,
    Event,
    Progressed,
    Record,
    Remark,
)
from aprtui.tui.screens.diff.verdict import Shown, VerdictLines
from aprtui.tui.screens.diff.view import DiffView
from aprtui.tui.screens.diff.words import verdict_lines

POLLS_PER_SECOND = 20

MOST_REMARKS = 6
"""Lines of warnings that are shown at once."""


class ModelInput(Input):
    """The path of the model to replay with."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Replay"),
        Binding("escape", "screen.leave_model", "Leave"),
    ]


class DiffScreen(DiffView):
    """Compare two captures. The verdict is the headless command's; the screen walks through it."""

    NAME = ScreenName.DIFF
    EXPLANATION = EXPLANATION
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("R", "replay", "Replay", id="diff.replay"),
        Binding("r", "again", "Compare again", show=False, id="diff.again"),
        Binding("c", "cancel", "Cancel", show=False, id="diff.cancel"),
        Binding("x", "swap", "Swap sides", show=False, id="diff.swap"),
        Binding("M", "turn_metric", "Next metric", show=False, id="diff.metric"),
        Binding("plus,equals_sign", "move_bound(1)", "Move bound", key_display="+ -", id="diff.bound.wider"),
        Binding("minus", "move_bound(-1)", "Narrower bound", show=False, id="diff.bound.narrower"),
        Binding("backspace", "drop_bound", "Drop your bound", show=False, id="diff.bound.drop"),
    ]
    DEFAULT_CSS = """
    DiffScreen ModelInput { border: none; height: 1; padding: 0 1; background: $panel; display: none; }
    DiffScreen.-asks ModelInput { display: block; }
    """

    class SidesOpened(Message):
        """Both captures were looked at."""

        def __init__(self, sides: Sides, model: Path | None) -> None:
            super().__init__()
            self.sides, self.model = sides, model

    def __init__(self, session: Session, state: ScreenState, source: DiffSource | None = None) -> None:
        super().__init__(session, state)
        self._source = source or ChildSource()
        self._ran = self._request
        self._judge = state.text("judge")
        self._bound = _bound(state, self._metric)
        self._embedded: Path | None = None
        self._records: list[Fields] = []
        self._remarks: list[str] = []
        self._progress = ""
        self._problem = ""
        self.comparing = False

    def compose_body(self) -> Iterable[Widget]:
        """The comparison, and where a model is asked for."""
        yield from super().compose_body()
        yield ModelInput(placeholder="path of the model to replay with", select_on_focus=False)

    def state(self) -> ScreenState:
        """The sides, what judges them, and where the cursor stands."""
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
        """The comparison, with the bound where it was moved."""
        if self._request is None:
            return []
        return self._bounded(self._request).words()

    def _bounded(self, request: DiffRequest) -> DiffRequest:
        """The request by the user's own bound, if there is one."""
        if self._bound is None:
            return request
        return DiffRequest(request.a, request.b, tolerance=str(self._bound))

    def on_mount(self) -> None:
        """Look at both sides, then compare them."""
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
        """Nothing outlives the screen."""
        self._source.cancel()

    @work(thread=True, exclusive=True, group="sides")
    def _open_sides(self, request: DiffRequest) -> None:
        sides = open_sides(request.a, request.b)
        self.post_message(self.SidesOpened(sides, sides.embedded))

    def on_diff_screen_sides_opened(self, message: SidesOpened) -> None:
        """Judge by the embedded model where both sides are of it and nothing else was asked for."""
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
        """Show what was found; what was shown before stays where nothing was."""
        self.comparing, self._progress, self._problem = False, "", problem
        self._tell_remarks()
        if not problem:
            replayed = self._ran is not None and self._ran.replay
            if replayed and self._judgement is not None and self._judgement.bound is None:
                self._before = self._before or self._judgement
            self._told = told(self._records)
            self._metric = self._metric or as_told(self._told).metric
            self._show_judgement(self._judged(self._told))
        self._show_verdict()

    def _tell_remarks(self) -> None:
        """Say what the command has warned of; its last line may be the problem, which has its own place."""
        remarks = [text for text in self._remarks if text and text != self._problem]
        if len(remarks) > MOST_REMARKS:
            more = len(remarks) - MOST_REMARKS
            remarks = [*remarks[:MOST_REMARKS], f"and {more} lines more: y copies the command that writes them all"]
        if remarks:
            self.notify("\n".join(remarks), title="Compared", severity="warning", markup=False, timeout=15)

    def _show_verdict(self) -> None:
        problem = self.query_one("#problem", Static)
        problem.update(self._problem)
        problem.display = bool(self._problem)
        lines = self.query_one(VerdictLines)
        if self.comparing:
            lines.shown = Shown("…", ("comparing" if not self._progress else self._progress, "c cancels"))
        elif self._judgement is None or self._ran is None:
            lines.shown = Shown("–", ("no verdict", "r compares again"))
        else:
            lines.shown = Shown(str(self._judgement.verdict), verdict_lines(self._judgement, self._ran))

    def action_turn_metric(self) -> None:
        """Show the next metric; a bound on another one is dropped."""
        if self._told is None or self._metric is None:
            return
        place = METRICS.index(self._metric) if self._metric in METRICS else -1
        self._metric = METRICS[(place + 1) % len(METRICS)]
        self._rejudge(None)

    def action_move_bound(self, step: int) -> None:
        """Judge by a bound of the user's own, a step wider or narrower."""
        if self._judgement is None or self._metric is None:
            return
        self._rejudge(moved_bound(self._judgement, self._metric, step))

    def action_drop_bound(self) -> None:
        """Judge as the comparison did."""
        self._rejudge(None)

    def _rejudge(self, bound: Tolerance | None) -> None:
        if self._told is None or self._request is None or self._ran is None:
            return
        self._bound = bound
        if bound is None and self._ran.tolerance:
            self._compare(self._request)
            return
        self._judgement = self._judged(self._told)
        self._show_grid()
        self._show_verdict()

    def _judged(self, told: Told) -> Judgement:
        """As the command judged, unless the bound has moved since."""
        if self._bound is None or (self._ran is not None and str(self._bound) == self._ran.tolerance):
            return as_told(told)
        return by_bound(told, self._bound)

    def action_again(self) -> None:
        """Compare again, by the bound as it was moved: then each token is judged, too."""
        if self._request is not None:
            self._compare(self._bounded(self._request))

    def action_cancel(self) -> None:
        """End the comparison that is going on."""
        if self.comparing:
            self._source.cancel()
            self._finish("cancelled: r compares again")

    def action_swap(self) -> None:
        """Make B the reference."""
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
            asked = self.query_one(ModelInput)
            name = self._sides.model_name
            asked.placeholder = f"path of the model to replay with{f' ({name})' if name else ''}"
            asked.focus()
        else:
            self._replay(model)

    def on_input_submitted(self, message: Input.Submitted) -> None:
        """Replay with the model that was named."""
        path = Path(message.value).expanduser()
        if not path.is_file():
            self.notify(f"{path}: is no file: expected a GGUF model", severity="error", markup=False)
            return
        self.action_leave_model()
        self._replay(path)

    def action_leave_model(self) -> None:
        """No replay after all."""
        self.set_class(False, "-asks")
        self.query_one(DiffGrid).focus()

    def _replay(self, model: Path) -> None:
        assert self._request is not None
        self._bound = None
        self._judge = "replay"
        self._request = replace(self._request, model=model, floor=None, replay=True)
        self._compare(self._request)


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
