"""The live screen: a model while it generates. Its text, its likeliest tokens, and every stage of a forward pass."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from textual.app import SuspendNotSupported
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.widget import Widget
from textual.widgets import Label, Static

from aprtui.engine.faults.faults import fault_node
from aprtui.engine.logit_noise import FEWEST_TOKENS
from aprtui.engine.process import messages
from aprtui.engine.process.engine_process import EngineState
from aprtui.engine.process.slots import TokenRecord
from aprtui.engine.sampling import Sampling
from aprtui.engine.sessions.player import NO_ENGINE
from aprtui.errors import UsageError
from aprtui.model.prompt import ChatPrompt
from aprtui.model.split_files import model_stem
from aprtui.trace.graph.stage_graph import graph_for
from aprtui.tui.draw.bars import candidate_bars, lens_bars
from aprtui.tui.draw.figures import figures_of, first_bad
from aprtui.tui.draw.progress import WorkProgress
from aprtui.tui.draw.signals import TintSignal, tint
from aprtui.tui.frame.recent import remember
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, ScreenState, screen_state
from aprtui.tui.frame.tool_screen import ToolScreen
from aprtui.tui.screens.live.conversation import RenderedPromptScreen, show_turns
from aprtui.tui.screens.live.facts import ModelFactsScreen
from aprtui.tui.screens.live.faults import FaultDialog, FaultPlace
from aprtui.tui.screens.live.prompt import PromptEditor, edit
from aprtui.tui.screens.live.readout import describe, pass_title, sampling_title
from aprtui.tui.screens.live.run import LiveRun, Timeline, earlier_turns
from aprtui.tui.screens.live.settings import LiveSettings, LiveSettingsScreen
from aprtui.tui.screens.live.state import (
    LiveLook,
    free_directory,
    initial_state,
    live_state,
    recording_state,
    render_command,
    run_command,
    trace_command,
)
from aprtui.tui.screens.live.status_lines import ExpertLine, Status, StatusBar, TokenLine
from aprtui.tui.widgets.bar_list import BarList
from aprtui.tui.widgets.contracts import ContractsDock
from aprtui.tui.widgets.layer_grid import KIND_MARKS
from aprtui.tui.widgets.moves import END_TOKENS, TEN_TOKENS, TOKENS
from aprtui.tui.widgets.overview_grid import GridView
from aprtui.tui.widgets.stage_grid import StageGrid
from aprtui.tui.widgets.text_stream import TextStream

EXPLANATION = """\
The text is what the model says, special tokens included. Each token is tinted by a signal (t): dark where the model \
was sure, bright where it was not; the line above the prompt says what the ends mean, and puts the token into words. \
Flip risk is the chance that an engine that rounds otherwise would find another token likeliest: an estimate from \
the margin between the two largest logits and the noise at the logits, which is measured once for each model (q8 \
against exact on the tokens of the run) when the signal is first chosen.

In a conversation (a), prompts go through the model's own chat template, and every answer stays: the next turn goes on \
from it, and only what is new is evaluated. P shows the prompt as the model gets it, with its special tokens; A begins \
a new conversation. A model without a template continues prompts as plain text.

The grid shows one forward pass: the one that chose the token. A row is a layer, a column is a stage in the order in \
which stages are computed. The statistic is one of six (M). m after a number is thousandths, k thousands. Where not \
all layers have room with their numbers, the overview shows them as colours, two or four a line (v turns to either \
view): the first of them above, the second below it, the third and fourth at their right. The codes above its columns \
are short for the stages; the line at the bottom names the one under the cursor. A cell with an injected fault is \
outlined in violet.

Colours of rms, absmax and mean compare layers: each column has a scale of its own. Those of change and time compare \
all cells. Change is that of the rms against the token before, in per cent. Stages that a kernel computes in one go \
have their time at the first of them, and ← at the others. NaN (X) and Inf (I) have colours of their own and win \
over every number; the lower border names the first stage that holds one. The line at the bottom says all that is \
known of the stage under the cursor.

Time travel: [ and ] (or shift with an arrow key) move the whole screen to another token of the run, as far back as \
records are kept (256); G returns to the present. The engine goes on meanwhile unless it is paused.

The logit lens (L) says at the right of each layer what the model would say next if it ended there: the last norm and \
the head, applied to the layer's output. What the last layer says too is bold. It costs time for every token. Where a \
line of the overview has no room for all of its layers, the one under the cursor is shown, or the last.

A capture (w) evaluates the tokens of the run again with every tap and writes all stage tensors; W copies the \
headless command for the same.
"""

POLLS_PER_SECOND = 21
"""Each poll begins a frame: a little more than the 20 frames a second that are wanted."""

PACE = 20.0
"""Tokens a second at which a text can be followed; small models generate thousands."""

PATIENCE = 3.0
"""Seconds without a token after which the screen says so."""

NO_LENS = "not computed for\nthis token;\nn the next one,\nr the run again"

STACKED, WIDE = 120, 160
"""From these widths on, the contracts have room beside the candidates, and the text beside the grid."""


NEED_ENGINE = frozenset(
    f"live.{name}"
    for name in (
        "prompt", "editor", "chat", "new", "settings", "capture", "inject", "trace", "facts", "lens", "restart",
    )
)  # fmt: skip
"""The commands that a recording declines."""

NOT_LOADED = "loading was cancelled: ctrl+r loads the model"


class LiveScreen(ToolScreen):
    """Watch a generation. All data come from a source; the screen polls it and computes nothing itself."""

    NAME = ScreenName.LIVE
    EXPLANATION = EXPLANATION
    SIGNS = (
        ("m k", "thousandths, thousands"), ("X", "NaN"), ("I", "Inf"), ("·", "no number yet"),
        ("←", "its time counts at the stage before"), *KIND_MARKS,
    )  # fmt: skip
    WIDGETS = (StageGrid, TextStream)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p,space", "pause", "Pause/resume", id="live.pause"),
        # With priority, so that keys typed right after it reach the prompt and not the grid.
        Binding("e,enter", "edit", "Prompt", priority=True, id="live.prompt"),
        Binding("E", "open_editor", "Prompt in $EDITOR", show=False, id="live.editor"),
        Binding("a", "chat", "Prompts as a chat or as plain text", show=False, id="live.chat"),
        Binding("A", "new_conversation", "New conversation", show=False, priority=True, id="live.new"),
        Binding("P", "rendered_prompt", "The prompt as the model gets it", show=False, id="live.rendered"),
        Binding("o", "settings", "Settings", id="live.settings"),
        Binding("w", "capture", "Capture", id="live.capture"),
        Binding("n", "step", "Next token, then rest", show=False, id="live.step"),
        Binding("C", "contracts", "Contracts about the stage", show=False, id="live.contracts"),
        Binding("c", "cancel", "Cancel", show=False, id="live.cancel"),
        Binding("r", "again", "Generate again with the next seed", show=False, id="live.again"),
        Binding("i", "inject", "Inject a fault at this stage", show=False, id="live.inject"),
        Binding("f", "full_speed", "Full speed or easy pace", show=False, id="live.pace"),
        Binding("ctrl+r", "restart", "Restart engine", show=False, id="live.restart"),
        Binding("W", "copy_trace", "Copy the trace command of this run", show=False, id="live.trace"),
        Binding(
            "left_square_bracket,shift+left", "travel(-1)", "Token before", show=False, id="live.before", group=TOKENS
        ),
        Binding(
            "right_square_bracket,shift+right", "travel(1)", "Token after", show=False, id="live.after", group=TOKENS
        ),
        Binding(
            "left_curly_bracket", "travel(-10)", "Ten tokens before", show=False, id="live.before10", group=TEN_TOKENS
        ),
        Binding(
            "right_curly_bracket", "travel(10)", "Ten tokens after", show=False, id="live.after10", group=TEN_TOKENS
        ),
        Binding("home", "oldest", "Oldest token that is kept", show=False, id="live.oldest", group=END_TOKENS),
        Binding("end,G", "newest", "Newest token, as it comes", show=False, id="live.newest", group=END_TOKENS),
        Binding("M", "statistic", "Next statistic of the grid", show=False, id="live.statistic"),
        Binding("t", "tint", "Next signal that tints the text", show=False, id="live.tint"),
        Binding("I", "facts", "The model's own facts", show=False, id="live.facts"),
        Binding("v", "turn_view", "Numbers or the overview of all layers", show=False, id="live.view"),
        Binding("L", "lens", "Logit lens on or off", show=False, id="live.lens"),
    ]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (STACKED, "-stacked"), (WIDE, "-wide")]  # noqa: RUF012  # as Textual does
    DEFAULT_CSS = """
    LiveScreen {
        #failure { height: auto; padding: 0 1; color: $error; text-style: bold; display: none; }
        #prompt-line { height: auto; padding: 0 1; background: $panel; }
        #prompt-line Label { width: auto; color: $accent; text-style: bold; }
        #panes { layout: horizontal; height: 1fr; }
        #side { layout: horizontal; height: 100%; width: auto; }
        TextStream { width: 1fr; height: 100%; }
        BarList { width: 32; height: 100%; }
        #dock { display: none; width: 44; height: 100%; }
        &.-narrow StageGrid, &.-stacked StageGrid { dock: bottom; width: 100%; height: auto; }
        &.-contracts #dock, &.-wide #dock { display: block; }
        &.-narrow.-contracts #candidates { display: none; }
    }
    LiveScreen.-wide {
        #panes { layout: grid; grid-size: 2 2; grid-columns: 1fr 2fr; grid-rows: auto 1fr; }
        #side { width: 100%; min-height: 13; }
        TextStream { row-span: 2; width: 100%; }
        BarList, #dock { width: 1fr; }
        StageGrid { height: auto; }
    }
    """

    def __init__(self, session: Session, state: ScreenState) -> None:
        super().__init__(session, state)
        self._source = session.source
        self._initial = initial_state(state, session.source.settings)
        self._wanted_token = self._initial.token
        self._model, self._prompt = state.path("model"), state.text("prompt")
        self._sampling = self._initial.sampling
        self._chat, self._system = self._initial.chat, self._initial.system
        self._request: str | ChatPrompt | None = self._initial.turn
        """What the engine was asked for last, or what the screen begins with beside the text in the field."""
        self._recording = session.source.recording
        if self._recording is not None:
            start = self._recording.start
            self._request, self._sampling = self._recording.request, start.sampling
            self._chat, self._system = start.chat, start.system
            self.left_out = NEED_ENGINE
        self._run = LiveRun(turns=earlier_turns(self._initial.turn))
        self._statistic, self._signal, self._lens = self._initial.statistic, self._initial.signal, self._initial.lens
        self._record: TokenRecord | None = None
        self._before: TokenRecord | None = None
        """The pass that is shown, and that of the token before."""
        self._text = TextStream(classes="pane")
        self._text_title = "text"
        self._candidates = BarList("likeliest tokens", id="candidates", classes="pane")
        self._dock = ContractsDock(session.paths, id="dock")
        self._dock.can_focus = False  # enter goes to the prompt here; 5 opens the contracts
        self._grid = StageGrid(classes="pane")
        self._expert_line, self._token_line = ExpertLine(), TokenLine()
        self._editor = PromptEditor(self._prompt)
        self._generate_when_loaded = bool(self._prompt) or self._recording is not None
        self._generation = 0
        self._records_shown = 0
        self._note = ""
        self._work: WorkProgress | None = None
        self._last_progress = time.monotonic()
        self._noise_requested = False
        self._pace: float | None = PACE
        self._grid_alone = False
        """Whether the last poll drew only the grid: texts that change too fast to be read are drawn at every second."""

    def compose_body(self) -> Iterable[Widget]:
        yield StatusBar()
        yield Static(id="failure", markup=False)
        with Container(id="panes"):
            yield self._text
            yield self._grid
            with Container(id="side"):
                yield self._candidates
                yield self._dock
        yield self._expert_line
        yield self._token_line
        with Horizontal(id="prompt-line"):
            yield Label("prompt ❯ ", id="prompt-kind")
            yield self._editor

    @property
    def _lacks_engine(self) -> bool:
        """Whether a recording is played, of which nothing can be asked; the user is told so."""
        if self._recording is not None:
            self.notify(NO_ENGINE[0].upper() + NO_ENGINE[1:] + ".", severity="warning")
        return self._recording is not None

    @property
    def chat(self) -> bool:
        """Whether prompts are turns of a conversation: as the user said, else where the model has a chat template."""
        info = self._source.info
        return info is not None and info.has_template and self._chat is not False

    @property
    def prompt(self) -> str:
        """The text in the field."""
        return self._editor.text

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen: as the user said, else at the temperature that the model recommends."""
        info = self._source.info
        return self._sampling or Sampling(temperature=(info.temperature if info else None) or 0.0)

    def state(self) -> ScreenState:
        info, run = self._source.info, self._run
        request = self._request or self._next_request()
        is_chat = isinstance(request, ChatPrompt) if request else self.chat
        turn, index = run.place
        token = None if run.timeline.live or turn is not run.turns[-1] else index
        settings = LiveSettings(self.sampling, self._source.settings, self._system)
        look = LiveLook(
            self._grid.node, self._grid.wanted_view, self._statistic, self._signal, self._lens, token,
        )  # fmt: skip
        if self._recording is not None:
            return recording_state(self._recording.path, look)
        return live_state(
            self._model if info is None else info.path, settings, request,
            is_chat if info is not None and info.has_template else self._chat, look,
        )  # fmt: skip

    def command(self) -> Sequence[str]:
        turn, index = self._run.place
        if self._recording is not None:
            return render_command(self._recording.path, index) if index >= 0 else []
        request = turn.request if turn is not None and turn.ids else self._request or self._next_request()
        if not request:
            return []
        ids = () if turn is None else turn.ids
        return run_command(self._source.info, self._source.settings, request, ids, self.sampling, index + 1)

    def on_mount(self) -> None:
        self._text.border_title = self._text_title
        self._grid.border_title = pass_title(self._statistic, None)
        self._candidates.show([], "No token yet.")
        if self._run.turns:
            show_turns(self._text, self._run, self._signal)
        self._grid.show_view(self._initial.view)
        self.query_one("#prompt-line").display = self._recording is None
        self.set_focus(self._grid)
        self._source.start(self._initial.engine)
        self.set_interval(1 / POLLS_PER_SECOND, self._poll)

    def on_prompt_editor_sent(self) -> None:
        self._send()

    def on_prompt_editor_editor_wanted(self) -> None:
        self.action_open_editor()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """In the prompt, `e` and `A` are letters and enter sends."""
        if action in ("edit", "new_conversation"):
            return not self.is_typing
        return super().check_action(action, parameters)

    def on_stage_grid_pointed(self) -> None:
        self._show_words()
        self._dock.point_at(self._grid.node)

    def action_contracts(self) -> None:
        """Show or hide what contracts say about the stage; a wide screen always shows it."""
        self.toggle_class("-contracts")

    def on_text_stream_pointed(self, event: TextStream.Pointed) -> None:
        self._travel_to(self._run.timeline.at_token(event.token))

    def on_text_stream_selected(self, event: TextStream.Selected) -> None:
        self.copy_text(event.text)

    def action_travel(self, by: int) -> None:
        self._travel_to(self._run.timeline.moved(by))

    def action_oldest(self) -> None:
        self._travel_to(self._run.timeline.at_token(0))

    def action_newest(self) -> None:
        self._travel_to(self._run.timeline.to_live())

    def action_statistic(self) -> None:
        self._statistic = self._statistic.following
        self._show_grid()
        self._show_words()

    def action_tint(self) -> None:
        self._signal = self._signal.following
        self._request_noise()
        self._show_tints()

    def action_facts(self) -> None:
        info = self._source.info
        if self._lacks_engine:
            return
        if info is None or info.path is None:
            self.notify("No model file is loaded yet.", severity="warning")
        else:
            self.app.push_screen(ModelFactsScreen(info.path))

    def action_turn_view(self) -> None:
        """Show the layers with their numbers, or all of them at once."""
        self._grid.show_view(GridView.NUMBERS if self._grid.view is GridView.OVERVIEW else GridView.OVERVIEW)

    def action_lens(self) -> None:
        if self._lacks_engine:
            return
        self._lens = not self._lens
        self._source.set_lens(self._lens)
        self._show_lens()

    def action_pause(self) -> None:
        if self._source.state is EngineState.PAUSED:
            self._source.resume()
        else:
            self._source.pause()

    def action_step(self) -> None:
        self._travel_to(self._run.timeline.to_live())
        if self._source.state is EngineState.PAUSED:
            self._source.step()
        else:
            self._source.pause()

    def action_full_speed(self) -> None:
        self._pace = None if self._pace else PACE
        self._source.set_pace(self._pace)

    def action_cancel(self) -> None:
        """End what is going on: a loading, a capture, a measurement, a generation."""
        self._source.cancel()

    def action_edit(self) -> None:
        if not self._lacks_engine:
            self.set_focus(self._editor)

    def action_open_editor(self) -> None:
        """Edit the prompt in the user's own editor, which has the terminal meanwhile."""
        if self._lacks_engine:
            return
        try:
            text = edit(self.prompt, self.app.suspend)
        except UsageError as error:
            self.notify(str(error), severity="error")
        except SuspendNotSupported:
            self.notify("This terminal cannot be given to an editor.", severity="error")
        else:
            self._editor.put(text)
            self.action_edit()

    def action_back(self) -> None:
        """Go from prompt and text to the grid, from an older token to the newest, else to the previous screen."""
        if self.is_typing or self._text.has_focus:
            self.set_focus(self._grid)
        elif not self._run.timeline.live:
            self.action_newest()
        else:
            super().action_back()

    def action_restart(self) -> None:
        self._source.restart()
        self._run.lose_records()
        self._records_shown, self._last_progress = 0, time.monotonic()
        self._show_note("")

    def action_settings(self) -> None:
        if self._lacks_engine:
            return
        settings = LiveSettings(self.sampling, self._source.settings, self._system)
        self.app.push_screen(LiveSettingsScreen(settings, self._fault_place()), self._apply_settings)

    def action_inject(self) -> None:
        if self._lacks_engine:
            return
        place = self._fault_place()
        if place is None:
            self.notify("Faults need a model: wait until it is loaded.", severity="warning")
        else:
            self.app.push_screen(FaultDialog(place, self._source.settings.faults), self._apply_faults)

    def _fault_place(self) -> FaultPlace | None:
        """The stage under the cursor and the token that is looked at; None without a model."""
        node, info = self._grid.node, self._source.info
        if node is None or info is None or self._grid.graph is None:
            return None
        token = None if self._record is None else self._record.position - 1
        maps = frozenset(stage.name for stage in self._grid.graph.stages if stage.is_attention_map)
        return FaultPlace(node, info.fault_kinds, maps, token)

    def action_again(self) -> None:
        """Generate again with the next seed; play a recording again."""
        if self._recording is None:
            self._sampling = replace(self.sampling, seed=self.sampling.seed + 1)
        self._send_again()

    def action_chat(self) -> None:
        """Say the next prompts through the model's chat template, or have them continued as plain text."""
        if self._lacks_engine:
            return
        info = self._source.info
        if info is not None and not info.has_template:
            self.notify("This model has no chat template: prompts are continued as plain text.", severity="warning")
            return
        self._chat = not self.chat
        self._show_prompt_kind()

    def action_new_conversation(self) -> None:
        if self._lacks_engine:
            return
        self._source.cancel()
        self._run.forget()
        self._request, self._record, self._generation = None, None, 0
        self._show_note("")
        self._text.clear()
        self._candidates.show([], "No token yet.")
        if self._grid.graph is not None:
            self._grid.open_graph(self._grid.graph, self._grid.node)
        self._grid.border_title = pass_title(self._statistic, None)
        self._show()
        self.action_edit()

    def action_rendered_prompt(self) -> None:
        turn, _ = self._run.place
        if turn is None or not turn.ids:
            self.notify("No prompt was sent yet: press e and enter one.", severity="warning")
        else:
            self.app.push_screen(RenderedPromptScreen(turn, self._run))

    def action_capture(self) -> None:
        if self._lacks_engine:
            return
        if not self._run.tokens:
            self.notify("There is no run to capture yet: press e and enter a prompt.", severity="warning")
            return
        self._source.write_capture(self._free_directory())

    def action_copy_trace(self) -> None:
        if self._lacks_engine:
            return
        if not self._run.tokens:
            self.notify("There is no run to capture yet: press e and enter a prompt.", severity="warning")
            return
        info, settings = self._source.info, self._source.settings
        self.copy(trace_command(info, settings, self._run.ids, len(self._run.turns[-1].ids), self._free_directory()))

    def _free_directory(self) -> Path:
        info = self._source.info
        return free_directory("run" if info is None or info.path is None else model_stem(info.path), Path.cwd())

    def _apply_faults(self, faults: tuple[str, ...] | None) -> None:
        engine = self._source.settings
        if faults is not None and faults != engine.faults:
            self._apply_settings(LiveSettings(self.sampling, replace(engine, faults=faults), self._system))

    def _apply_settings(self, settings: LiveSettings | None) -> None:
        """Use what the dialog returned; the model is opened again only for another engine."""
        if settings is None:
            return
        self._sampling, self._system = settings.sampling, settings.system
        if settings.engine == self._source.settings:
            self._send_again()
        else:
            self._generate_when_loaded = bool(self._request or self._next_request())
            self._source.reopen(settings.engine)

    def _next_request(self) -> str | ChatPrompt:
        """What is in the field, as the next turn of the conversation or as a text to continue; empty if nothing is."""
        text = self.prompt
        return self._run.following(text, self._system) if self.chat and text else text

    def _send(self) -> None:
        """Send what is in the field."""
        self._editor.remember(self.prompt)
        self._generate(self._next_request())

    def _send_again(self) -> None:
        """Send what was sent last, with the settings of now; what is in the field where nothing was."""
        request = self._request
        if request is None:
            self._send()
        else:
            self._generate(replace(request, system=self._system) if isinstance(request, ChatPrompt) else request)

    def _generate(self, request: str | ChatPrompt) -> None:
        info = self._source.info
        self._generate_when_loaded = bool(request)
        if not request:
            self.notify("Type a prompt first.", severity="warning")
        elif self._source.state is EngineState.CRASHED:
            self.notify("The engine has crashed; press escape, then ctrl+r to restart it.", severity="warning")
        elif self._source.state is EngineState.CLOSED:
            self.notify(f"{NOT_LOADED.capitalize()}.", severity="warning")
        elif info is None:
            # What is in the field is sent as soon as the engine is loaded: until then nobody knows of a template.
            self._request = None
            self.set_focus(self._grid)
        else:
            self._request = request
            self._generation = self._source.generate(request, self.sampling, max_tokens=info.context)
            self.set_focus(self._grid)

    def _stop_at_wanted_token(self) -> None:
        """Pause at the token that the screen's state asked for."""
        if self._wanted_token is not None and self._run.timeline.tokens > self._wanted_token + 1:
            self._source.pause()
            self._travel_to(self._run.timeline.at_token(self._wanted_token))
            self._wanted_token = None

    def _show_words(self) -> None:
        graph = self._grid.graph
        if graph is not None:
            node = self._grid.node
            self.say(describe(graph, node, self._record, self._before, self.size.width - 2))
            self._expert_line.show(self._record, None if node is None else node.layer)

    def _travel_to(self, timeline: Timeline) -> None:
        self._run.timeline = timeline
        self._show()

    def _show(self, grid_alone: bool = False) -> None:
        """Draw the token looked at. If its record was overwritten since, the screen stays as it was."""
        timeline = self._run.timeline
        record = self._source.latest() if timeline.live else self._source.record(timeline.record)
        if record is not None and timeline.tokens:
            self._record = record
            number = (timeline.first_record or 0) + record.index if timeline.live else timeline.record
            self._before = self._source.record(number - 1) if record.index else None
            self._show_grid()
            if not grid_alone:
                self._candidates.show(candidate_bars(record, self._run.names), "No token could be chosen.")
                self._show_lens()
                self._show_words()
        if not grid_alone:
            self._show_place()

    def _show_grid(self) -> None:
        record, graph = self._record, self._grid.graph
        self._grid.border_title = pass_title(self._statistic, record)
        if record is not None and graph is not None:
            before = None if self._before is None else self._before.stats
            figures = figures_of(self._statistic, record.stats, record.stage_seconds, before)
            self._grid.show(figures, first_bad(graph, record.stats), notify=False)

    def _show_lens(self) -> None:
        """Show or hide what each layer would say next."""
        bars = [] if self._record is None else lens_bars(self._record, self._run.names)
        self._grid.show_lens(bars if self._lens else None, NO_LENS)

    def _show_place(self) -> None:
        timeline = self._run.timeline
        # While tokens come, the count stands in the line of screens: setting a title draws the whole pane again.
        title = "text" if timeline.live else f"text: {timeline.words()}"
        if title != self._text_title:
            self._text_title = self._text.border_title = title
        self._text.mark(timeline.at)
        self._token_line.show(self._signal, self._run.token, self._run.noise)
        self.detail(timeline.place)

    def _show_tints(self) -> None:
        self._text.tint(self._run.tints(self._signal))
        self._token_line.show(self._signal, self._run.token, self._run.noise)

    def _request_noise(self) -> None:
        """Have the noise measured once it is needed and the run is long enough."""
        needed = self._signal is TintSignal.FLIP_RISK and self._run.noise is None
        if needed and len(self._run.ids) >= FEWEST_TOKENS and not self._noise_requested:
            self._noise_requested = True
            self._source.measure_noise()

    def _poll(self) -> None:
        if self.is_replaced:
            return  # the events belong to the screen in its place
        for event in self._source.poll():
            self._handle(event)
        if self._source.written != self._records_shown:
            several = self._source.written - self._records_shown > 1
            self._records_shown, self._last_progress = self._source.written, time.monotonic()
            self._run.timeline = self._run.timeline.grown(self._records_shown, self._source.first_kept)
            self._request_noise()
            self._grid_alone = several and not self._grid_alone
            self._show(self._grid_alone) if self._run.timeline.live else self._show_place()
            self._stop_at_wanted_token()
        elif self._grid_alone:
            self._grid_alone = False
            self._show()
        if not self._grid_alone:
            self.query_one(StatusBar).status = Status(
                self._source.info,
                self._source.state,
                self._record,
                self._status_note(),
                self._pace,
                self._work,
                round(time.monotonic(), 1) if self._work else 0.0,
                "" if self._recording is None else f"recording {self._recording.path.name}",
            )

    def _status_note(self) -> str:
        """The latest note; while the user waits, with the time waited so far."""
        silent = time.monotonic() - self._last_progress
        if self._source.state is EngineState.LOADING:
            return f"{self._note or 'opening the model'}, {silent:.0f} s"
        if self._source.state is not EngineState.RUNNING or silent < PATIENCE:
            return self._note
        return f"{self._note or 'no token'} for {silent:.0f} s, ctrl+r restarts"

    def _show_note(self, note: str, failure: str = "", restart: bool = False) -> None:
        self._note, self._work = note, None
        if failure == self.failure:
            return  # an update of the box lays out the whole screen again, and would do so with every token
        self.failure = failure
        box = self.query_one("#failure", Static)
        box.update(f"{failure}\nPress ctrl+r to restart the engine." if restart else failure)
        box.display = bool(failure)

    def _handle(self, event: messages.Event) -> None:
        run = self._run
        match event:
            case messages.StepProgress(what, done, total):
                now = time.monotonic()
                begun = self._work or WorkProgress.new(what, done, total, now)
                self._work, self._last_progress = begun.taken(what, done, total, now), now
            case messages.Reopening() | messages.LoadingCancelled():
                self._last_progress = time.monotonic()
                self._show_note(NOT_LOADED if isinstance(event, messages.LoadingCancelled) else "")
            case messages.Loaded(info):
                self._loaded(info)
            case messages.Started(number) if number == self._generation:
                self._started(event)
            case messages.TokenNames(names, special):
                run.names.update(names)
                run.special.update(special)
            case messages.TokenText(run=number) if number == self._generation:
                self._show_note("")
                run.add(event)
                self._text.add(event.text, tint(self._signal, run.turns[-1].tokens[-1], run.noise))
            case messages.Paused() | messages.Resumed():
                self._show_note("")
            case messages.Finished(number, reason, tail) if number == self._generation:
                run.finish(tail)
                self._text.finish(tail)
                self._show_note(reason)
            case messages.Captured(directory):
                self._show_note("")
                self._captured(directory)
            case messages.NoiseMeasured(noise):
                self._show_note("")
                run.noise = noise
                self._show_tints()
            case messages.Declined(message):
                self._show_note("")
                self.notify(message, severity="warning")
            case messages.Failed(message, fatal):
                self._show_note("", message, restart=fatal)
            case _:
                # An event of a generation that a newer one has replaced.
                return

    def _started(self, event: messages.Started) -> None:
        assert self._request is not None
        self._show_note(f"evaluating {len(event.tokens) - event.kept} prompt tokens")
        self._last_progress, self._noise_requested = time.monotonic(), False
        self._run.begin(event, self._request)
        self._text.border_subtitle = sampling_title(self.sampling)
        show_turns(self._text, self._run, self._signal)
        if self._run.is_chat and self.prompt == self._run.turns[-1].said:
            self._editor.put("")

    def _show_prompt_kind(self) -> None:
        self.query_one("#prompt-kind", Label).update("chat ❯ " if self.chat else "prompt ❯ ")

    def _loaded(self, info: messages.EngineDescription) -> None:
        if self._grid.graph is None or self._grid.graph.config != info.graph:
            self._grid.open_graph(graph_for(info.graph), self._initial.node)
            self._expert_line.display = bool(info.graph.experts)
        self._show_note("")
        self._grid.mark_faults(map(fault_node, info.faults))
        self._show_prompt_kind()
        self._source.set_pace(self._pace)
        self._source.set_lens(self._lens)
        if self._generate_when_loaded and not self.is_typing:
            self._send_again()

    def _captured(self, directory: Path) -> None:
        self.notify(str(directory), title="Captured")
        remember(directory)
        if self.is_current:
            self.program.open_state(screen_state(ScreenName.BROWSE, at=directory))
