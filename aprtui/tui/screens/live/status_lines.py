"""The lines around the panes: two about the engine and how fast it is, one about the token looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len
from rich.segment import Segment
from textual.reactive import reactive
from textual.strip import Strip

from aprtui.engine.logit_noise import LogitNoise
from aprtui.engine.process.engine_process import EngineState
from aprtui.engine.process.messages import EngineDescription
from aprtui.engine.process.slots import TokenRecord
from aprtui.trace.experts import expert_use, expert_words, most_uneven
from aprtui.tui.draw.colours import tint_styles
from aprtui.tui.draw.numbers import duration
from aprtui.tui.draw.progress import WorkProgress, progress_line
from aprtui.tui.draw.signals import TintSignal, TokenFigures, token_words
from aprtui.tui.draw.text import SEPARATOR, joined
from aprtui.tui.frame.tool_screen import LEAST_COLUMNS
from aprtui.tui.widgets.line_widget import LineWidget


@dataclass(frozen=True, slots=True)
class Status:
    """What the status bar says.

    `note` is the engine's latest message, such as why it stopped. `work` is what it does for a while, and `now` when
    that is shown. `pace` is the limit of tokens/s that was set. `recording` is what is played, if anything, in words.
    """

    info: EngineDescription | None = None
    state: EngineState = EngineState.CLOSED
    record: TokenRecord | None = None
    note: str = ""
    pace: float | None = None
    work: WorkProgress | None = None
    now: float = 0.0
    recording: str = ""


PATIENCE = 3.0
"""Seconds without a report after which the bar says so."""

GLYPHS = {
    EngineState.LOADING: "…", EngineState.READY: "■", EngineState.RUNNING: "▶",
    EngineState.PAUSED: "‖", EngineState.CRASHED: "✗", EngineState.CLOSED: "■",
}  # fmt: skip


class StatusBar(LineWidget):
    PREFIX = "status-bar"
    COMPONENT_CLASSES: ClassVar[set[str]] = {"status-bar--engine", "status-bar--state", "status-bar--failure"}
    DEFAULT_CSS = """
    StatusBar {
        height: 2; padding: 0 1; background: $panel; color: $text-muted;
        .status-bar--engine { color: $foreground; text-style: bold; }
        .status-bar--state { color: $accent; text-style: bold; }
        .status-bar--failure { color: $error; text-style: bold; }
    }
    """

    status: reactive[Status] = reactive(Status())

    def render_line(self, y: int) -> Strip:
        status, width, base = self.status, self.size.width, self.style()
        if y == 0:
            style = self.style("engine")
            first, separator, rest = engine_line(status.info, width, status.recording).partition(SEPARATOR)
            return Strip([Segment(first, style), Segment(separator + rest, base)]).adjust_cell_length(width, base)
        if status.work is not None:
            text = f"{GLYPHS[status.state]} {status.state}{SEPARATOR}"
            room = max(width - cell_len(text), 0)
            text += progress_line(status.work, status.now, _what_to_do(status), room, self.plain)
            return Strip([Segment(text, self.style("state"))]).adjust_cell_length(width, base)
        name = "failure" if status.state is EngineState.CRASHED else "state"
        style = self.style(name)
        state = joined([f"{GLYPHS[status.state]} {status.state}", *([status.note] if status.note else [])], width)
        speed = speed_line(status.info, status.record, status.pace, max(width - cell_len(state) - len(SEPARATOR), 0))
        segments = [Segment(state, style), Segment(SEPARATOR + speed if speed else "", base)]
        return Strip(segments).adjust_cell_length(width, base)


def _what_to_do(status: Status) -> str:
    silent = 0.0 if status.work is None else status.now - status.work.reported
    return "c cancels" if silent < PATIENCE else f"silent for {silent:.0f} s, c cancels, ctrl+r restarts"


def engine_line(info: EngineDescription | None, width: int, recording: str = "") -> str:
    """What is loaded and what it runs on, or ran on; on a screen that is too narrow, that comes first."""
    narrow = [f"made for {LEAST_COLUMNS} columns, this screen has {width}"] if width < LEAST_COLUMNS - 2 else []
    if info is None:
        return joined([*narrow, "aprtui", "no model loaded yet"], width)
    fields = [
        info.model, f"{info.graph.architecture} {info.quantization}", f"mode {info.mode}", f"K/V {info.kv}",
        f"{info.backend} ({info.code_path})",
    ]  # fmt: skip
    if info.chosen:
        fields.append(f"auto: {info.chosen}")
    if info.faults:
        fields.insert(1, "1 fault injected" if len(info.faults) == 1 else f"{len(info.faults)} faults injected")
    return joined([*narrow, *([recording] if recording else []), *fields], width)


def speed_line(info: EngineDescription | None, record: TokenRecord | None, pace: float | None, width: int) -> str:
    """How fast the engine is by its own clock, what pace is asked of it, and how much of the context is used."""
    if info is None or record is None:
        return ""
    speed = f"{_rate(record.tokens_per_second)} tok/s" if record.tokens_per_second else "first token"
    paced = pace is not None and record.tokens_per_second > pace
    return joined(
        [
            f"{speed}, shown at {pace:g}" if paced else speed,
            f"context {record.position}/{info.context}",
            *device_fields(record),
            f"first token {duration(record.time_to_first_token)}",
            f"prefill {_rate(record.prefill_tokens_per_second)} tok/s",
        ],
        width,
    )


def device_fields(record: TokenRecord) -> list[str]:
    """How much of a GPU is in use, where the engine runs on one: of its memory, and its load where that is known."""
    if math.isnan(record.device_memory):
        return []
    load = "" if math.isnan(record.device_load) else f", {record.device_load:.0%} busy"
    return [f"GPU {record.device_memory_used / 1e9:.1f}/{record.device_memory / 1e9:.1f} GB{load}"]


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


class ExpertLine(LineWidget):
    """How the experts of a layer were chosen since the generation began; hidden for models without experts."""

    PREFIX = "expert-line"
    COMPONENT_CLASSES: ClassVar[set[str]] = {"expert-line--name"}
    DEFAULT_CSS = """
    ExpertLine {
        height: 1; padding: 0 1; color: $text-muted; display: none;
        .expert-line--name { color: $accent; text-style: bold; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._words: list[str] = []

    def show(self, record: TokenRecord | None, layer: int | None) -> None:
        """Show `layer` in the pass of `record`; the layer that is used most unevenly where none is meant."""
        words = [] if record is None or record.experts is None else experts_of(record.experts, layer)
        if words != self._words:
            self._words = words
            self.refresh()

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.style()
        name, gap, rest = joined(self._words or ["experts", "no token yet"], width).partition(SEPARATOR)
        return Strip([Segment(name, self.style("name")), Segment(gap + rest, base)]).adjust_cell_length(width, base)


def experts_of(rows: NDArray[np.void], layer: int | None) -> list[str]:
    """The line of one layer in fields: whose it is, and the figures."""
    uses = [expert_use(row["counts"], int(row["dropped"]), float(row["entropy"])) for row in rows]
    shown = most_uneven(uses) if layer is None else layer
    if not uses[shown].slots:
        return [f"experts of layer {shown}", "none: its block is dense"]
    return [
        f"experts of layer {shown}" + ("" if layer is not None else ", the most uneven"),
        *expert_words(uses[shown]),
    ]


class TokenLine(LineWidget):
    """The legend of a signal, and a token in words."""

    PREFIX = "token-line"
    COMPONENT_CLASSES: ClassVar[set[str]] = {"token-line--name"}
    DEFAULT_CSS = """
    TokenLine {
        height: 1; padding: 0 1; color: $text-muted;
        .token-line--name { color: $accent; text-style: bold; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._signal = TintSignal.PROBABILITY
        self._words: list[str] = []

    def show(self, signal: TintSignal, token: TokenFigures | None, noise: LogitNoise | None) -> None:
        words = [] if token is None else token_words(token, noise, signal)
        if (signal, words) != (self._signal, self._words):
            self._signal, self._words = signal, words
            self.refresh()

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.style()
        legend = self._legend()
        room = width - sum(segment.cell_length for segment in legend)
        words = joined(self._words, room) if self._words and room > 0 else ""
        name, gap, rest = words.partition(" id ")
        segments = [Segment(name, self.style("name")), Segment(gap + rest, base)]
        return Strip([*legend, *segments]).adjust_cell_length(width, base)

    def _legend(self) -> list[Segment]:
        base = self.style()
        if self._signal is TintSignal.NONE:
            return [Segment("no tint  ", base)]
        sure, unsure = self._signal.ends
        if self.plain:
            return [Segment(f"{self._signal}  ", base)]
        steps = [Segment(" ", base + style) for style in tint_styles(self.background)]
        return [Segment(f"{self._signal} {sure} ", base), *steps, Segment(f" {unsure}   ", base)]
