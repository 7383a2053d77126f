"""Two lines about the engine: what it is, and what it is doing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from textual.reactive import reactive
from textual.strip import Strip

from aprtui.engine.process.engine_process import EngineState
from aprtui.engine.process.messages import EngineInfo
from aprtui.engine.process.slots import TokenRecord
from aprtui.tui.draw.readout import SEPARATOR, engine_line, fit, speed_line
from aprtui.tui.widgets.line_widget import LineWidget


@dataclass(frozen=True, slots=True)
class Status:
    """What the status bar says.

    `note` is the latest word of the engine: progress, or why it stopped. `pace` is the limit of tokens/s that was set.
    """

    info: EngineInfo | None = None
    state: EngineState = EngineState.CLOSED
    record: TokenRecord | None = None
    note: str = ""
    pace: float | None = None


GLYPHS = {
    EngineState.LOADING: "…",
    EngineState.READY: "■",
    EngineState.RUNNING: "▶",
    EngineState.PAUSED: "‖",
    EngineState.CRASHED: "✗",
    EngineState.CLOSED: "■",
}


class StatusBar(LineWidget):
    """Shows a `Status`."""

    PREFIX = "status-bar"
    COMPONENT_CLASSES: ClassVar[set[str]] = {"status-bar--engine", "status-bar--state", "status-bar--failure"}
    DEFAULT_CSS = """
    StatusBar {
        height: 2;
        padding: 0 1;
        background: $panel;
        color: $text-muted;
        .status-bar--engine { color: $foreground; text-style: bold; }
        .status-bar--state { color: $accent; text-style: bold; }
        .status-bar--failure { color: $error; text-style: bold; }
    }
    """

    status: reactive[Status] = reactive(Status())

    def render_line(self, y: int) -> Strip:
        """The engine above, its state below."""
        status, width, base = self.status, self.size.width, self.style()
        if y == 0:
            style = self.style("engine")
            first, separator, rest = engine_line(status.info, width).partition(SEPARATOR)
            return Strip([Segment(first, style), Segment(separator + rest, base)]).adjust_cell_length(width, base)
        name = "failure" if status.state is EngineState.CRASHED else "state"
        style = self.style(name)
        state = fit([f"{GLYPHS[status.state]} {status.state}", *([status.note] if status.note else [])], width)
        speed = speed_line(status.info, status.record, status.pace, max(width - len(state) - len(SEPARATOR), 0))
        segments = [Segment(state, style), Segment(SEPARATOR + speed if speed else "", base)]
        return Strip(segments).adjust_cell_length(width, base)
