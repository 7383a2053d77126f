"""The live screen: a model while it talks: its text as it comes, and every stage of the newest pass."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.widget import Widget
from textual.widgets import Input, Label, Static

from aprtui.engine.process import EngineState
from aprtui.engine.process_messages import (
    Event,
    Failed,
    Finished,
    Loaded,
    Paused,
    Progress,
    Resumed,
    Started,
    TokenText,
)
from aprtui.engine.process_slots import TokenRecord
from aprtui.engine.sampling import Sampling
from aprtui.trace.graph import graph_for
from aprtui.tui.readout import describe, pass_title, sampling_title
from aprtui.tui.session import Session
from aprtui.tui.stage_grid import StageGrid
from aprtui.tui.state import ScreenName, ScreenState, screen_state
from aprtui.tui.status_bar import Status, StatusBar
from aprtui.tui.text_stream import Kind, TextStream
from aprtui.tui.tool_screen import ToolScreen

POLLS_PER_SECOND = 20

PACE = 20.0
"""Tokens a second at which a text can be followed; small models make thousands, and would be done in a blink."""

NEWLINE = "⏎"
"""Stands for a line break in the prompt's single line."""

PATIENCE = 3.0
"""Seconds without a token after which the screen says so."""

WIDE = 160
"""From this width on, text and grid stand side by side."""

EXPLANATION = """\
The grid shows one forward pass: the one that chose the newest token. A row is a layer, a column is a stage in the \
order in which stages are computed. The number is the rms of the stage's values: m is thousandths, k thousands.

The colour compares layers: each column has its own logarithmic scale, from dark blue (smallest rms) to yellow \
(largest). NaN and Inf have colours of their own and win over every number; the lower border names the first stage \
that holds one. The line below the grid says all that is known of the stage under the cursor.
"""


class PromptInput(Input):
    """The prompt; its keys stand in the footer while it is being edited."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Run"),
        Binding("escape", "screen.back", "Back to the grid"),
    ]


class LiveScreen(ToolScreen):
    """Watch a generation. All data come from a source; the screen polls it and computes nothing itself."""

    NAME = ScreenName.LIVE
    EXPLANATION = EXPLANATION
    WIDGETS = (StageGrid,)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p,space", "pause", "Pause/resume"),
        Binding("n", "step", "Next token"),
        Binding("c", "cancel", "Cancel"),
        Binding("f", "full_speed", "Full speed or easy pace", show=False),
        # With priority, so that what is typed right after it reaches the prompt and not the grid.
        Binding("e,enter", "edit", "Edit prompt", priority=True),
        Binding("r", "restart", "Restart engine", show=False),
    ]
    HORIZONTAL_BREAKPOINTS = [(0, "-stacked"), (WIDE, "-wide")]  # noqa: RUF012  # Textual declares it per instance
    DEFAULT_CSS = """
    LiveScreen {
        #failure { height: auto; padding: 0 1; color: $error; text-style: bold; display: none; }
        #body { height: 1fr; }
        TextStream, StageGrid {
            border: round $border-blurred; border-title-color: $foreground; border-subtitle-color: $text-muted;
            padding: 0 1; scrollbar-size-vertical: 1;
        }
        StageGrid:focus { border: round $border; border-title-color: $accent; }
        TextStream { height: 1fr; min-height: 3; }
        StageGrid { height: auto; max-height: 70%; }
        #prompt-line { height: 1; padding: 0 1; background: $panel; }
        #prompt-line Label { width: auto; color: $accent; text-style: bold; }
        #prompt-line Input { border: none; height: 1; padding: 0; background: $panel; }
    }
    LiveScreen.-wide {
        #body { layout: horizontal; }
        TextStream { width: 1fr; height: 100%; }
        StageGrid { width: 2fr; height: 100%; max-height: 100%; }
    }
    """

    def __init__(self, session: Session, state: ScreenState) -> None:
        super().__init__(session, state)
        self._source = session.source
        self._prompt = state.text("prompt", session.prompt)
        self._sampling = session.sampling
        self._wanted = bool(self._prompt)
        self._run = 0
        self._seen = 0
        self._record: TokenRecord | None = None
        self._note = ""
        self.failure = ""
        self._moved = time.monotonic()
        self._pace: float | None = PACE

    def compose_body(self) -> Iterable[Widget]:
        """Status above, text and grid, prompt and keys below."""
        yield StatusBar()
        yield Static(id="failure", markup=False)
        with Container(id="body"):
            yield TextStream(id="text")
            yield StageGrid(id="grid")
        with Horizontal(id="prompt-line"):
            yield Label("prompt ❯ ")
            value = self._prompt.replace("\n", NEWLINE)
            yield PromptInput(value, placeholder="type a prompt, then press enter", select_on_focus=False)

    def state(self) -> ScreenState:
        """The prompt."""
        return screen_state(self.NAME, prompt=self.query_one(Input).value.replace(NEWLINE, "\n"))

    def command(self) -> Sequence[str]:
        """The run of this prompt."""
        return ["aprtui", "run", "-p", self.query_one(Input).value.replace(NEWLINE, "\n")]

    def on_mount(self) -> None:
        """Begin to load, and to look at what comes."""
        super().on_mount()
        self.query_one(TextStream).border_title = "text"
        grid = self.query_one(StageGrid)
        grid.border_title = pass_title(None)
        self.set_focus(grid)
        self._source.start()
        self.set_interval(1 / POLLS_PER_SECOND, self._poll)

    def on_input_submitted(self) -> None:
        """Enter in the prompt starts a generation."""
        self._generate()

    def on_stage_grid_pointed(self) -> None:
        """Put the node under the cursor into words."""
        grid = self.query_one(StageGrid)
        if grid.graph is not None:
            stats = None if self._record is None else self._record.stats
            self.say(describe(grid.graph, grid.node, stats, self.size.width - 2))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In the prompt, `e` is a letter and enter runs."""
        if action == "edit":
            return not isinstance(self.focused, Input)
        return super().check_action(action, parameters)

    def action_pause(self) -> None:
        """Pause, or go on."""
        if self._source.state is EngineState.PAUSED:
            self._source.resume()
        else:
            self._source.pause()

    def action_step(self) -> None:
        """One more token; pauses first where the engine is running."""
        if self._source.state is EngineState.PAUSED:
            self._source.step()
        else:
            self._source.pause()

    def action_full_speed(self) -> None:
        """Let the engine run as fast as it can, or at a pace that the eye can follow."""
        self._pace = None if self._pace else PACE
        self._source.set_pace(self._pace)

    def action_cancel(self) -> None:
        """End the generation."""
        self._source.cancel()

    def action_edit(self) -> None:
        """Go to the prompt."""
        self.set_focus(self.query_one(Input))

    def action_back(self) -> None:
        """From the prompt to the grid; from there to the screen that was shown before."""
        if isinstance(self.focused, Input):
            self.set_focus(self.query_one(StageGrid))
        else:
            super().action_back()

    def action_restart(self) -> None:
        """Start the engine anew."""
        self._source.restart()
        self._seen, self._moved = 0, time.monotonic()
        self._say("")

    def _generate(self) -> None:
        info = self._source.info
        prompt = self.query_one(Input).value.replace(NEWLINE, "\n")
        self._wanted = bool(prompt)
        if not prompt:
            self.notify("Type a prompt first.", severity="warning")
        elif self._source.state is EngineState.CRASHED:
            self.notify("The engine has crashed; press escape, then r to restart it.", severity="warning")
        elif info is None:
            # What is wanted starts as soon as the engine is loaded.
            self.set_focus(self.query_one(StageGrid))
        else:
            sampling = self._sampling or Sampling(temperature=info.temperature or 0.0)
            self.query_one(TextStream).border_subtitle = sampling_title(sampling)
            self._run = self._source.generate(prompt, sampling, max_tokens=info.context)
            self.set_focus(self.query_one(StageGrid))

    def _poll(self) -> None:
        for event in self._source.poll():
            self._follow(event)
        if self._source.written != self._seen:
            self._seen, self._moved = self._source.written, time.monotonic()
            self._show_latest()
        self.query_one(StatusBar).status = Status(
            self._source.info, self._source.state, self._record, self._waiting(), self._pace
        )

    def _waiting(self) -> str:
        """The latest note; where one has to wait, for how long already."""
        silent = time.monotonic() - self._moved
        if self._source.state is EngineState.LOADING:
            return f"{self._note or 'opening the model'}, {silent:.0f} s"
        if self._source.state is not EngineState.RUNNING or silent < PATIENCE:
            return self._note
        return f"{self._note or 'no token'} for {silent:.0f} s, r restarts"

    def _show_latest(self) -> None:
        record = self._source.latest()
        if record is not None:
            self._record = record
            grid = self.query_one(StageGrid)
            grid.show(record.stats)
            grid.border_title = pass_title(record)

    def _say(self, note: str, failure: str = "", restart: bool = False) -> None:
        self._note, self.failure = note, failure
        box = self.query_one("#failure", Static)
        box.update(f"{failure}\nPress r to restart the engine." if restart else failure)
        box.display = bool(failure)

    def _follow(self, event: Event) -> None:
        text = self.query_one(TextStream)
        match event:
            case Progress(what, done, total):
                self._say(f"{what} {done}/{total}")
            case Loaded(info):
                self._say("")
                self._source.set_pace(self._pace)
                self.query_one(StageGrid).open_graph(graph_for(info.graph))
                if self._wanted and not isinstance(self.focused, Input):
                    self._generate()
            case Started(run, prompt, tokens) if run == self._run:
                self._say(f"evaluating {len(tokens)} prompt tokens")
                self._moved = time.monotonic()
                text.clear()
                text.add(prompt, Kind.PROMPT)
            case TokenText(run, _, _, piece) if run == self._run:
                self._say("")
                text.add(piece, Kind.GENERATED)
            case Paused() | Resumed():
                self._say("")
            case Finished(run, reason, tail) if run == self._run:
                text.add(tail, Kind.GENERATED)
                self._say(reason)
            case Failed(message, fatal):
                self._say("", message, restart=fatal)
            case _:
                # An event of a generation that a newer one has replaced.
                return
