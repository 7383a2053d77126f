"""Texts and small widgets of the browse screen."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input

from aprtui.tui.widgets.stage_grid import StageGrid

EXPLANATION = """\
Above (on wide screens at the left) are the captures and models below the working directory, those given on the \
command line, and those opened lately. New ones appear by themselves.

Below is what is in the one under the cursor. Of a capture: the stage grid, in which a row is a layer, a column a \
stage, the number the rms of its values, and the colour compares layers; and a table with a line for each stage. The \
numbers come from the manifest; without one they are computed, and fill in. Of a model: its tensors, with the smallest \
and the largest block scale (d, dmin) and the range of the dequantised values.

Mark two captures with space, then d compares them: the first one marked is the reference.
"""

NOTHING_FOUND = """\
No captures or models here yet.
`aprtui trace -p TEXT` writes a capture into this folder; it appears here by itself.
`aprtui open FOLDER` looks somewhere else."""


class FilterInput(Input):
    """The filter of the table that had the focus."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Keep"),
        Binding("escape", "screen.end_filter", "No filter"),
    ]


class CaptureGrid(StageGrid):
    """The stage grid of a capture: enter opens the stage under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "choose", "Open")]

    class Chosen(Message):
        """The stage under the cursor was chosen."""

    def action_choose(self) -> None:
        """Open the stage under the cursor."""
        self.post_message(self.Chosen())
