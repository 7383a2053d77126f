"""The live screen: a model while it talks: its text as it comes, what it might have said, and every stage of a pass."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Input, Label, Static

from aprtui.engine.process.engine_process import EngineState
from aprtui.engine.process.messages import (
    Captured,
    Declined,
    Event,
    Failed,
    Finished,
    Loaded,
    NoiseMeasured,
    Paused,
    Reopening,
    Resumed,
    Started,
    StepProgress,
    TokenNames,
    TokenText,
)
from aprtui.engine.sampling import Sampling
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.screens.live.commands import free_directory, run_command, trace_command
from aprtui.tui.screens.live.help_text import EXPLANATION
from aprtui.tui.screens.live.readout import sampling_title
from aprtui.tui.screens.live.settings import LiveSettingsScreen
from aprtui.tui.screens.live.settings_form import LiveSettings
from aprtui.tui.screens.live.state import live_state
from aprtui.tui.screens.live.status_bar import Status, StatusBar
from aprtui.tui.screens.live.view import LiveView
from aprtui.tui.widgets.stage_grid import StageGrid

POLLS_PER_SECOND = 21
"""A frame begins at a poll: a little more than the 20 frames a second that are wanted."""

PACE = 20.0
"""Tokens a second at which a text can be followed; small models make thousands, and would be done in a blink."""

NEWLINE = "⏎"
"""Stands for a line break in the prompt's single line."""

PATIENCE = 3.0
"""Seconds without a token after which the screen says so."""

STACKED, WIDE = 120, 160
"""From these widths on, candidates and lens stand beside each other, and text and grid do."""


class PromptInput(Input):
    """The prompt; its keys stand in the footer while it is being edited."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Run"),
        Binding("escape", "screen.back", "Back to the grid"),
    ]


class LiveScreen(LiveView):
    """Watch a generation. All data come from a source; the screen polls it and computes nothing itself."""

    NAME = ScreenName.LIVE
    EXPLANATION = EXPLANATION
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p,space", "pause", "Pause/resume", id="live.pause"),
        # With priority, so that what is typed right after it reaches the prompt and not the grid.
        Binding("e,enter", "edit", "Prompt", priority=True, id="live.prompt"),
        Binding("o", "settings", "Settings", id="live.settings"),
        Binding("w", "capture", "Capture", id="live.capture"),
        Binding("n", "step", "Next token, then rest", show=False, id="live.step"),
        Binding("C", "contracts", "Contracts about the stage", show=False, id="live.contracts"),
        Binding("c", "cancel", "Cancel", show=False, id="live.cancel"),
        Binding("g", "again", "Generate again with the next seed", show=False, id="live.again"),
        Binding("i", "inject", "Inject a fault at this stage", show=False, id="live.inject"),
        Binding("f", "full_speed", "Full speed or easy pace", show=False, id="live.pace"),
        Binding("r", "restart", "Restart engine", show=False, id="live.restart"),
        Binding("W", "copy_trace", "Copy the trace command of this run", show=False, id="live.trace"),
    ]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (STACKED, "-stacked"), (WIDE, "-wide")]  # noqa: RUF012  # as Textual does
    DEFAULT_CSS = """
    LiveScreen {
        #failure { height: auto; padding: 0 1; color: $error; text-style: bold; display: none; }
        #prompt-line { height: 1; padding: 0 1; background: $panel; }
        #prompt-line Label { width: auto; color: $accent; text-style: bold; }
        #prompt-line Input { border: none; height: 1; padding: 0; background: $panel; }
    }
    """

    def __init__(self, session: Session, state: ScreenState) -> None:
        super().__init__(session, state)
        self._prompt = state.text("prompt", session.prompt)
        self._sampling = self._begin.sampling
        self._wanted = bool(self._prompt)
        self._number = 0
        self._seen = 0
        self._note = ""
        self.failure = ""
        self._moved = time.monotonic()
        self._pace: float | None = PACE
        self._grid_alone = False
        """Whether the last poll drew the grid alone: what nobody can read so fast is drawn at every second one."""

    def compose_body(self) -> Iterable[Widget]:
        """Status above; text, candidates, lens and grid; prompt below."""
        yield StatusBar()
        yield Static(id="failure", markup=False)
        yield self._body
        with Horizontal(id="prompt-line"):
            yield Label("prompt ❯ ")
            value = self._prompt.replace("\n", NEWLINE)
            yield PromptInput(value, placeholder="type a prompt, then press enter", select_on_focus=False)

    @property
    def prompt(self) -> str:
        """The prompt as it stands in its line."""
        return self.query_one(Input).value.replace(NEWLINE, "\n")

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen: as asked for, else at the temperature that the model recommends."""
        info = self._source.info
        return self._sampling or Sampling(temperature=(info.temperature if info else None) or 0.0)

    def state(self) -> ScreenState:
        """Prompt, settings, and what is looked at."""
        body, settings = self._body, LiveSettings(self.sampling, self._source.settings)
        return live_state(
            self._source.info, settings, self.prompt,
            body.node, body.statistic, body.signal, body.lens, self._run.timeline.at,
        )  # fmt: skip

    def command(self) -> Sequence[str]:
        """The run of this prompt."""
        if not self.prompt:
            return []
        tokens = self._run.timeline.shown + 1
        return run_command(self._source.info, self._source.settings, self.prompt, self.sampling, tokens)

    def on_mount(self) -> None:
        """Begin to load, and to look at what comes."""
        self.set_focus(self.query_one(StageGrid))
        self._source.start(self._begin.engine)
        self.set_interval(1 / POLLS_PER_SECOND, self._poll)

    def on_input_submitted(self) -> None:
        """Enter in the prompt starts a generation."""
        self._generate()

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
        self._look(self._run.timeline.to_live())
        if self._source.state is EngineState.PAUSED:
            self._source.step()
        else:
            self._source.pause()

    def action_full_speed(self) -> None:
        """Let the engine run as fast as it can, or at a pace that the eye can follow."""
        self._pace = None if self._pace else PACE
        self._source.set_pace(self._pace)

    def action_cancel(self) -> None:
        """End what is going on: a capture, a measurement, a generation."""
        self._source.cancel()

    def action_edit(self) -> None:
        """Go to the prompt."""
        self.set_focus(self.query_one(Input))

    def action_back(self) -> None:
        """From the prompt to the grid, from an older token to the newest; else to the screen that was shown before."""
        if isinstance(self.focused, Input):
            self.set_focus(self.query_one(StageGrid))
        elif not self._run.timeline.live:
            self.action_newest()
        else:
            super().action_back()

    def action_restart(self) -> None:
        """Start the engine anew."""
        self._source.restart()
        self._run.forget()
        self._seen, self._moved = 0, time.monotonic()
        self._say("")

    def action_settings(self, focused: str = "temperature", fault: str = "") -> None:
        """Edit sampling, engine and faults."""
        engine = self._source.settings
        shown = replace(engine, faults=(*engine.faults, fault)) if fault else engine
        dialog = LiveSettingsScreen(LiveSettings(self.sampling, shown), focused)
        self.app.push_screen(dialog, self._use)

    def action_inject(self) -> None:
        """Edit the settings with a fault at the stage under the cursor."""
        node = self._body.node
        if node is not None:
            self.action_settings("fault", f"layer={node.layer},stage={node.stage},kind=scale,magnitude=0.5")

    def action_again(self) -> None:
        """The same prompt with another seed."""
        self._sampling = replace(self.sampling, seed=self.sampling.seed + 1)
        self._generate()

    def action_capture(self) -> None:
        """Write the run so far as a capture, and open it when it is there."""
        if not self._run.tokens:
            self.notify("There is no run to capture yet: press e and enter a prompt.", severity="warning")
            return
        self._source.write_capture(self._free_directory())

    def action_copy_trace(self) -> None:
        """Copy the headless command that writes the same capture."""
        if not self._run.tokens:
            self.notify("There is no run to capture yet: press e and enter a prompt.", severity="warning")
            return
        info, settings = self._source.info, self._source.settings
        self.copy(trace_command(info, settings, self._run.ids, len(self._run.prompt), self._free_directory()))

    def _free_directory(self) -> Path:
        info = self._source.info
        return free_directory("run" if info is None or info.path is None else info.path.stem, Path.cwd())

    def _use(self, settings: LiveSettings | None) -> None:
        """What the dialog gave: the model is opened anew only where the engine is another one."""
        if settings is None:
            return
        self._sampling = settings.sampling
        if settings.engine == self._source.settings:
            self._generate()
        else:
            self._wanted = bool(self.prompt)
            self._source.reopen(settings.engine)

    def _generate(self) -> None:
        info = self._source.info
        self._wanted = bool(self.prompt)
        if not self.prompt:
            self.notify("Type a prompt first.", severity="warning")
        elif self._source.state is EngineState.CRASHED:
            self.notify("The engine has crashed; press escape, then r to restart it.", severity="warning")
        elif info is None:
            # What is wanted starts as soon as the engine is loaded.
            self.set_focus(self.query_one(StageGrid))
        else:
            self._number = self._source.generate(self.prompt, self.sampling, max_tokens=info.context)
            self.set_focus(self.query_one(StageGrid))

    def _poll(self) -> None:
        for event in self._source.poll():
            self._follow(event)
        if self._source.written != self._seen:
            several = self._source.written - self._seen > 1
            self._seen, self._moved = self._source.written, time.monotonic()
            self._run.timeline = self._run.timeline.grown(self._seen)
            self._ask_noise()
            self._grid_alone = several and not self._grid_alone
            self._show(self._grid_alone) if self._run.timeline.live else self._show_place()
            self._reach_wanted_token()
        elif self._grid_alone:
            self._grid_alone = False
            self._show()
        if not self._grid_alone:
            self.query_one(StatusBar).status = Status(
                self._source.info, self._source.state, self._body.record, self._waiting(), self._pace
            )

    def _waiting(self) -> str:
        """The latest note; where one has to wait, for how long already."""
        silent = time.monotonic() - self._moved
        if self._source.state is EngineState.LOADING:
            return f"{self._note or 'opening the model'}, {silent:.0f} s"
        if self._source.state is not EngineState.RUNNING or silent < PATIENCE:
            return self._note
        return f"{self._note or 'no token'} for {silent:.0f} s, r restarts"

    def _say(self, note: str, failure: str = "", restart: bool = False) -> None:
        self._note = note
        if failure == self.failure:
            return  # an update of the box lays the whole screen out anew, and would do so with every token
        self.failure = failure
        box = self.query_one("#failure", Static)
        box.update(f"{failure}\nPress r to restart the engine." if restart else failure)
        box.display = bool(failure)

    def _follow(self, event: Event) -> None:
        body, run = self._body, self._run
        match event:
            case StepProgress(what, done, total):
                self._say(f"{what} {done}/{total}")
            case Reopening():
                self._moved = time.monotonic()
                self._say("")
            case Loaded(info):
                body.open(info)
                self._loaded()
            case Started(number, _, tokens) if number == self._number:
                self._say(f"evaluating {len(tokens)} prompt tokens")
                self._moved, self._asked_noise = time.monotonic(), False
                run.begin(event)
                body.start(event, sampling_title(self.sampling))
            case TokenNames(names):
                run.names.update(names)
            case TokenText(run=number) if number == self._number:
                self._say("")
                run.add(event)
                body.add(event)
            case Paused() | Resumed():
                self._say("")
            case Finished(number, reason, tail) if number == self._number:
                body.finish(tail)
                self._say(reason)
            case Captured(directory):
                self._say("")
                self._captured(directory)
            case NoiseMeasured(noise):
                self._say("")
                run.noise = noise
                body.show_tints()
            case Declined(message):
                self._say("")
                self.notify(message, severity="warning", markup=False, timeout=10)
            case Failed(message, fatal):
                self._say("", message, restart=fatal)
            case _:
                # An event of a generation that a newer one has replaced.
                return

    def _loaded(self) -> None:
        """An engine is there, the first one or another."""
        self._say("")
        self._source.set_pace(self._pace)
        self._source.set_lens(self._body.lens)
        if self._wanted and not isinstance(self.focused, Input):
            self._generate()

    def _captured(self, directory: Path) -> None:
        self.notify(str(directory), title="Captured", markup=False, timeout=10)
        if self.is_current:
            self.program.open_state(screen_state(ScreenName.BROWSE, at=directory))
