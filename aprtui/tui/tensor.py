"""The tensor screen: one stage tensor or weight, from the whole of it to single values and their bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual import work
from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Input, Static
from textual.worker import get_current_worker

from aprtui.errors import AprtuiError, UsageError
from aprtui.trace.capture import Capture
from aprtui.trace.profile import Profile
from aprtui.tui.heatmap import Heatmap
from aprtui.tui.keymap import Chord
from aprtui.tui.recent import recent_paths
from aprtui.tui.session import Session
from aprtui.tui.state import ScreenName, ScreenState, screen_state
from aprtui.tui.table import Table
from aprtui.tui.tensor_body import TensorBody
from aprtui.tui.tensor_help import EXPLANATION
from aprtui.tui.tensor_load import Glimpse, checksum_problem, glimpses, token_texts, whole_profile
from aprtui.tui.tensor_map import TensorMap
from aprtui.tui.tensor_messages import Failed, Glimpsed, Profiled, Worded
from aprtui.tui.tensor_shown import Shown
from aprtui.tui.tensor_side import Pointed, in_words, pointed
from aprtui.tui.tensor_source import StageSource, TensorSource, open_neighbour, open_source
from aprtui.tui.tensor_text import RowLabels, parse_place
from aprtui.tui.tensor_view import View
from aprtui.tui.tiles import ScaleKind
from aprtui.tui.tool_screen import ToolScreen, as_typed

CLIPS = (1.0, 0.999, 0.99)
"""Shares of the values that the scale covers, the largest magnitudes left out."""

SECONDS_BETWEEN_LOOKS = 1.0


class PlaceInput(Input):
    """Where to go."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Go"),
        Binding("escape", "screen.back", "Stay"),
    ]


class TensorScreen(ToolScreen):
    """Look at one tensor. Threads read it; the screen draws what they have found."""

    NAME = ScreenName.TENSOR
    EXPLANATION = EXPLANATION
    WIDGETS = (TensorMap, Table)
    AUTO_FOCUS = "TensorMap"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("plus,equals_sign", "zoom(True)", "Zoom in", key_display="+", id="tensor.closer"),
        Binding("minus", "zoom(False)", "Zoom out", show=False, id="tensor.farther"),
        Binding("f", "fit", "All of the tensor", show=False, id="tensor.fit"),
        Binding("c", "scale", "Scale", id="tensor.scale"),
        Binding("C", "clip", "Leave the largest values out of the scale", show=False, id="tensor.clip"),
        Binding("g,slash", "go", "Go to token,channel", show=False, id="tensor.go"),
        Binding("n", "step(1, 'layer')", "Next stage", id="tensor.next"),
        Binding("p", "step(-1, 'layer')", "Stage before", show=False, id="tensor.previous"),
        Binding("N", "step(1, 'stage')", "Same stage, next layer", show=False, id="tensor.next.layer"),
        Binding("P", "step(-1, 'stage')", "Same stage, layer before", show=False, id="tensor.previous.layer"),
        Binding("o", "outliers", "Outlier channels", show=False, id="tensor.outliers"),
        Binding("v", "turn_view", "Side, bytes or neither (small screens)", show=False, id="tensor.view"),
        Binding("r", "read_again", "Read the file again", show=False, id="tensor.read"),
        Binding("tab", "app.focus_next", "Next pane", show=False),
        Binding("shift+tab", "app.focus_previous", "Pane before", show=False),
    ]
    CHORDS: ClassVar[tuple[Chord, ...]] = (
        Chord("] s", "step(1, 'layer')", "Next stage", "tensor.chord.next"),
        Chord("[ s", "step(-1, 'layer')", "Stage before", "tensor.chord.previous"),
        Chord("] l", "step(1, 'stage')", "Same stage, next layer", "tensor.chord.next.layer"),
        Chord("[ l", "step(-1, 'stage')", "Same stage, layer before", "tensor.chord.previous.layer"),
        Chord("] h", "head(1)", "Next head", "tensor.chord.next.head"),
        Chord("[ h", "head(-1)", "Head before", "tensor.chord.previous.head"),
    )
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-broad")]  # noqa: RUF012  # Textual declares it per instance
    VERTICAL_BREAKPOINTS = [(0, "-low"), (34, "-high")]  # noqa: RUF012
    DEFAULT_CSS = """
    TensorScreen {
        #problem { height: auto; max-height: 3; padding: 0 1; color: $error; text-style: bold; display: none; }
        #place { border: none; height: 1; padding: 0 1; background: $panel; display: none; }
        /* On small terminals side and bytes are hidden until they are asked for. */
        &.-narrow #side { display: none; width: 36; }
        &.-low #value { height: 8; }
        &.-low #histogram { height: 9; }
        &.-low #bytes { display: none; height: 7; }
        &.-show-side #side, &.-show-bytes #bytes { display: block; }
    }
    """

    def __init__(self, session: Session, state: ScreenState) -> None:
        super().__init__(session, state)
        self._source: TensorSource | None = open_source(state)
        self._wanted: ScreenState | None = state
        self._plane = 0
        self._view: View | None = None
        self._glimpse: Glimpse | None = None
        self._profile: Profile | None = None
        self._pointed: Pointed | None = None
        self._texts: tuple[str, ...] = ()
        self._changed = ""
        self._kind = ScaleKind(state.text("scale")) if state.text("scale") in set(ScaleKind) else ScaleKind.LINEAR
        self._clip = next((share for share in CLIPS if f"{share:g}" == state.text("clip")), CLIPS[0])

    def compose_body(self) -> Iterable[Widget]:
        """What is wrong, the panes, and where to go."""
        yield Static(id="problem", markup=False)
        yield TensorBody()
        yield PlaceInput(id="place")

    def on_mount(self) -> None:
        """Show what there is."""
        self.set_interval(SECONDS_BETWEEN_LOOKS, self._look_at_file)
        self._begin()

    def state(self) -> ScreenState:
        """The tensor, the cursor, the zoom and the scale."""
        source, view = self._source, self._view
        if source is None:
            return ScreenState(self.NAME)
        fields: dict[str, object] = dict(source.state().fields)
        if view is not None:
            viewport = view.viewport
            zoom = "numbers" if view.numbers else f"{viewport.rows_per_cell},{viewport.columns_per_cell}"
            fields |= {"at": f"{view.row},{view.column}", "zoom": None if view.is_whole and not view.numbers else zoom}
        head = self._plane if source.planes > 1 else None
        clip = None if self._clip == CLIPS[0] else f"{self._clip:g}"
        return screen_state(self.NAME, **fields, head=head, scale=self._kind, clip=clip)

    def command(self) -> Sequence[str]:
        """The statistics of the tensor, and the value under the cursor."""
        if self._source is None:
            return []
        found = self._pointed
        place = [] if found is None else [found.row, found.column]
        if found is not None and self._source.planes > 1:
            place.insert(0, found.plane)
        return self._source.command(place)

    def on_heatmap_resized(self, message: Heatmap.Resized) -> None:
        """Another room for the heatmap."""
        size = self._body.heat.size
        if self._source is None or not size.height or not size.width:
            return
        if self._view is None or self._wanted is not None:
            self._view = self._first_view(self._source, size.height, size.width)
        else:
            self._view = self._view.resized(size.height, size.width)
        self._wish()
        self.call_after_refresh(self._draw_side)

    def on_heatmap_pointed(self, message: Heatmap.Pointed) -> None:
        """A click puts the cursor on a cell."""
        if self._view is not None:
            self._turn(self._view.pointed(message.row, message.column))

    def on_tensor_map_moved(self, message: TensorMap.Moved) -> None:
        """The cursor moves."""
        view = self._view
        if view is not None and message.end is not None:
            self._turn(view.at(view.row, 0 if message.end == 0 else view.shape[1] - 1))
        elif view is not None:
            self._turn(view.moved(message.rows, message.columns))

    def on_tensor_map_chosen(self) -> None:
        """Zoom to the value that the cursor stands for."""
        if self._view is not None and self._pointed is not None:
            self._turn(self._view.at(self._pointed.row, self._pointed.column).written_out())

    def on_tensor_map_selected(self, message: TensorMap.Selected) -> None:
        """Zoom into what was selected with the mouse."""
        if self._view is not None:
            self._turn(self._view.framed(message.first, message.last))

    def on_table_pointed(self, message: Table.Pointed) -> None:
        """The cursor goes to the outlier channel."""
        if self.focused is message.table and self._view is not None and isinstance(message.table.key, int):
            self._turn(self._view.at(self._view.row, message.table.key))

    def on_table_chosen(self, message: Table.Chosen) -> None:
        """Back to the heatmap, at the outlier channel."""
        self.on_table_pointed(message)
        self.set_focus(self._body.heat)

    def on_input_submitted(self, message: Input.Submitted) -> None:
        """Go there."""
        source, view = self._source, self._view
        if source is None or view is None:
            return
        try:
            plane, row, column = parse_place(message.value, source.planes)
            if row >= view.shape[0] or column >= view.shape[1] or (plane or 0) >= source.planes:
                raise UsageError(f"{message.value}: beyond the end: there are {shape_words(source)} values")
        except UsageError as error:
            self.notify(str(error), severity="warning", markup=False)
            return
        self._leave_place()
        if plane is not None and plane != self._plane:
            self._take_plane(plane)
        self._turn(view.at(row, column))

    def on_glimpsed(self, message: Glimpsed) -> None:
        """Draw a tile, if it is still the one that is wanted."""
        glimpse, view = message.glimpse, self._view
        wanted = None if view is None else (self._source, self._plane, view.viewport, view.numbers)
        if (glimpse.source, glimpse.plane, glimpse.viewport, glimpse.numbers) == wanted:
            self._glimpse = glimpse
            self._draw_map()

    def on_profiled(self, message: Profiled) -> None:
        """Scale, bars, histogram and outliers are known."""
        if (message.source, message.plane) == (self._source, self._plane):
            self._profile = message.profile
            self._draw_map()
            self._draw_side()

    def on_worded(self, message: Worded) -> None:
        """Rows have the texts of their tokens."""
        if isinstance(self._source, StageSource) and message.capture is self._source.capture:
            self._texts = message.texts
            self._draw_map()
            self._draw_side()

    def on_failed(self, message: Failed) -> None:
        """Tell what is wrong."""
        if message.source is self._source:
            self._tell(message.problem)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Where text is typed and where no tensor is open, the keys of the screen are none."""
        own = action in ("zoom", "fit", "scale", "clip", "go", "step", "head", "outliers", "read_again", "turn_view")
        if own and (self._source is None or isinstance(self.focused, Input)):
            return False
        return super().check_action(action, parameters)

    def action_zoom(self, closer: bool) -> None:
        """Fewer values a cell, or more."""
        if self._view is not None:
            self._turn(self._view.closer() if closer else self._view.farther())

    def action_fit(self) -> None:
        """All of the tensor."""
        if self._view is not None:
            self._turn(self._view.fitted())

    def action_scale(self) -> None:
        """The next kind of scale."""
        kinds = list(ScaleKind)
        self._kind = kinds[(kinds.index(self._kind) + 1) % len(kinds)]
        self._draw_map()
        self._draw_side()

    def action_clip(self) -> None:
        """Leave more of the largest values out of the scale, or none."""
        self._clip = CLIPS[(CLIPS.index(self._clip) + 1) % len(CLIPS)]
        self._draw_map()
        self._draw_side()

    def action_go(self) -> None:
        """Ask where to go."""
        box = self.query_one(PlaceInput)
        if self._source is not None:
            axes = ("head", *self._source.axes) if self._source.planes > 1 else self._source.axes
            box.placeholder = f"go to {','.join(axes)}"
        box.value, box.display = "", True
        self.set_focus(box)

    def action_outliers(self) -> None:
        """To the list of outlier channels."""
        self.add_class("-show-side")
        self.call_after_refresh(self.set_focus, self._body.outliers)

    def action_turn_view(self) -> None:
        """On small screens: side, then bytes, then neither."""
        side, below = self.has_class("-show-side"), self.has_class("-show-bytes")
        self.set_class(not side and not below, "-show-side")
        self.set_class(side, "-show-bytes")
        self.set_focus(self._body.heat)
        self.call_after_refresh(self._draw_side)

    def action_head(self, step: int) -> None:
        """Another head of an attention map."""
        if self._source is None or self._source.planes == 1:
            self.notify("Only attention maps have heads.", severity="warning")
        else:
            self._take_plane((self._plane + step) % self._source.planes)
            self._wish()

    def action_step(self, step: int, same: str) -> None:
        """The stage before or after, or the same stage in another layer; broken ones are told and passed by."""
        if self._source is None:
            return
        found, problems = open_neighbour(self._source, step, same)
        for problem in problems:
            self.notify(problem, severity="error", markup=False, timeout=15)
        if found is not None:
            self._source = found
            self._begin()
        else:
            self.notify(f"No other {'stage' if same == 'layer' else 'layer'} there.", severity="warning")

    def action_read_again(self) -> None:
        """Open what is shown anew."""
        wanted = self.state()
        try:
            self._source = open_source(wanted)
        except AprtuiError as error:
            self._tell(str(error))
        else:
            self._wanted = wanted
            self._begin()

    def action_back(self) -> None:
        """From the other panes to the heatmap; from there to the screen before."""
        if isinstance(self.focused, Input):
            self._leave_place()
        elif self._source is not None and self.focused is self._body.outliers:
            self.set_focus(self._body.heat)
        else:
            super().action_back()

    @work(thread=True, group="tile", exclusive=True)
    def _read_tile(self, source: TensorSource, plane: int, view: View) -> None:
        worker = get_current_worker()
        try:
            for glimpse in glimpses(source, plane, view, lambda: worker.is_cancelled):
                self.post_message(Glimpsed(glimpse))
        except AprtuiError as error:
            self.post_message(Failed(source, str(error)))

    @work(thread=True, group="profile", exclusive=True)
    def _read_profile(self, source: TensorSource, plane: int) -> None:
        worker = get_current_worker()
        try:
            found = whole_profile(source, plane, lambda: worker.is_cancelled)
            if found is not None:
                self.post_message(Profiled(source, plane, found))
            problem = checksum_problem(source, lambda: worker.is_cancelled)
        except AprtuiError as error:
            problem = str(error)
        if problem:
            self.post_message(Failed(source, problem))

    @work(thread=True, group="words", exclusive=True)
    def _read_words(self, capture: Capture) -> None:
        models = [path for path in (*self.session.paths, *recent_paths()) if path.suffix == ".gguf"]
        self.post_message(Worded(capture, token_texts(capture, models)))

    @property
    def _body(self) -> TensorBody:
        return self.query_one(TensorBody)

    @property
    def _shown(self) -> Shown | None:
        """All that is shown; None where there is nothing yet."""
        if self._source is None or self._view is None:
            return None
        return Shown(
            self._source, self._plane, self._view, self._labels(self._source), self._kind, self._clip, self._glimpse,
            self._profile,
        )  # fmt: skip

    def _labels(self, source: TensorSource) -> RowLabels:
        if not isinstance(source, StageSource) or source.folded:
            return RowLabels(source.axes[0], (), ())
        tokens = source.capture.tokens or ()
        return RowLabels(source.axes[0], self._texts, tokens, max(len(tokens) - source.shape[0], 0) if tokens else 0)

    def _begin(self) -> None:
        """A source has come: look at it."""
        source, size = self._source, self._body.heat.size
        self._body.set_class(source is None, "-empty")
        self._tell("")
        if source is None:
            self.say("no tensor is open")
            return
        self._plane = min(self._plane, source.planes - 1)
        if self._wanted is not None:
            self._plane = min(max(self._wanted.number("head") or 0, 0), source.planes - 1)
        self._glimpse = self._profile = self._pointed = None
        if size.height and size.width:
            self._view = self._first_view(source, size.height, size.width)
            self._wish()
        where = source.file.path.name
        if isinstance(source, StageSource):
            where = as_typed(source.capture.path)
            if source.capture.tokens and not self._texts:
                self._read_words(source.capture)
        self.detail(f"{where}  {shape_words(source)}")
        self._read_profile(source, self._plane)
        self._draw_side()

    def _first_view(self, source: TensorSource, lines: int, cells: int) -> View:
        """All of the tensor, or what the state says; else the cursor and the zoom stay where they were."""
        plain, before, wanted = self.program.plain, self._view, self._wanted
        self._wanted = None
        if wanted is None and before is not None and before.shape == source.shape:
            return before
        view = View.of(source.shape, lines, cells, plain=plain)
        if wanted is None:
            return view if before is None else view.at(before.row, before.column)
        if wanted.text("at"):
            _, row, column = parse_place(wanted.text("at"), 1)
            view = view.at(row, column)
        if wanted.text("zoom") == "numbers":
            return view.written_out()
        if wanted.text("zoom"):
            _, rows, columns = parse_place(wanted.text("zoom"), 1)
            return view.with_zoom(rows, columns)
        return view

    def _take_plane(self, plane: int) -> None:
        if self._source is not None:
            self._plane, self._glimpse, self._profile = plane, None, None
            self._read_profile(self._source, plane)
            self._draw_side()

    def _turn(self, view: View) -> None:
        """Another view; where no other values are wanted, only the cursor is drawn anew."""
        before, self._view = self._view, view
        same = before is not None and (before.viewport, before.numbers) == (view.viewport, view.numbers)
        shown = self._shown
        if same and self._glimpse is not None and shown is not None:
            self._body.move_cursor(shown)
            self._point()
        else:
            self._wish()

    def _wish(self) -> None:
        """Ask for the tile of the view."""
        if self._source is not None and self._view is not None:
            self._read_tile(self._source, self._plane, self._view)
            self._point()

    def _point(self) -> None:
        """Find the value that the cursor stands for, and say it."""
        shown = self._shown
        if shown is None:
            return
        self._pointed = None
        try:
            if shown.view.shape[0] and shown.view.shape[1]:
                self._pointed = pointed(shown.source, shown.plane, shown.view)
            self._body.draw_value(shown, self._pointed)
        except AprtuiError as error:
            self._tell(str(error))
        self.say(f"{shown.source.title}  no values" if self._pointed is None else (
            in_words(shown.source, shown.labels, self._pointed)
        ))  # fmt: skip

    def _draw_map(self) -> None:
        shown = self._shown
        if shown is not None:
            self._body.draw_map(shown)

    def _draw_side(self) -> None:
        shown = self._shown
        if shown is not None:
            self._body.draw_whole(shown)
            self._point()

    def _look_at_file(self) -> None:
        """Whether the file has changed or gone."""
        if self._source is not None and self.is_current:
            changed = self._source.file.changed()
            if changed and changed != self._changed:
                self._tell(f"{changed}; r reads it again")
            self._changed = changed

    def _tell(self, problem: str) -> None:
        box = self.query_one("#problem", Static)
        box.update(problem)
        box.display = bool(problem)

    def _leave_place(self) -> None:
        self.query_one(PlaceInput).display = False
        self.set_focus(self._body.heat)


def shape_words(source: TensorSource) -> str:
    """`4×9×9`."""
    return "×".join(map(str, ((source.planes,) if source.planes > 1 else ()) + source.shape))
