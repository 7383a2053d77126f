"""The half of the live screen that looks: which token, which statistic, which signal, with or without the lens."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from aprtui.engine.logit_noise import FEWEST_TOKENS
from aprtui.tui.draw.signals import Signal
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenState
from aprtui.tui.frame.tool_screen import ToolScreen
from aprtui.tui.screens.live.body import LiveBody
from aprtui.tui.screens.live.run import LiveRun
from aprtui.tui.screens.live.state import begins_with
from aprtui.tui.screens.live.timeline import Timeline
from aprtui.tui.widgets.stage_grid import StageGrid
from aprtui.tui.widgets.text_stream import TextStream


class LiveView(ToolScreen):
    """Shows a run as far as the records of its source are kept."""

    WIDGETS = (StageGrid,)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left_square_bracket,shift+left", "travel(-1)", "Token before", show=False, id="live.before"),
        Binding("right_square_bracket,shift+right", "travel(1)", "Token after", show=False, id="live.after"),
        Binding("left_curly_bracket", "travel(-10)", "Ten tokens before", show=False, id="live.before10"),
        Binding("right_curly_bracket", "travel(10)", "Ten tokens after", show=False, id="live.after10"),
        Binding("home", "oldest", "Oldest token that is kept", show=False, id="live.oldest"),
        Binding("end,G", "newest", "Newest token, as it comes", show=False, id="live.newest"),
        Binding("m", "statistic", "Next statistic of the grid", show=False, id="live.statistic"),
        Binding("t", "tint", "Next signal that tints the text", show=False, id="live.tint"),
        Binding("v", "lens", "Logit lens on or off", show=False, id="live.lens"),
    ]

    def __init__(self, session: Session, state: ScreenState) -> None:
        super().__init__(session, state)
        self._source = session.source
        self._begin = begins_with(state, session.source.settings, session.sampling)
        self._wanted_token = self._begin.token
        self._run = LiveRun()
        self._body = LiveBody(self._run, self._begin, session)
        self._asked_noise = False

    def on_stage_grid_pointed(self) -> None:
        """Put the node under the cursor into words, and find its layer in the lens."""
        self._say_node()
        self._body.show_lens()
        self._body.point_contracts()

    def action_contracts(self) -> None:
        """Show or hide what contracts say about the stage; a wide screen always shows it."""
        self._body.toggle_class("-contracts")

    def on_text_stream_pointed(self, event: TextStream.Pointed) -> None:
        """Look at the token that was clicked on."""
        self._look(self._run.timeline.at_token(event.token))

    def on_text_stream_selected(self, event: TextStream.Selected) -> None:
        """Copy the text that the mouse was dragged over."""
        self.copy_text(event.text)

    def action_travel(self, by: int) -> None:
        """Look at an earlier or later token."""
        self._look(self._run.timeline.moved(by))

    def action_oldest(self) -> None:
        """Look at the oldest token whose record is kept."""
        self._look(self._run.timeline.at_token(0))

    def action_newest(self) -> None:
        """Look at the newest token, whichever it is."""
        self._look(self._run.timeline.to_live())

    def action_statistic(self) -> None:
        """Show another statistic."""
        self._body.statistic = self._body.statistic.following
        self._body.show_grid()
        self._say_node()

    def action_tint(self) -> None:
        """Tint the text by another signal."""
        self._body.signal = self._body.signal.following
        self._ask_noise()
        self._body.show_tints()

    def action_lens(self) -> None:
        """Compute the logit lens, or no longer."""
        self._body.lens = not self._body.lens
        self._source.set_lens(self._body.lens)
        self._body.show_lens()

    def _reach_wanted_token(self) -> None:
        """Rest at the token that the screen's state asked for."""
        if self._wanted_token is not None and self._run.timeline.tokens > self._wanted_token + 1:
            self._source.pause()
            self._look(self._run.timeline.at_token(self._wanted_token))
            self._wanted_token = None

    def _say_node(self) -> None:
        self.say(self._body.words(self.size.width - 2))

    def _look(self, timeline: Timeline) -> None:
        """Look at another token of the run."""
        self._run.timeline = timeline
        self._show()

    def _show(self, grid_alone: bool = False) -> None:
        """Draw what is looked at. A record that was overwritten since stays on the screen as it was."""
        timeline = self._run.timeline
        record = self._source.latest() if timeline.live else self._source.record(timeline.record)
        if record is not None and timeline.tokens:
            before = self._source.record(timeline.first_record + record.index - 1) if record.index else None
            self._body.show_pass(record, before, grid_alone)
            if not grid_alone:
                self._say_node()
        if not grid_alone:
            self._show_place()

    def _show_place(self) -> None:
        """Say where in the run one looks."""
        self._body.show_place()
        self.detail(self._run.timeline.place)

    def _ask_noise(self) -> None:
        """Have the noise measured when it is first needed and can be."""
        enough = len(self._run.ids) >= FEWEST_TOKENS
        if self._body.signal is Signal.FLIP_RISK and self._run.noise is None and enough and not self._asked_noise:
            self._asked_noise = True
            self._source.measure_noise()
