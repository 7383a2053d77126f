"""The tensor screen: one stage tensor or weight, from the whole of it to single values and their bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import ClassVar

from textual import work
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static
from textual.worker import get_current_worker

from aprtui.errors import AprtuiError, UsageError
from aprtui.model.lookup import token_pieces
from aprtui.trace.capture import Capture
from aprtui.trace.profile import Profile
from aprtui.tui.draw.numbers import shape_text
from aprtui.tui.draw.text import as_typed, visible
from aprtui.tui.draw.tiles import ScaleKind
from aprtui.tui.draw.viewport import Viewport
from aprtui.tui.frame.keymap import Chord
from aprtui.tui.frame.recent import models_at_hand, models_in_caches
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.frame.tool_screen import ToolScreen
from aprtui.tui.screens.tensor.body import DisplayedPlane, TensorBody
from aprtui.tui.screens.tensor.load import TileValues, checksum_problem, plane_profile, read_tile
from aprtui.tui.screens.tensor.map import TensorMap
from aprtui.tui.screens.tensor.source import StageSource, TensorSource, open_neighbour, open_source
from aprtui.tui.screens.tensor.text import CursorValue, RowLabels, cursor_words, parse_place, value_at_cursor
from aprtui.tui.widgets.heatmap import Heatmap
from aprtui.tui.widgets.lines import Lines
from aprtui.tui.widgets.moves import STAGES, ZOOMS
from aprtui.tui.widgets.table import Table

CLIPS = (1.0, 0.999, 0.99)
"""Shares of the values that the scale covers, the largest magnitudes left out."""

SECONDS_BETWEEN_LOOKS = 1.0

EXPLANATION = """\
A row is a token, a column a channel; of an attention map a row is a query, a column a key, and one head is shown at a \
time. Where there is no room for all values, a cell shows the one of largest magnitude among its own: a single wrong \
number is seen. NaN (X) wins over Inf (I), and Inf over any number; + lies beyond the scale. Zoomed in, values are \
written out.

Beside the rows stand the texts of their tokens, above an attention map those of the keys: from the capture, or from \
its model if that is among the models given, opened lately or in the folders around. The bars show the rms of each \
row, over three powers of ten where one dwarfs the others. The scale is linear, logarithmic (the magnitude; exact \
zeros are darker than every value) or symmetric (blue below zero, orange above); clipping leaves the largest values \
out of it, so that the others can be told apart.

At the right (on small screens with v): the value under the cursor with its bits, a histogram of all values with \
logarithmic bars, and the channels with the largest rms, with how many times the median that is. Below: the bytes of \
the file around the value.
"""


class PlaceInput(Input):
    """The input of a value to go to."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Go"),
        Binding("escape", "screen.back", "Stay"),
    ]


class TensorScreen(ToolScreen):
    """Shows one plane of a tensor in a viewport, as far as it has been read."""

    NAME = ScreenName.TENSOR
    EXPLANATION = EXPLANATION
    SIGNS = (
        ("dark", "small, exact zero darkest"), ("bright", "large"), ("blue", "below zero, on the symmetric scale"),
        ("orange", "above zero, on the symmetric scale"), ("X", "NaN, wins over all"), ("I", "Inf, wins over numbers"),
        ("+", "beyond the scale"),
    )  # fmt: skip
    WIDGETS = (TensorMap, Table)
    AUTO_FOCUS = "TensorMap"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("plus,equals_sign", "zoom(True)", "Zoom in", key_display="+", id="tensor.closer", group=ZOOMS),
        Binding("minus", "zoom(False)", "Zoom out", show=False, id="tensor.farther", group=ZOOMS),
        Binding("0", "fit", "All of the tensor", show=False, id="tensor.fit"),
        Binding("M", "scale", "Scale", id="tensor.scale"),
        Binding("X", "clip", "Leave the largest values out of the scale", show=False, id="tensor.clip"),
        Binding("g", "go", "Go to token,channel", show=False, id="tensor.go"),
        Binding("n", "step(1, 'layer')", "Next stage", id="tensor.next", group=STAGES),
        Binding("N", "step(-1, 'layer')", "Stage before", show=False, id="tensor.previous", group=STAGES),
        Binding("O", "outliers", "Outlier channels", show=False, id="tensor.outliers"),
        Binding("v", "turn_view", "Side, bytes or neither (small screens)", show=False, id="tensor.view"),
        Binding("r", "read_again", "Read the file again", show=False, id="tensor.read"),
    ]
    CHORDS: ClassVar[tuple[Chord, ...]] = (
        Chord("] s", "step(1, 'layer')", "Next stage", "tensor.chord.next"),
        Chord("[ s", "step(-1, 'layer')", "Stage before", "tensor.chord.previous"),
        Chord("] l", "step(1, 'stage')", "Same stage, next layer", "tensor.next.layer"),
        Chord("[ l", "step(-1, 'stage')", "Same stage, layer before", "tensor.previous.layer"),
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

    class TileRead(Message):
        def __init__(self, values: TileValues) -> None:
            super().__init__()
            self.values = values

    class PlaneRead(Message):
        def __init__(self, source: TensorSource, plane: int, profile: Profile) -> None:
            super().__init__()
            self.source, self.plane, self.profile = source, plane, profile

    class TokensDecoded(Message):
        def __init__(self, capture: Capture, texts: tuple[str, ...]) -> None:
            super().__init__()
            self.capture, self.texts = capture, texts

    class ReadFailed(Message):
        """A file cannot be read any more, or is not the one that its manifest describes."""

        def __init__(self, source: TensorSource, problem: str) -> None:
            super().__init__()
            self.source, self.problem = source, problem

    def __init__(self, session: Session, state: ScreenState) -> None:
        super().__init__(session, state)
        self._source: TensorSource | None = open_source(state)
        self._state_to_restore: ScreenState | None = state
        self._plane = 0
        self._viewport: Viewport | None = None
        self._values: TileValues | None = None
        self._profile: Profile | None = None
        self._cursor_value: CursorValue | None = None
        self._tokens_of: Capture | None = None
        """The capture that `_token_texts` are of, or will be."""
        self._token_texts: tuple[str, ...] = ()
        self._reported_change = ""
        self._scale_kind = ScaleKind(state.text("scale")) if state.text("scale") in set(ScaleKind) else ScaleKind.LINEAR
        self._clip = next((share for share in CLIPS if f"{share:g}" == state.text("clip")), CLIPS[0])

    def compose_body(self) -> Iterable[Widget]:
        yield Static(id="problem", markup=False)
        yield TensorBody()
        yield PlaceInput(id="place")

    def state(self) -> ScreenState:
        source, viewport = self._source, self._viewport
        if source is None:
            return ScreenState(self.NAME)
        fields: dict[str, object] = dict(source.state().fields)
        if viewport is not None:
            tiling = viewport.tiling
            zoom = "numbers" if viewport.numbers else f"{tiling.rows_per_cell},{tiling.columns_per_cell}"
            fields["at"] = f"{viewport.row},{viewport.column}"
            fields["zoom"] = None if viewport.is_whole and not viewport.numbers else zoom
        head = self._plane if source.planes > 1 else None
        clip = None if self._clip == CLIPS[0] else f"{self._clip:g}"
        return screen_state(self.NAME, **fields, head=head, scale=self._scale_kind, clip=clip)

    def command(self) -> Sequence[str]:
        if self._source is None:
            return []
        value = self._cursor_value
        index = [] if value is None else [value.row, value.column]
        if value is not None and self._source.planes > 1:
            index.insert(0, value.plane)
        return self._source.command(index)

    def on_mount(self) -> None:
        self.set_interval(SECONDS_BETWEEN_LOOKS, self._check_file)
        self._open()

    def on_tensor_screen_tile_read(self, message: TileRead) -> None:
        values, viewport = message.values, self._viewport
        wanted = None if viewport is None else (self._source, self._plane, viewport.tiling, viewport.numbers)
        if (values.source, values.plane, values.tiling, values.numbers) == wanted:
            self._values = values
            self._draw_map()

    def on_tensor_screen_plane_read(self, message: PlaneRead) -> None:
        if (message.source, message.plane) == (self._source, self._plane):
            self._profile = message.profile
            self._draw_map()
            self._draw_side()

    def on_tensor_screen_tokens_decoded(self, message: TokensDecoded) -> None:
        if isinstance(self._source, StageSource) and message.capture is self._source.capture:
            self._token_texts = message.texts
            self._draw_map()
            self._draw_side()

    def on_tensor_screen_read_failed(self, message: ReadFailed) -> None:
        if message.source is self._source:
            self._show_problem(message.problem)

    # Without a description, Textual would describe a worker by all its arguments, captures among them.
    @work(thread=True, group="tile", exclusive=True, description="tile")
    def _read_tile(self, source: TensorSource, plane: int, viewport: Viewport) -> None:
        worker = get_current_worker()
        try:
            for values in read_tile(source, plane, viewport, lambda: worker.is_cancelled):
                self.post_message(self.TileRead(values))
        except AprtuiError as error:
            self.post_message(self.ReadFailed(source, str(error)))

    @work(thread=True, group="profile", exclusive=True, description="profile")
    def _read_profile(self, source: TensorSource, plane: int) -> None:
        worker = get_current_worker()
        try:
            profile = plane_profile(source, plane, lambda: worker.is_cancelled)
            if profile is not None:
                self.post_message(self.PlaneRead(source, plane, profile))
            problem = checksum_problem(source, lambda: worker.is_cancelled)
        except AprtuiError as error:
            problem = str(error)
        if problem:
            self.post_message(self.ReadFailed(source, problem))

    @work(thread=True, group="words", exclusive=True, description="texts of tokens")
    def _read_token_texts(self, capture: Capture) -> None:
        worker = get_current_worker()
        models = models_at_hand(*self.session.paths, capture.path.parent)
        caches = partial(models_in_caches, self.program.config)
        pieces = token_pieces(capture, models, lambda: worker.is_cancelled, caches)
        if not worker.is_cancelled:
            self.post_message(self.TokensDecoded(capture, tuple(map(visible, pieces or ()))))

    def on_heatmap_resized(self, message: Heatmap.Resized) -> None:
        size = self._body.heat.size
        if self._source is None or not size.height or not size.width:
            return
        if self._viewport is None or self._state_to_restore is not None:
            self._viewport = self._first_viewport(self._source, size.height, size.width)
        else:
            self._viewport = self._viewport.resized(size.height, size.width)
        self._request_tile()
        self._draw_side()

    def on_lines_resized(self, message: Lines.Resized) -> None:
        if message.lines.id == "histogram":
            self._draw_side()
        elif message.lines.id in ("value", "bytes"):
            self._show_value()

    def on_heatmap_pointed(self, message: Heatmap.Pointed) -> None:
        if self._viewport is not None:
            self._set_viewport(self._viewport.pointed(message.row, message.column))

    def on_tensor_map_moved(self, message: TensorMap.Moved) -> None:
        viewport = self._viewport
        if viewport is not None and message.end is not None:
            self._set_viewport(viewport.at(viewport.row, 0 if message.end == 0 else viewport.shape[1] - 1))
        elif viewport is not None:
            self._set_viewport(viewport.moved(message.rows, message.columns))

    def on_tensor_map_chosen(self) -> None:
        if self._viewport is not None and self._cursor_value is not None:
            self._set_viewport(self._viewport.at(self._cursor_value.row, self._cursor_value.column).written_out())

    def on_heatmap_selected(self, message: Heatmap.Selected) -> None:
        """Zoom into what was selected with the mouse."""
        if self._viewport is not None:
            self._set_viewport(self._viewport.framed(message.first, message.last))

    def on_table_pointed(self, message: Table.Pointed) -> None:
        if self.focused is message.table:
            self._show_outlier(message.table)

    def _show_outlier(self, table: Table) -> None:
        if self._viewport is not None and isinstance(table.key, int):
            self._set_viewport(self._viewport.at(self._viewport.row, table.key))

    def on_table_chosen(self, message: Table.Chosen) -> None:
        self.on_table_pointed(message)
        self.set_focus(self._body.heat)

    def on_input_submitted(self, message: Input.Submitted) -> None:
        source, viewport = self._source, self._viewport
        if source is None or viewport is None:
            return
        try:
            plane, row, column = parse_place(message.value, source.planes)
            if row >= viewport.shape[0] or column >= viewport.shape[1] or (plane or 0) >= source.planes:
                raise UsageError(f"{message.value}: beyond the end: there are {shape_words(source)} values")
        except UsageError as error:
            self.notify(str(error), severity="warning")
            return
        self._leave_place()
        if plane is not None and plane != self._plane:
            self._open_plane(plane)
        self._set_viewport(viewport.at(row, column))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While text is typed, and while no tensor is open, the keys of the screen do nothing."""
        own = action in ("zoom", "fit", "scale", "clip", "go", "step", "head", "outliers", "read_again", "turn_view")
        if own and (self._source is None or isinstance(self.focused, Input)):
            return False
        return super().check_action(action, parameters)

    def action_zoom(self, closer: bool) -> None:
        if self._viewport is not None:
            self._set_viewport(self._viewport.closer() if closer else self._viewport.farther())

    def action_fit(self) -> None:
        if self._viewport is not None:
            self._set_viewport(self._viewport.fitted())

    def action_scale(self) -> None:
        kinds = list(ScaleKind)
        self._scale_kind = kinds[(kinds.index(self._scale_kind) + 1) % len(kinds)]
        self._draw_map()
        self._draw_side()

    def action_clip(self) -> None:
        """Leave more of the largest values out of the scale, or none."""
        self._clip = CLIPS[(CLIPS.index(self._clip) + 1) % len(CLIPS)]
        self._draw_map()
        self._draw_side()

    def action_go(self) -> None:
        box = self.query_one(PlaceInput)
        if self._source is not None:
            axes = ("head", *self._source.axes) if self._source.planes > 1 else self._source.axes
            box.placeholder = f"go to {','.join(axes)}"
        box.value, box.display = "", True
        self.set_focus(box)

    def action_outliers(self) -> None:
        """Go to the list of outliers, and in the map to the one that the list is at."""
        self.add_class("-show-side")
        self.call_after_refresh(self._go_to_outliers)

    def _go_to_outliers(self) -> None:
        self.set_focus(self._body.outliers)
        self._show_outlier(self._body.outliers)

    def action_turn_view(self) -> None:
        """On small screens: side, then bytes, then neither."""
        side, below = self.has_class("-show-side"), self.has_class("-show-bytes")
        self.set_class(not side and not below, "-show-side")
        self.set_class(side, "-show-bytes")
        self.set_focus(self._body.heat)
        self.call_after_refresh(self._draw_side)

    def action_head(self, step: int) -> None:
        if self._source is None or self._source.planes == 1:
            self.notify("Only attention maps have heads.", severity="warning")
        else:
            self._open_plane((self._plane + step) % self._source.planes)
            self._request_tile()

    def action_step(self, step: int, same: str) -> None:
        """Open the stage before or after, or the same stage in another layer; broken ones are reported and skipped."""
        if self._source is None:
            return
        source, problems = open_neighbour(self._source, step, same)
        for problem in problems:
            self.notify(problem, severity="error")
        if source is not None:
            self._source = source
            self._open()
        else:
            self.notify(f"No other {'stage' if same == 'layer' else 'layer'} there.", severity="warning")

    def action_read_again(self) -> None:
        """Open the tensor again, with the same cursor, zoom and scale."""
        wanted = self.state()
        try:
            self._source = open_source(wanted)
        except AprtuiError as error:
            self._show_problem(str(error))
        else:
            self._state_to_restore = wanted
            self._open()

    def action_back(self) -> None:
        """Return from another pane to the heatmap, and from the heatmap to the screen before."""
        if isinstance(self.focused, Input):
            self._leave_place()
        elif self._source is not None and self.focused is self._body.outliers:
            self.set_focus(self._body.heat)
        else:
            super().action_back()

    @property
    def _body(self) -> TensorBody:
        return self.query_one(TensorBody)

    @property
    def _displayed(self) -> DisplayedPlane | None:
        if self._source is None or self._viewport is None:
            return None
        return DisplayedPlane(
            self._source, self._plane, self._viewport, self._labels(self._source), self._scale_kind, self._clip,
            self._values, self._profile,
        )  # fmt: skip

    def _labels(self, source: TensorSource) -> RowLabels:
        if not isinstance(source, StageSource) or source.folded:
            return RowLabels(source.axes[0], (), ())
        tokens = source.capture.tokens or ()
        return RowLabels(source.axes[0], self._token_texts, tokens, max(len(tokens) - source.shape[0], 0))

    def _open(self) -> None:
        source, size = self._source, self._body.heat.size
        self._body.set_class(source is None, "-empty")
        self._show_problem("")
        if source is None:
            self.say("no tensor is open")
            return
        self._plane = min(self._plane, source.planes - 1)
        if self._state_to_restore is not None:
            element = self._state_to_restore.number("element")
            plane = self._state_to_restore.number("head") if element is None else source.place_of(element)[0]
            self._plane = min(max(plane or 0, 0), source.planes - 1)
        self._values = self._profile = self._cursor_value = None
        if size.height and size.width:
            self._viewport = self._first_viewport(source, size.height, size.width)
            self._request_tile()
        where = source.file.path.name
        if isinstance(source, StageSource):
            where = as_typed(source.capture.path)
            if source.capture is not self._tokens_of:
                self._tokens_of, self._token_texts = source.capture, ()
                self._read_token_texts(source.capture)
        self.detail(f"{where}  {shape_words(source)}")
        self._read_profile(source, self._plane)
        self._draw_side()

    def _first_viewport(self, source: TensorSource, lines: int, cells: int) -> Viewport:
        """All of the tensor, or what the state says; after a tensor of the same shape, the same viewport."""
        plain, before, wanted = self.query_one(TensorMap).plain, self._viewport, self._state_to_restore
        self._state_to_restore = None
        if wanted is None and before is not None and before.shape == source.shape:
            return before
        viewport = Viewport.of(source.shape, lines, cells, plain=plain)
        if wanted is None:
            return viewport if before is None else viewport.at(before.row, before.column)
        if wanted.text("at"):
            _, row, column = parse_place(wanted.text("at"), 1)
            viewport = viewport.at(row, column)
        element = wanted.number("element")
        if element is not None:
            viewport = viewport.at(*source.place_of(element)[1:])
        if wanted.text("zoom") == "numbers":
            return viewport.written_out()
        if wanted.text("zoom"):
            _, rows, columns = parse_place(wanted.text("zoom"), 1)
            return viewport.with_zoom(rows, columns)
        return viewport

    def _open_plane(self, plane: int) -> None:
        if self._source is not None:
            self._plane, self._values, self._profile = plane, None, None
            self._read_profile(self._source, plane)
            self._draw_side()

    def _set_viewport(self, viewport: Viewport) -> None:
        """Take another viewport; if it shows the same values, draw only the cursor again."""
        before, self._viewport = self._viewport, viewport
        same = before is not None and (before.tiling, before.numbers) == (viewport.tiling, viewport.numbers)
        displayed = self._displayed
        if same and self._values is not None and displayed is not None:
            self._body.move_cursor(displayed)
            self._show_value()
        else:
            self._request_tile()

    def _request_tile(self) -> None:
        if self._source is not None and self._viewport is not None:
            self._read_tile(self._source, self._plane, self._viewport)
            self._show_value()

    def _show_value(self) -> None:
        displayed = self._displayed
        if displayed is None:
            return
        self._cursor_value = None
        try:
            if displayed.viewport.shape[0] and displayed.viewport.shape[1]:
                self._cursor_value = value_at_cursor(displayed.source, displayed.plane, displayed.viewport)
            self._body.draw_value(displayed, self._cursor_value)
        except AprtuiError as error:
            self._show_problem(str(error))
        self.say(f"{displayed.source.title}  no values" if self._cursor_value is None else (
            cursor_words(displayed.source, displayed.labels, self._cursor_value)
        ))  # fmt: skip

    def _draw_map(self) -> None:
        displayed = self._displayed
        if displayed is not None:
            self._body.draw_map(displayed)

    def _draw_side(self) -> None:
        displayed = self._displayed
        if displayed is not None:
            self._body.draw_whole(displayed)
            self._show_value()

    def _check_file(self) -> None:
        if self._source is not None and self.is_current:
            changed = self._source.file.changed()
            if changed and changed != self._reported_change:
                self._show_problem(f"{changed}; r reads it again")
            self._reported_change = changed

    def _show_problem(self, problem: str) -> None:
        box = self.query_one("#problem", Static)
        box.update(problem)
        box.display = bool(problem)

    def _leave_place(self) -> None:
        self.query_one(PlaceInput).display = False
        self.set_focus(self._body.heat)


def shape_words(source: TensorSource) -> str:
    """`4×9×9`."""
    return shape_text(((source.planes,) if source.planes > 1 else ()) + source.shape)
