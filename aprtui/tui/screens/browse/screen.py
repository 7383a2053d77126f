"""The browse screen: captures and models that lie about, and what is in the one under the cursor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Input

from aprtui.trace.graph import Node
from aprtui.tui.frame.recent import remember
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.frame.tool_screen import as_typed
from aprtui.tui.screens.browse.find import Kind
from aprtui.tui.screens.browse.load import CaptureContents, ModelContents
from aprtui.tui.screens.browse.parts import EXPLANATION, CaptureGrid, FilterInput
from aprtui.tui.screens.browse.view import BrowseView
from aprtui.tui.widgets.table import Table


class BrowseScreen(BrowseView):
    """Find captures and models, look into them, choose two for a comparison."""

    EXPLANATION = EXPLANATION
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "Mark", id="browse.mark"),
        Binding("d", "compare", "Diff marked", id="browse.diff"),
        Binding("slash", "filter", "Filter", key_display="/", id="browse.filter"),
        Binding("v", "turn_view", "Stage grid or table of statistics", show=False, id="browse.view"),
        Binding("tab", "app.focus_next", "Next pane", show=False),
        Binding("shift+tab", "app.focus_previous", "Pane before", show=False),
    ]

    def state(self) -> ScreenState:
        """Where one looks, what the cursors stand on, what is marked and filtered."""
        at = self._shown
        node = self._node if isinstance(self._known, CaptureContents) else None
        marks = dict(zip("ab", self._marked, strict=False))
        return screen_state(
            self.NAME, path=self._given, at=None if at is None else as_typed(at.path),
            layer=None if node is None else node.layer, stage=None if node is None else node.stage, **marks,
            filter=self._filters["found"], stages=self._filters["stages"], tensors=self._filters["tensors"],
        )  # fmt: skip

    def command(self) -> Sequence[str]:
        """The comparison of the marked captures, else the statistics of what is under the cursor."""
        if len(self._marked) == 2:
            return ["aprtui", "diff", *map(as_typed, self._marked)]
        if self._shown is None:
            return []
        words = ["aprtui", "stats", as_typed(self._shown.path)]
        node = self._node
        if isinstance(self._known, CaptureContents) and node is not None and self.focused is not self._table("found"):
            words += ["--stage", node.stage]
            words += [] if node.layer is None else ["--layers", f"{node.layer}..{node.layer + 1}"]
        return words

    def on_table_pointed(self, message: Table.Pointed) -> None:
        """Another row."""
        if message.table.id == "found":
            self._look_at_cursor()
        elif message.table is self.focused and isinstance(message.table.key, Node):
            self._wanted_node = message.table.key
            self.query_one(CaptureGrid).put_cursor(message.table.key)
        self._say_focused()

    def on_table_chosen(self, message: Table.Chosen) -> None:
        """Go into what was chosen: from the list to its contents, from there to the tensor screen."""
        if message.table.id == "found":
            self._enter()
        else:
            self._open_tensor()

    def on_capture_grid_chosen(self) -> None:
        """Open the stage under the cursor."""
        self._open_tensor()

    def on_stage_grid_pointed(self) -> None:
        """The table follows the grid."""
        node = self.query_one(CaptureGrid).node
        if self.focused is self.query_one(CaptureGrid) and node is not None:
            self._wanted_node = node
            self._table("stages").point(node)
        self._say_focused()

    def on_descendant_focus(self) -> None:
        """Other words for another pane; the table goes where the grid's cursor is."""
        self.on_stage_grid_pointed()

    def on_input_changed(self, message: Input.Changed) -> None:
        """Filter while it is being typed."""
        self._filters[self._filtered] = message.value
        self._show_list() if self._filtered == "found" else self._show_contents()

    def on_input_submitted(self) -> None:
        """Keep the filter."""
        self._leave_filter()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys of the screen are letters in the filter."""
        if action in ("mark", "compare", "filter") and isinstance(self.focused, Input):
            return False
        return super().check_action(action, parameters)

    def action_mark(self) -> None:
        """Mark the capture under the cursor, or unmark it; of three the first one goes."""
        if self._shown is None:
            return
        if self._shown.kind is not Kind.CAPTURE:
            self.notify("Only captures can be marked: `aprtui diff --weights` compares models.", severity="warning")
            return
        path = self._shown.path
        self._marked = [other for other in self._marked if other != path] + [path] * (path not in self._marked)
        self._marked = self._marked[-2:]
        self._show_list()
        self._table("found").action_move(1)

    def action_compare(self) -> None:
        """Open the two marked captures side by side."""
        if len(self._marked) != 2:
            self.notify(f"Mark two captures with space, then press d: {len(self._marked)} marked.", severity="warning")
            return
        a, b = self._marked
        self.program.open_state(screen_state(ScreenName.DIFF, a=as_typed(a), b=as_typed(b)))

    def action_filter(self) -> None:
        """Type a filter for the table in focus; for the stages where the grid has it."""
        focused = self.focused.id if self.focused is not None else None
        self._filtered = focused if focused in ("found", "tensors") else "stages"
        box = self.query_one(FilterInput)
        box.display = True
        box.value = self._filters[self._filtered]
        if self._filtered == "stages":
            self._turn("-of-numbers")
        self.set_focus(box)

    def action_end_filter(self) -> None:
        """Show everything again."""
        self.query_one(FilterInput).value = ""
        self._filters[self._filtered] = ""
        self._show_list() if self._filtered == "found" else self._show_contents()
        self._leave_filter()

    def action_turn_view(self) -> None:
        """From the grid to the table, and back."""
        if isinstance(self._known, CaptureContents):
            to_grid = self.focused is not self.query_one(CaptureGrid)
            if self.has_class("-of-grid") and self.focused is self._table("found"):
                to_grid = False
            self._turn("-of-grid" if to_grid else "-of-numbers")
            self.set_focus(self.query_one(CaptureGrid) if to_grid else self._table("stages"))

    def action_back(self) -> None:
        """From the contents to the list; from there to the screen before."""
        if self.focused is not self._table("found"):
            self.set_focus(self._table("found"))
        else:
            super().action_back()

    def _turn(self, view: str) -> None:
        self.set_class(view == "-of-grid", "-of-grid")
        self.set_class(view == "-of-numbers", "-of-numbers")

    def _leave_filter(self) -> None:
        self.query_one(FilterInput).display = False
        self.set_focus(self._table(self._filtered))

    def _enter(self) -> None:
        """Into the contents of the entry under the cursor."""
        if self._shown is None or self._problem:
            return
        remember(self._shown.path)
        if self._shown.kind is Kind.MODEL:
            self.set_focus(self._table("tensors"))
        else:
            self.set_focus(self.query_one(CaptureGrid) if self.has_class("-of-grid") else self._table("stages"))

    def _open_tensor(self) -> None:
        """Show the stage or the tensor under the cursor in full."""
        if self._shown is None:
            return
        place, node = as_typed(self._shown.path), self._node
        if isinstance(self._known, ModelContents):
            self.program.open_state(screen_state(ScreenName.TENSOR, model=place, tensor=self._table("tensors").key))
        elif node is not None:
            self.program.open_state(screen_state(ScreenName.TENSOR, capture=place, layer=node.layer, stage=node.stage))
