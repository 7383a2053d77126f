"""The stage grid of the capture that the browse screen shows."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from aprtui.tui.widgets.stage_grid import StageGrid


class CaptureGrid(StageGrid):
    """The stage grid of a capture: enter opens the stage under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "choose", "Open")]

    class Chosen(Message):
        """The stage under the cursor was chosen."""

    def action_choose(self) -> None:
        """Open the stage under the cursor."""
        self.post_message(self.Chosen())
