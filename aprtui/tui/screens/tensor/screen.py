"""The tensor screen: one stage tensor or weight, from the whole of it to single values and their bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Input

from aprtui.errors import AprtuiError, UsageError
from aprtui.tui.draw.tiles import ScaleKind
from aprtui.tui.frame.keymap import Chord
from aprtui.tui.screens.tensor.help_text import EXPLANATION
from aprtui.tui.screens.tensor.map import TensorMap
from aprtui.tui.screens.tensor.reading import CLIPS, TensorReading, shape_words
from aprtui.tui.screens.tensor.source import open_neighbour, open_source
from aprtui.tui.screens.tensor.text import parse_place
from aprtui.tui.widgets.heatmap import Heatmap
from aprtui.tui.widgets.table import Table


class PlaceInput(Input):
    """Where to go."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Go"),
        Binding("escape", "screen.back", "Stay"),
    ]


class TensorScreen(TensorReading):
    """Go through one tensor."""

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

    def compose_body(self) -> Iterable[Widget]:
        """What is shown, and where to go."""
        yield from super().compose_body()
        yield PlaceInput(id="place")

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

    def on_heatmap_selected(self, message: Heatmap.Selected) -> None:
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

    def _leave_place(self) -> None:
        self.query_one(PlaceInput).display = False
        self.set_focus(self._body.heat)
