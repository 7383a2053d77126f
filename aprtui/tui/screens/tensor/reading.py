"""The half of the tensor screen that reads and draws: threads read a tensor, the screen draws what they have found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from textual import work
from textual.widget import Widget
from textual.widgets import Static
from textual.worker import get_current_worker

from aprtui.errors import AprtuiError
from aprtui.trace.capture import Capture
from aprtui.trace.profile import Profile
from aprtui.tui.draw.paths import as_typed
from aprtui.tui.draw.tiles import ScaleKind
from aprtui.tui.draw.viewport import Viewport
from aprtui.tui.frame.recent import recent_paths
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.frame.tool_screen import ToolScreen
from aprtui.tui.screens.tensor.body import TensorBody
from aprtui.tui.screens.tensor.load import Glimpse, checksum_problem, glimpses, token_texts, whole_profile
from aprtui.tui.screens.tensor.map import TensorMap
from aprtui.tui.screens.tensor.messages import Failed, Glimpsed, Profiled, Worded
from aprtui.tui.screens.tensor.shown import Shown
from aprtui.tui.screens.tensor.side import Pointed, in_words, pointed
from aprtui.tui.screens.tensor.source import StageSource, TensorSource, open_source
from aprtui.tui.screens.tensor.text import RowLabels, parse_place

CLIPS = (1.0, 0.999, 0.99)
"""Shares of the values that the scale covers, the largest magnitudes left out."""

SECONDS_BETWEEN_LOOKS = 1.0


class TensorReading(ToolScreen):
    """Shows one plane of a tensor through a view, as far as it has been read."""

    NAME = ScreenName.TENSOR

    def __init__(self, session: Session, state: ScreenState) -> None:
        super().__init__(session, state)
        self._source: TensorSource | None = open_source(state)
        self._wanted: ScreenState | None = state
        self._plane = 0
        self._view: Viewport | None = None
        self._glimpse: Glimpse | None = None
        self._profile: Profile | None = None
        self._pointed: Pointed | None = None
        self._texts: tuple[str, ...] = ()
        self._changed = ""
        self._kind = ScaleKind(state.text("scale")) if state.text("scale") in set(ScaleKind) else ScaleKind.LINEAR
        self._clip = next((share for share in CLIPS if f"{share:g}" == state.text("clip")), CLIPS[0])

    def compose_body(self) -> Iterable[Widget]:
        """What is wrong, and the panes."""
        yield Static(id="problem", markup=False)
        yield TensorBody()

    def state(self) -> ScreenState:
        """The tensor, the cursor, the zoom and the scale."""
        source, view = self._source, self._view
        if source is None:
            return ScreenState(self.NAME)
        fields: dict[str, object] = dict(source.state().fields)
        if view is not None:
            tiling = view.tiling
            zoom = "numbers" if view.numbers else f"{tiling.rows_per_cell},{tiling.columns_per_cell}"
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

    def on_mount(self) -> None:
        """Show what there is."""
        self.set_interval(SECONDS_BETWEEN_LOOKS, self._look_at_file)
        self._begin()

    def on_glimpsed(self, message: Glimpsed) -> None:
        """Draw a tile, if it is still the one that is wanted."""
        glimpse, view = message.glimpse, self._view
        wanted = None if view is None else (self._source, self._plane, view.tiling, view.numbers)
        if (glimpse.source, glimpse.plane, glimpse.tiling, glimpse.numbers) == wanted:
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

    # With descriptions, since Textual would else write out all arguments for one: captures, among others.
    @work(thread=True, group="tile", exclusive=True, description="tile")
    def _read_tile(self, source: TensorSource, plane: int, view: Viewport) -> None:
        worker = get_current_worker()
        try:
            for glimpse in glimpses(source, plane, view, lambda: worker.is_cancelled):
                self.post_message(Glimpsed(glimpse))
        except AprtuiError as error:
            self.post_message(Failed(source, str(error)))

    @work(thread=True, group="profile", exclusive=True, description="profile")
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

    @work(thread=True, group="words", exclusive=True, description="texts of tokens")
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

    def _first_view(self, source: TensorSource, lines: int, cells: int) -> Viewport:
        """All of the tensor, or what the state says; else the cursor and the zoom stay where they were."""
        plain, before, wanted = self.query_one(TensorMap).plain, self._view, self._wanted
        self._wanted = None
        if wanted is None and before is not None and before.shape == source.shape:
            return before
        view = Viewport.of(source.shape, lines, cells, plain=plain)
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

    def _turn(self, view: Viewport) -> None:
        """Another view; where no other values are wanted, only the cursor is drawn anew."""
        before, self._view = self._view, view
        same = before is not None and (before.tiling, before.numbers) == (view.tiling, view.numbers)
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


def shape_words(source: TensorSource) -> str:
    """`4×9×9`."""
    return "×".join(map(str, ((source.planes,) if source.planes > 1 else ()) + source.shape))
