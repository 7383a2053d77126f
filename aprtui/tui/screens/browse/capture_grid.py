"""The stage grid of the capture that the browse screen shows."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from aprtui.trace.graph import Node
from aprtui.tui.draw.grid_layout import grid_layout
from aprtui.tui.widgets.stage_grid import StageGrid


class CaptureGrid(StageGrid):
    """The stage grid of a capture: enter opens the stage under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "choose", "Open")]

    class Chosen(Message):
        """The stage under the cursor was chosen."""

    def point(self, node: Node) -> None:
        """Put the cursor on a stage, if the grid has a cell for it."""
        stages = [] if self.graph is None else [stage.name for stage in grid_layout(self.graph).stages]
        if node.layer is not None and node.stage in stages:
            self._put_cursor(node.layer, stages.index(node.stage))

    def action_choose(self) -> None:
        """Open the stage under the cursor."""
        self.post_message(self.Chosen())
